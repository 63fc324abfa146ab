"""Compute, not power: CPU seconds per process and core, memory, context switches, network bytes, frequency,
heat.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from nodes.probes import Channel, Finding, Probe, Reading
from nodes.probes.cpu import CpuTimes, Gauges, ProcessFiles, named_pids

LATER_S = 0.5  # memory, switches and network: a system call each, and on an idle core each costs 20 us
SLOW_S = 1.0  # frequency and temperature change the least


class PsutilTrace(Probe):
    """`pids`: processes beside this one, by label or bare. Network counters are those of the namespace of
    `net_pid` (this process by default). Context switches are of a process's main thread, which is what Linux
    publishes."""

    name = "psutil_trace"

    def __init__(
        self,
        pids: Mapping[str, int] | Sequence[int] = (),
        net_pid: int | None = None,
        every_ms: float = 100.0,
        root: str | Path = "/sys",
    ) -> None:
        self.throttles = Path(root, "devices/system/cpu/cpu0/thermal_throttle/package_throttle_count")
        self.every_ms = every_ms
        self.processes: dict[str, ProcessFiles] = {}
        self.gone: list[str] = []
        for label, pid in {"self": os.getpid(), **named_pids(pids)}.items():
            try:
                self.processes[label] = ProcessFiles(label, pid)
            except OSError:
                self.gone.append(label)
        self.cpu_times, self.gauges = CpuTimes(), Gauges(Path(root))
        net = Path(f"/proc/{net_pid or 'self'}/net/dev")
        self.net_fd = os.open(net, os.O_RDONLY) if net.exists() else -1
        self.later_due_s = self.slow_due_s = 0.0

    def trial(self) -> Finding:
        self.later_due_s = self.slow_due_s = 0.0
        channels = tuple(Channel(r.channel, r.unit, r.status) for r in self.read())
        self.later_due_s = self.slow_due_s = 0.0
        detail = f"{len(self.processes)} process(es), {psutil.cpu_count()} cores"
        if self.gone:
            detail += f"; not running: {', '.join(self.gone)}"
        resolution_ms = max(10.0, self.every_ms)
        return Finding(self.name, "measured", detail, resolution_ms=resolution_ms, channels=channels)

    def read(self) -> list[Reading]:
        values: list[tuple[str, float, str]] = []
        now_s = time.monotonic()
        later = now_s >= self.later_due_s
        for process in self.processes.values():
            try:
                values += process.cpu()
                values += process.status() if later else []
            except OSError:
                continue  # ended: its channels stop, which the trace shows
        if later:
            self.later_due_s = now_s + LATER_S
            for core, (busy_s, steal_s) in enumerate(self.cpu_times.cores_s()):
                values += [(f"cpu{core}.busy", busy_s, "s"), (f"cpu{core}.steal", steal_s, "s")]
            values += self._network()
        if now_s >= self.slow_due_s:
            self.slow_due_s = now_s + SLOW_S
            values += self._frequency_and_heat()
        return [Reading(channel, float(value), unit, "measured") for channel, value, unit in values]

    def _network(self) -> list[tuple[str, float, str]]:
        if self.net_fd < 0:
            return []
        values: list[tuple[str, float, str]] = []
        for line in os.pread(self.net_fd, 1 << 16, 0).splitlines()[2:]:
            name, _, counters = line.partition(b":")
            fields, interface = counters.split(None, 9), name.decode().strip()
            values.append((f"{interface}.rx", int(fields[0]), "bytes"))
            values.append((f"{interface}.tx", int(fields[8]), "bytes"))
        return values

    def _frequency_and_heat(self) -> list[tuple[str, float, str]]:
        values = self.gauges.read()
        if self.throttles.exists():
            values.append(("cpu.throttles", int(self.throttles.read_text()), "count"))
        return values

    def close(self) -> None:
        self.cpu_times.close()
        self.gauges.close()
        for process in self.processes.values():
            process.close()
        self.processes = {}
        if self.net_fd >= 0:
            os.close(self.net_fd)
            self.net_fd = -1
