"""How the kernel counts CPU time: of a process in nanoseconds, of the machine in steps of 10 ms."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil

from nodes.probes import numbered
from nodes.probes.hwmon import chips


def cpu_clock(pid: int) -> int:
    """The kernel's CPU clock of a process, for time.clock_gettime: all its threads, in nanoseconds, no
    privilege.

    psutil's and /proc's counts of the same move in steps of 10 ms. The number is Linux's own (man
    clock_getcpuclockid).
    """
    return (~pid << 3) | 2


def cpu_seconds(pid: int) -> float:
    """CPU seconds a process has used. Raises OSError when it is gone."""
    return time.clock_gettime_ns(cpu_clock(pid)) / 1e9


class CpuTimes:
    """Busy and stolen CPU seconds of the machine and of each core, in the kernel's steps of 10 ms.

    From a descriptor that stays open where there is one: a quarter of psutil's cost on a cold cache.
    """

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self.fd = os.open(stat, os.O_RDONLY) if stat.exists() else -1
        self.tick_s = 1 / os.sysconf("SC_CLK_TCK")

    def machine_s(self) -> float:
        """Seconds in which cores worked, summed over them."""
        if self.fd < 0:
            return _busy_s(psutil.cpu_times())
        return self._busy_and_steal(os.pread(self.fd, 256, 0).splitlines()[0])[0]

    def cores_s(self) -> list[tuple[float, float]]:
        """(busy, steal) seconds of each core."""
        if self.fd < 0:
            return [(_busy_s(core), getattr(core, "steal", 0.0)) for core in psutil.cpu_times(percpu=True)]
        stat = os.pread(self.fd, 1 << 16, 0)
        cores = stat[: stat.index(b"\nintr")].splitlines()[1:]  # what follows them is the longer part
        return [self._busy_and_steal(line) for line in cores]

    def _busy_and_steal(self, line: bytes) -> tuple[float, float]:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, line.split()[1:9])
        return (user + nice + system + irq + softirq) * self.tick_s, steal * self.tick_s  # guest is in user

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Gauges:
    """Clock frequency and temperatures of this /sys, through descriptors that stay open: to look for them each time, as
    psutil does, costs as much as everything else that is sampled in a second."""

    def __init__(self, root: Path, cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
        self.frequencies = _opened(root.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
        self.cpuinfo = [] if self.frequencies else _opened([cpuinfo])
        sensors = [path for chip in chips(root) for path in sorted(chip.glob("temp*_input"))]
        sensors = sensors or sorted(root.glob("class/thermal/*/temp"))
        names = numbered(map(_sensor_name, sensors))
        self.heat = [(name, fd) for name, path in zip(names, sensors) for fd in _opened([path])]

    def read(self) -> list[tuple[str, float, str]]:
        """The mean frequency of the cores, and every sensor that answers now."""
        values: list[tuple[str, float, str]] = []
        hertz = [khz * 1e3 for fd in self.frequencies if (khz := _number(fd)) is not None]
        for fd in self.cpuinfo:
            lines = os.pread(fd, 1 << 20, 0).splitlines()
            hertz += [float(line.partition(b":")[2]) * 1e6 for line in lines if line.startswith(b"cpu MHz")]
        if hertz:
            values.append(("cpu.frequency", sum(hertz) / len(hertz), "hz"))
        values += [(name, milli / 1e3, "c") for name, fd in self.heat if (milli := _number(fd)) is not None]
        return values

    def close(self) -> None:
        for fd in [*self.frequencies, *self.cpuinfo, *(fd for _, fd in self.heat)]:
            os.close(fd)
        self.frequencies, self.cpuinfo, self.heat = [], [], []


def _opened(paths: Iterable[Path]) -> list[int]:
    fds = []
    for path in paths:
        try:
            fds.append(os.open(path, os.O_RDONLY))
        except OSError:
            continue
    return fds


def _number(fd: int) -> int | None:
    try:
        return int(os.pread(fd, 32, 0))
    except (OSError, ValueError):  # a sensor that sleeps
        return None


def _sensor_name(path: Path) -> str:
    """`coretemp.Core 0`, `cpu-thermal.0`: the chip's name, and its label or place."""
    chip, sensor = path.parent, path.name.partition("_")[0]
    if sensor == "temp":
        return f"{(chip / 'type').read_text().strip()}.{chip.name.removeprefix('thermal_zone')}"
    label = chip / f"{sensor}_label"
    place = label.read_text().strip() if label.exists() else str(int(sensor.removeprefix("temp")) - 1)
    return f"{(chip / 'name').read_text().strip()}.{place}"


def _busy_s(times: object) -> float:
    return sum(getattr(times, part, 0.0) for part in ("user", "nice", "system", "irq", "softirq"))


def named_pids(pids: Mapping[str, int] | Sequence[int]) -> dict[str, int]:
    """`{label: pid}`; a bare pid is labelled by its number."""
    return dict(pids) if isinstance(pids, Mapping) else {f"pid{pid}": pid for pid in pids}


class ProcessFiles:
    """A process through a descriptor that stays open: a third of psutil's cost on a cold cache."""

    def __init__(self, label: str, pid: int) -> None:
        self.pid = pid
        self.fd = os.open(f"/proc/{pid}/status", os.O_RDONLY)
        self.names = [f"{label}.{what}" for what in ("cpu", "rss", "switches_voluntary", "switches_involuntary")]

    def cpu(self) -> list[tuple[str, float, str]]:
        """Raises OSError when the process has ended."""
        return [(self.names[0], cpu_seconds(self.pid), "s")]

    def status(self) -> list[tuple[str, float, str]]:
        """Memory and context switches. Raises OSError when the process has ended."""
        status = os.pread(self.fd, 8192, 0)
        at = status.find(b"VmRSS:")
        if at < 0:  # a zombie has no memory any more
            raise ProcessLookupError(f"process {self.pid} has ended")
        _, voluntary, _, involuntary = status[status.index(b"\nvoluntary_ctxt", at) :].split()[:4]
        _, rss, voluntarily, involuntarily = self.names
        return [
            (rss, int(status[at + 6 : status.index(b"kB", at)]) * 1024, "bytes"),
            (voluntarily, int(voluntary), "count"),
            (involuntarily, int(involuntary), "count"),
        ]

    def close(self) -> None:
        os.close(self.fd)
