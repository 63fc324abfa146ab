"""Plays a recorded trace again, at its own pace: for tests, and to try a report on a machine without
sensors."""

from __future__ import annotations

import time
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import numpy as np

from nodes.probes import Channel, Finding, Probe, ProbeError, Reading
from nodes.probes.sampler import Sample, read_samples


class Replay(Probe):
    """`path`: a power.<node>.jsonl; `probe`: which of its probes, the one that counted by default.

    The joules once were what they were then; now they are a model, and say so. After its last sample it is
    silent.
    """

    name = "replay"

    def __init__(self, path: str | Path = "", probe: str = "") -> None:
        self.path, self.probe = Path(path), probe
        self.tracks: list[tuple[Channel, np.ndarray, np.ndarray]] = []     # channel, seconds, values

    def trial(self) -> Finding:
        if not self.path.is_file():
            return Finding(self.name, "unsupported", "no recorded trace declared", "give path=power.NODE.jsonl")
        try:
            samples = [s for s in read_samples(self.path) if (s.probe == self.probe if self.probe else s.total)]
        except ProbeError as error:
            return Finding(self.name, "unsupported", str(error), "give a file that a sampler wrote")
        if not samples:
            return Finding(self.name, "unsupported", f"{self.path} has no samples of {self.probe or 'a total'}",
                           "name one of its probes: probe=NAME")
        start_ns = min(s.t_ns for s in samples)
        samples.sort(key=attrgetter("probe", "channel", "t_ns"))
        self.tracks = [_track(list(group), start_ns) for _, group in groupby(samples, attrgetter("probe", "channel"))]
        self.start_s = time.monotonic()
        channels = tuple(channel for channel, _, _ in self.tracks)
        counted = any(channel.total for channel in channels)
        step_ms = float(np.median(np.diff(self.tracks[0][1]))) * 1e3 if len(self.tracks[0][1]) > 1 else 1.0
        return Finding(self.name, "modelled", f"a recording, {self.path.name}", "", step_ms,
                       "node" if counted else "", channels)

    def read(self) -> list[Reading]:
        now_s = time.monotonic() - self.start_s
        return [
            Reading(channel.name, float(np.interp(now_s, seconds, values)), channel.unit, "modelled")
            for channel, seconds, values in self.tracks
            if seconds[0] <= now_s <= seconds[-1]
        ]


def _track(samples: list[Sample], start_ns: int) -> tuple[Channel, np.ndarray, np.ndarray]:
    first = samples[0]
    seconds = np.array([(s.t_ns - start_ns) / 1e9 for s in samples])
    return Channel(first.channel, first.unit, "modelled", first.total), seconds, np.array([s.value for s in samples])
