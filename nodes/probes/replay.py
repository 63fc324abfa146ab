"""Plays a recorded trace again, at its own pace: for tests, and to try a report on a machine without
sensors."""

from __future__ import annotations

import statistics
import time
from bisect import bisect_right
from itertools import groupby, pairwise
from operator import attrgetter
from pathlib import Path

from nodes.probes import Channel, Finding, Probe, ProbeError, Reading
from nodes.probes.sampler import Sample, read_samples

Track = tuple[Channel, list[float], list[float]]  # channel, seconds, values


class Replay(Probe):
    """`path`: a power.<node>.jsonl; `probe`: which of its probes, the one that counted by default.

    The joules once were what they were then; now they are a model, and say so. After its last sample it is
    silent.
    """

    name = "replay"

    def __init__(self, path: str | Path = "", probe: str = "") -> None:
        self.path, self.probe = Path(path), probe
        self.tracks: list[Track] = []

    def trial(self) -> Finding:
        if not self.path.is_file():
            return Finding(self.name, "unsupported", "no recorded trace declared", "give path=power.NODE.jsonl")
        try:
            samples = [s for s in read_samples(self.path) if (s.probe == self.probe if self.probe else s.total)]
        except ProbeError as error:
            return Finding(self.name, "unsupported", str(error), "give a file that a sampler wrote")
        if not samples:
            return Finding(
                self.name,
                "unsupported",
                f"{self.path} has no samples of {self.probe or 'a total'}",
                "name one of its probes: probe=NAME",
            )
        start_ns = min(s.t_ns for s in samples)
        samples.sort(key=attrgetter("probe", "channel", "t_ns"))
        self.tracks = [_track(list(group), start_ns) for _, group in groupby(samples, attrgetter("probe", "channel"))]
        self.start_s = time.monotonic()
        channels = tuple(channel for channel, _, _ in self.tracks)
        counted = any(channel.total for channel in channels)
        steps_s = [later - earlier for earlier, later in pairwise(self.tracks[0][1])]
        step_ms = statistics.median(steps_s) * 1e3 if steps_s else 1.0
        return Finding(
            self.name, "modelled", f"a recording, {self.path.name}", "", step_ms, "node" if counted else "", channels
        )

    def read(self) -> list[Reading]:
        now_s = time.monotonic() - self.start_s
        return [
            Reading(channel.name, _between(now_s, seconds, values), channel.unit, "modelled")
            for channel, seconds, values in self.tracks
            if seconds[0] <= now_s <= seconds[-1]
        ]


def _track(samples: list[Sample], start_ns: int) -> Track:
    first = samples[0]
    seconds = [(s.t_ns - start_ns) / 1e9 for s in samples]
    channel = Channel(first.channel, first.unit, "modelled", first.total, first.renewed_ms)
    return channel, seconds, [s.value for s in samples]


def _between(at_s: float, seconds: list[float], values: list[float]) -> float:
    """The straight line between the two samples around `at_s`, which is not outside them."""
    after = bisect_right(seconds, at_s)
    if after == len(seconds):
        return values[-1]
    (s0, s1), (v0, v1) = seconds[after - 1 : after + 1], values[after - 1 : after + 1]
    return v0 + (v1 - v0) * (at_s - s0) / (s1 - s0)
