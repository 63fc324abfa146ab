"""Idle and full-load watts of this machine, by a sensor that it has now, for the estimate where it has none."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from nodes.probes import Probe, ProbeError, try_probe

SETTLE_S = 1.0  # clocks and fans need a moment after a change of load


@dataclass(frozen=True)
class Calibration:
    """`idle_w` is the mean of before and after; far apart, something else ran or the machine was still warm."""

    idle_w: float
    full_w: float
    idle_before_w: float
    idle_after_w: float
    probe: str
    status: str
    scope: str


@contextmanager
def busy_cores() -> Iterator[None]:
    """Every core of this process's computes until the block ends."""
    cores = len(os.sched_getaffinity(0))
    children = [subprocess.Popen([sys.executable, "-c", "while True: sum(range(10**5))"]) for _ in range(cores)]
    try:
        yield
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.wait()


def calibrate(
    probe: Probe, seconds: float = 10.0, load: Callable[[], AbstractContextManager[None]] = busy_cores
) -> Calibration:
    """Watts at rest, under load on all cores, and at rest again, `seconds` each; closes the probe.

    Raises ProbeError where the probe does not measure, with its remedy, or gave nothing in that time.
    """
    finding = try_probe(probe)
    try:
        if finding.status != "measured" or finding.scope not in ("node", "cpu"):
            raise ProbeError(f"{finding.probe} is {finding.status}: {finding.detail}. {finding.remedy}".strip())
        counted = {channel.name for channel in finding.channels if channel.total}
        before_w = _mean_w(probe, counted, seconds)
        with load():
            time.sleep(SETTLE_S)
            full_w = _mean_w(probe, counted, seconds)
        time.sleep(SETTLE_S)
        after_w = _mean_w(probe, counted, seconds)
    finally:
        probe.close()
    idle_w = (before_w + after_w) / 2
    return Calibration(idle_w, full_w, before_w, after_w, finding.probe, finding.status, finding.scope)


def _mean_w(probe: Probe, counted: set[str], seconds: float) -> float:
    """Reads all the while: a sensor of watts is integrated by being read."""
    start_s, start_j = _joules(probe, counted)
    end_s = start_s
    while end_s - start_s < seconds:
        time.sleep(max(0.05, probe.every_ms / 1e3))
        end_s, end_j = _joules(probe, counted)
    return (end_j - start_j) / (end_s - start_s)


def _joules(probe: Probe, counted: set[str]) -> tuple[float, float]:
    before_s = time.monotonic()
    joules = {reading.channel: reading.value for reading in probe.read() if reading.channel in counted}
    if len(joules) < len(counted):
        raise ProbeError(f"{probe.name} stopped giving {', '.join(sorted(counted - set(joules)))}")
    return (before_s + time.monotonic()) / 2, sum(joules.values())
