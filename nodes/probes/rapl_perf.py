"""RAPL through perf events: the same counters as powercap's, where those files are closed and perf is
open."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import struct
import time
from pathlib import Path

from nodes.probes import Channel, Finding, Probe, Reading
from nodes.probes.rapl import SETTLE_S, TICK_MS

PERF_EVENT_OPEN = {"x86_64": 298, "AMD64": 298, "aarch64": 241}  # system call numbers
CLOSE_ON_EXEC = 8
ONE_A_PACKAGE = re.compile(r"\bven(0002|0009)fam")  # AMD and Hygon, as Linux numbers those who make processors
DOMAINS = {"energy-pkg": "", "energy-cores": ".core", "energy-gpu": ".uncore", "energy-ram": ".dram"}


class RaplPerf(Probe):
    """`root` is the folder of the kernel's `power` event source, `cpus` that of its processors. The kernel extends the
    counters to 64 bits, so there is no wrap to mend. Which channels count is as in the probe `rapl`.
    """

    name = "rapl_perf"

    def __init__(
        self,
        root: str | Path = "/sys/bus/event_source/devices/power",
        count_dram: bool = False,
        cpus: str | Path = "/sys/devices/system/cpu",
    ) -> None:
        self.root, self.count_dram, self.cpus = Path(root), count_dram, Path(cpus)
        self.counters: dict[str, tuple[int, float, int]] = {}  # label: descriptor, joules a step, start

    def trial(self) -> Finding:
        self.close()
        events = sorted(path for path in self.root.glob("events/energy-*") if path.suffix == "")
        if not events:
            return Finding(
                self.name,
                "unsupported",
                f"no energy events in {self.root}",
                "sudo modprobe rapl (virtual machines and Arm boards have no RAPL)",
            )
        try:
            for event in events:
                self._open(event)
        except PermissionError as error:
            self.close()
            remedy = "sudo sysctl kernel.perf_event_paranoid=0 (or give Python CAP_PERFMON)"
            return Finding(self.name, "denied", str(error), remedy)
        except (OSError, ValueError) as error:
            self.close()
            return Finding(self.name, "unsupported", str(error), "use the probe rapl")
        time.sleep(SETTLE_S)
        channels = tuple(Channel(label, "j", "measured", self._counts(label)) for label in self.counters)
        moved = {reading.channel for reading in self.read() if reading.value > 0}
        if not any(channel.total and channel.name in moved for channel in channels):
            self.close()
            return Finding(
                self.name,
                "unsupported",
                "its package counters stand still",
                "read the host's counters if this is a virtual machine",
            )
        return Finding(self.name, "measured", ", ".join(self.counters), "", TICK_MS, "cpu", channels)

    def read(self) -> list[Reading]:
        return [
            Reading(label, (_count(fd) - start) * step_j, "j", "measured")
            for label, (fd, step_j, start) in self.counters.items()
        ]

    def close(self) -> None:
        for fd, _, _ in self.counters.values():
            os.close(fd)
        self.counters = {}

    def _open(self, event: Path) -> None:
        """One counter per package (of Intel's: per die). Raises PermissionError, OSError or ValueError."""
        kind = int((self.root / "type").read_text())
        config = int(event.read_text().strip().removeprefix("event="), 0)
        step_j = float(Path(f"{event}.scale").read_text())
        for package, cpu in enumerate(self._one_a_counter(_cpus((self.root / "cpumask").read_text()))):
            label = "psys" if event.name == "energy-psys" else f"package-{package}{DOMAINS[event.name]}"
            if label not in self.counters:
                fd = _perf_event_open(kind, config, cpu)
                self.counters[label] = fd, step_j, _count(fd)

    def _one_a_counter(self, mask: list[int]) -> list[int]:
        """The CPUs to read at. Linux 6.9 and 6.10 name one for each die of a Zen 4, all of which show the package's
        counter; dies of Intel's have counters of their own. Values would not tell: perf counts from 0 for each reader.
        """
        if not ONE_A_PACKAGE.search((self.cpus / "modalias").read_text()):
            return mask
        first: dict[str, int] = {}
        for cpu in mask:
            first.setdefault((self.cpus / f"cpu{cpu}/topology/physical_package_id").read_text(), cpu)
        return list(first.values())

    def _counts(self, label: str) -> bool:
        return label.startswith("package") and ("." not in label or (self.count_dram and ".dram" in label))


def _cpus(mask: str) -> list[int]:
    """The CPUs of a list such as `0,28` or `0-3`."""
    ends = [part.split("-") for part in mask.strip().split(",")]
    return [cpu for end in ends for cpu in range(int(end[0]), int(end[-1]) + 1)]


def _perf_event_open(kind: int, config: int, cpu: int) -> int:
    """A counter of all processes on one CPU. Raises OSError."""
    attributes = struct.pack("IIQ", kind, 64, config).ljust(64, b"\0")  # 64: the first version of the struct
    number = PERF_EVENT_OPEN.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"perf events are not known for {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(number, attributes, -1, cpu, -1, CLOSE_ON_EXEC)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"perf_event_open: {os.strerror(code)}")
    return fd


def _count(fd: int) -> int:
    return struct.unpack("Q", os.read(fd, 8))[0]
