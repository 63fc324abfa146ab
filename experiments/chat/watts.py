"""What both nodes draw now: the samplers' traces, read as they grow.

`Watts(folder).now()` is the mean power over about a second up to the newest reading, of the probes whose joules count
(nodes/probes), by node. A node without such a probe has none: nothing is made up.
"""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WINDOW_NS = 1_000_000_000
BETWEEN_S = 0.2


@dataclass
class Counter:
    """One channel of joules: (t_ns, joules) of about the last second."""

    readings: deque[tuple[int, float]] = field(default_factory=deque)

    def add(self, t_ns: int, joules: float) -> None:
        self.readings.append((t_ns, joules))
        while len(self.readings) > 2 and self.readings[1][0] <= t_ns - WINDOW_NS:
            self.readings.popleft()

    @property
    def watts(self) -> float | None:
        if len(self.readings) < 2:
            return None
        (from_ns, from_j), (to_ns, to_j) = self.readings[0], self.readings[-1]
        return (to_j - from_j) / ((to_ns - from_ns) / 1e9)


class Trace:
    """One node's file, from wherever it was left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.node = path.name.split(".")[1]
        self.source: dict[str, Any] = {}  # which probes count, their status, and why these
        self._read = 0
        self._columns: list[list[list[Any]]] = []
        self._counters: dict[tuple[int, int], Counter] = {}

    def watts(self) -> float | None:
        """The sum over its channels; None while there is nothing to go by."""
        self._catch_up()
        watts = [counter.watts for counter in self._counters.values()]
        known = [value for value in watts if value is not None]
        return sum(known) if known and len(known) == len(watts) else None

    def _catch_up(self) -> None:
        with self.path.open("rb") as file:
            file.seek(self._read)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(newline)
        for line in whole.splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # what a sampler that was killed left, before the next one's header
                continue
            if "header" in record:
                self.source = record["header"]["energy_source"]
                self._columns, self._counters = record["header"]["columns"], {}
            elif "v" in record:
                self._take(record)

    def _take(self, record: dict[str, Any]) -> None:
        columns = self._columns[record["p"]]
        for i, ((_, unit, _, total, *_), value) in enumerate(zip(columns, record["v"])):
            if total and unit == "j" and value is not None:
                self._counters.setdefault((record["p"], i), Counter()).add(record["t"], value)


class Watts:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._traces: dict[Path, Trace] = {}
        self._now: dict[str, float | None] = {}
        self._again = 0.0

    def now(self) -> dict[str, float | None]:
        """By node; None where nothing that counts was read. Looked at again no sooner than the samplers write."""
        if time.monotonic() >= self._again:
            self._again = time.monotonic() + BETWEEN_S
            self._now = {trace.node: trace.watts() for trace in self._found()}
        return self._now

    def sources(self) -> dict[str, dict[str, Any]]:
        """By node: the probes whose joules count, their status, and why these."""
        self.now()
        return {trace.node: trace.source for trace in self._traces.values()}

    def _found(self) -> list[Trace]:
        for path in sorted(self._folder.glob("power.*.jsonl")):
            self._traces.setdefault(path, Trace(path))
        return list(self._traces.values())
