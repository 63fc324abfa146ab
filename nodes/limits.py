"""Holds this process to a part of its machine, so that a server can stand in for a slower device.

`cpus` by affinity, which every Linux allows; `cpu_share` by a cgroup v2 quota, which needs a cgroup that this process
may make and whose parent hands out the cpu controller; `cpu_max_mhz` by cpufreq, which machines of metal have and root
may set. What cannot be held is refused, never approximated.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nodes.frequency import FrequencyCap, FrequencyError

log = logging.getLogger("dssd.limits")
PERIOD_US = 20_000  # of the quota; the kernel's 100 ms would freeze a device for longer than a round trip
LEAST_QUOTA_US = 1_000  # that the kernel sets
LEAST_SHARE = LEAST_QUOTA_US / PERIOD_US
PREFIX = "dssd-"
REMEDY = (
    "run it where cgroups hand out cpu (`systemd-run --user --scope -p CPUWeight=100 dssd run ...`), or as root after "
    "`echo +cpu > /sys/fs/cgroup/cgroup.subtree_control`, or hold the device to whole cores with device.cpus"
)


class LimitError(RuntimeError):
    """This machine cannot hold the process to what was declared; the message names why and what would."""


@contextmanager
def limited(
    cpus: Sequence[int] = (),
    cpu_share: float | None = None,
    cpu_max_mhz: float | None = None,
    root: Path = Path("/"),
) -> Iterator[dict[str, Any]]:
    """Until the block ends this process has `cpus` (empty: all it had), `cpu_share` seconds of CPU a second, and on
    its cores a clock of `cpu_max_mhz` at most. Yields what holds, as read back. Raises LimitError. Threads that are
    there already are held too."""
    before = os.sched_getaffinity(0)
    group, cap = None, None
    try:
        if cpus:
            _have(cpus)
        if cpu_share is not None:
            group = _Quota(root, cpu_share)
        mine = sorted(os.sched_getaffinity(0))
        if cpu_max_mhz is not None:
            cap = _capped(cpu_max_mhz, mine, root)
        yield {
            "cpus": mine,
            "cpu_share": cpu_share,
            "cpu_max": group.read() if group else "",
            "cpu_max_mhz": cpu_max_mhz,
            "frequency": cap.read() if cap else {},
        }
    finally:
        if cap and (left := cap.release()):
            log.error("the clock's old cap could not be written back to %s", ", ".join(left))
        if cpus:
            _set_affinity(before)
        if group:
            group.leave()


def _have(cpus: Sequence[int]) -> None:
    missing = sorted(set(cpus) - os.sched_getaffinity(0))
    if missing:
        there = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
        raise LimitError(f"device.cpus: this process has no core {', '.join(map(str, missing))}; it has: {there}")
    _set_affinity(set(cpus))


def _capped(cpu_max_mhz: float, cpus: Sequence[int], root: Path) -> FrequencyCap:
    try:
        return FrequencyCap(cpu_max_mhz, cpus, root)
    except FrequencyError as error:
        raise LimitError(f"device.cpu_max_mhz: {error}") from None


def _set_affinity(cpus: set[int]) -> None:
    for task in Path("/proc/self/task").iterdir():
        try:
            os.sched_setaffinity(int(task.name), cpus)
        except ProcessLookupError:  # a thread that has just ended
            continue


class _Quota:
    """A cgroup of this process's own with `cpu.max`, as near to where it was as the system lets it be made."""

    def __init__(self, root: Path, cpu_share: float) -> None:
        mount = _cgroup2_mount(root)
        if mount is None:
            raise LimitError(f"device.cpu_share: no cgroup v2 is mounted here; {REMEDY}")
        self.home = mount / _own_group(root).lstrip("/")
        refusals = []
        for parent in [self.home, *self.home.parents]:
            refused = self._enter(parent, cpu_share)
            if refused is None:
                return
            refusals.append(f"{parent}: {refused}")
            if parent == mount:
                break
        raise LimitError(f"device.cpu_share: no CPU quota can be set ({'; '.join(refusals)}); {REMEDY}")

    def _enter(self, parent: Path, cpu_share: float) -> str | None:
        """Why not, or None."""
        self.group = parent / f"{PREFIX}{os.getpid()}"
        try:
            if "cpu" not in (parent / "cgroup.subtree_control").read_text().split():
                return "does not hand out cpu"
            _sweep(parent)
            self.group.mkdir()
        except OSError as error:
            return error.strerror or str(error)
        try:
            (self.group / "cpu.max").write_text(f"{round(cpu_share * PERIOD_US)} {PERIOD_US}")
            (self.group / "cgroup.procs").write_text(str(os.getpid()))
        except OSError as error:
            self.group.rmdir()
            return error.strerror or str(error)
        return None

    def read(self) -> str:
        return (self.group / "cpu.max").read_text().strip()

    def leave(self) -> None:
        try:
            (self.home / "cgroup.procs").write_text(str(os.getpid()))
            self.group.rmdir()
        except OSError as error:  # the next process that is limited sweeps it away
            log.warning("cannot remove %s: %s", self.group, error.strerror)


def _sweep(parent: Path) -> None:
    """Groups of processes that were killed. One that is in use cannot be removed."""
    for group in parent.glob(f"{PREFIX}*"):
        try:
            group.rmdir()
        except OSError:
            continue


def _cgroup2_mount(root: Path) -> Path | None:
    for line in (root / "proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.split()[:1] == ["cgroup2"]:
            return root / fields.split()[4].lstrip("/")
    return None


def _own_group(root: Path) -> str:
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return line[3:]
    return "/"
