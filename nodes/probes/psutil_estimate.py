"""Power from utilisation: declared idle and full-load watts, and how busy the CPU was. An estimate, and says
so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import psutil

from nodes.probes import Channel, Finding, Probe, Reading
from nodes.probes.cpu import CpuTimes, cpu_seconds, named_pids


class PsutilEstimate(Probe):
    """joules = idle_w x elapsed + (full_w - idle_w) x CPU seconds / cores: the integral of idle + (full -
    idle) x utilisation, without a sampling error of its own.

    `idle_w`, `full_w`: the node at rest and with all its cores busy, from its datasheet or a meter. `pids`:
    count the CPU of these processes only (a node that shares its machine); otherwise that of the whole
    machine. `cores`: how many the node has, the machine's by default. A process's CPU time stops counting
    when it ends, its joules stay.
    """

    name = "psutil_estimate"

    def __init__(
        self,
        idle_w: float | None = None,
        full_w: float | None = None,
        pids: Mapping[str, int] | Sequence[int] = (),
        cores: int | None = None,
    ) -> None:
        self.idle_w, self.full_w = idle_w, full_w
        self.pids = named_pids(pids)
        self.cores = cores or psutil.cpu_count() or 1
        self.cpu_times = CpuTimes()
        self.seen_s: dict[str, float] = {}
        self.start_s, self.start_cpu_s = time.monotonic(), self._cpu_s()

    def trial(self) -> Finding:
        if self.idle_w is None or self.full_w is None:
            remedy = "declare the node's idle_w and full_w (datasheet, or a meter at rest and at full load)"
            return Finding(self.name, "unsupported", "no watts declared, and none are assumed", remedy)
        if not 0 <= self.idle_w <= self.full_w:
            detail = f"idle_w {self.idle_w}, full_w {self.full_w}: not 0 <= idle_w <= full_w"
            return Finding(self.name, "unsupported", detail, "declare watts that can be")
        of = f"processes {', '.join(self.pids)}" if self.pids else "the machine"
        detail = f"{self.idle_w} W idle, {self.full_w} W at {self.cores} busy cores, CPU of {of}"
        return Finding(
            self.name,
            "estimated",
            detail,
            resolution_ms=1.0 if self.pids else 10.0,  # scheduler's clock, or the kernel's 100 Hz count
            scope="process" if self.pids else "node",
            channels=(Channel("node", "j", "estimated", total=True), Channel("cpu", "s", "estimated")),
        )

    def read(self) -> list[Reading]:
        assert self.idle_w is not None and self.full_w is not None
        cpu_s = self._cpu_s() - self.start_cpu_s
        elapsed_s = time.monotonic() - self.start_s
        joules = self.idle_w * elapsed_s + (self.full_w - self.idle_w) * cpu_s / self.cores
        return [Reading("node", joules, "j", "estimated"), Reading("cpu", cpu_s, "s", "estimated")]

    def _cpu_s(self) -> float:
        if not self.pids:
            return self.cpu_times.machine_s()
        for label, pid in self.pids.items():
            try:
                self.seen_s[label] = cpu_seconds(pid)
            except OSError:
                self.seen_s.setdefault(label, 0.0)
        return sum(self.seen_s.values())

    def close(self) -> None:
        self.cpu_times.close()
