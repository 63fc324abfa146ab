"""Plays traces and outages to a live lab, beside the run, and writes down what was applied when.

    with Player(lab, folder / "link_trace.jsonl") as player:
        ...                              # the link stands at the first point of its traces
        player.follow(at_ns, t_s=0.0)    # from now on it follows them: their time `t_s` is this instant of the clock
        player.rest()                    # it stays as it is, until the next `follow`
    player.check()                       # raises LinkError if it could not

Instants are of CLOCK_MONOTONIC. One JSON line a change: `t_s` on the traces' time, `due_ns` when it was to be applied,
`began_ns` and `done_ns` when it was, `direction`, `event` (point, cut, mend), the point's values, `outcome` (applied;
skipped: the machine was so late that another was due already; failed), `of`, what `follow` was told.
"""

from __future__ import annotations

import heapq
import json
import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

from netem.errors import LinkError
from netem.spec import DIRECTIONS, Direction, LinkSpec
from netem.traces.trace import Point

SPIN_S = 0.0005  # a wait may end this much late: the rest is slept in short naps
PRIORITY = 2  # real-time, above a user-mode Linux router with all it forwards


class Event(NamedTuple):
    """Something to do to one direction. The order of the fields is the order of events."""

    t_s: float
    direction: Direction
    what: str  # cut, mend, point
    point: Point | None = None
    until_s: float = math.inf  # its rate holds, through points that change only the rest


class Playable(Protocol):
    """A lab."""

    spec: LinkSpec

    def retune(self, which: Direction, point: Point, due_ns: float, until_ns: float) -> None: ...
    def cut(self, which: Direction | None = None) -> None: ...
    def mend(self, which: Direction | None = None) -> None: ...
    def read_back(self) -> None: ...


class Start(NamedTuple):
    """The traces' time `t_s` is the instant `at_ns`."""

    at_ns: int
    t_s: float
    of: str

    def instant_ns(self, t_s: float) -> float:
        return self.at_ns + (t_s - self.t_s) * 1e9

    def due_ns(self, event: Event) -> int:
        return round(self.instant_ns(event.t_s))


def events(spec: LinkSpec, from_s: float = 0.0) -> Iterator[Event]:
    """What is to happen from `from_s` on, in order, beginning with what holds then; without end where a trace loops."""
    traces = [_points(which, spec, from_s) for which in DIRECTIONS]
    cuts = sorted(
        event
        for outage in spec.outages
        if outage.at_s + outage.for_s > from_s
        for which in outage.directions
        for event in (Event(max(from_s, outage.at_s), which, "cut"), Event(outage.at_s + outage.for_s, which, "mend"))
    )
    return heapq.merge(*traces, cuts, key=lambda event: event[:3])


def _points(which: Direction, spec: LinkSpec, from_s: float) -> Iterator[Event]:
    if (played := spec.direction(which).trace) is None:
        return
    trace, offset_s = played.trace, played.offset_s + from_s * played.speed
    if played.loop:
        offset_s %= trace.period_s
    rates = trace.rates.changes(played.loop, offset_s, played.speed)
    until_s = 0.0
    for t_s, point in trace.changes(played.loop, offset_s, played.speed):
        while until_s <= t_s:
            until_s, _ = next(rates, (math.inf, None))
        yield Event(from_s + t_s, which, "point", point, from_s + until_s)


def _ahead_of_others() -> None:
    """This thread need not wait for a processor, where that is allowed: the router's does not either."""
    with suppress(OSError):
        os.sched_setscheduler(threading.get_native_id(), os.SCHED_RR, os.sched_param(PRIORITY))


class Player:
    """One thread. For a lab that does not change while it runs, nothing is started and nothing written."""

    def __init__(self, lab: Playable, log: Path) -> None:
        self._lab, self._path = lab, log
        self._condition = threading.Condition()
        self._start: Start | None = None
        self._turn = 0  # of `follow`, `rest` and `stop`: what is played belongs to one
        self._stopping = False
        self._cut: set[Direction] = set()
        self._error: LinkError | None = None
        self._thread = threading.Thread(target=self._run, name="link trace", daemon=True)

    def __enter__(self) -> Player:
        if self._lab.spec.changes_while_it_runs:
            self._path.touch()  # what cannot be written is known before the run
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """The link stays as it is at this moment, but for a cut, which is mended."""
        self._tell(None, stopping=True)
        if self._thread.is_alive():
            self._thread.join()

    def follow(self, at_ns: int, t_s: float = 0.0, of: str = "") -> None:
        self._tell(Start(at_ns, t_s, of))

    def rest(self) -> None:
        """A cut is mended."""
        self._tell(None)

    def check(self) -> None:
        """Raises LinkError if a change could not be applied."""
        if self._error is not None:
            raise self._error

    def _tell(self, start: Start | None, stopping: bool = False) -> None:
        with self._condition:
            self._start, self._turn, self._stopping = start, self._turn + 1, self._stopping or stopping
            self._condition.notify()

    def _run(self) -> None:
        _ahead_of_others()
        with self._path.open("w", encoding="utf-8", buffering=1) as log:
            turn = 0
            try:
                while True:
                    with self._condition:
                        while self._turn == turn and not self._stopping:
                            self._condition.wait()
                        turn, start = self._turn, self._start
                        if self._stopping:
                            break
                    if start is not None:
                        self._play(turn, start, log)
                        self._mend(start, log)
                self._lab.read_back()
            except Exception as error:  # told by `check`: nobody looks at a thread that died
                self._error = LinkError(f"the link could not follow its trace: {error}")

    def _play(self, turn: int, start: Start, log: TextIO) -> None:
        """What is due at the same time is done together; of several points of a direction, only the last."""
        coming = events(self._lab.spec, start.t_s)
        following = next(coming, None)
        while following is not None:
            if not self._wait_until(start.due_ns(following), turn):
                return
            now_ns = time.monotonic_ns()
            due: list[Event] = []
            while following is not None and start.due_ns(following) <= now_ns:
                due.append(following)
                following = next(coming, None)
            last = {event.direction: event for event in due if event.what == "point"}
            for event in due:
                late = event.what == "point" and last[event.direction] is not event
                self._apply(event, start, late, log)
        self._wait_until(None, turn)

    def _mend(self, start: Start, log: TextIO) -> None:
        now_s = start.t_s + (time.monotonic_ns() - start.at_ns) / 1e9
        for which in sorted(self._cut):
            self._apply(Event(now_s, which, "mend"), start, False, log)

    def _apply(self, event: Event, start: Start, late: bool, log: TextIO) -> None:
        began_ns, outcome = time.monotonic_ns(), "skipped" if late else "failed"
        try:
            if not late:
                if event.point is not None:
                    due_ns, until_ns = start.instant_ns(event.t_s), start.instant_ns(event.until_s)
                    self._lab.retune(event.direction, event.point, due_ns, until_ns)
                elif event.what == "cut":
                    self._cut.add(event.direction)
                    self._lab.cut(event.direction)
                else:
                    self._lab.mend(event.direction)
                    self._cut.discard(event.direction)
                outcome = "applied"
        finally:
            times = {"due_ns": start.due_ns(event), "began_ns": began_ns, "done_ns": time.monotonic_ns()}
            values = event.point.values if event.point else {}
            line: dict[str, Any] = {"t_s": round(event.t_s, 6), **times, "direction": event.direction}
            line |= {"event": event.what, **values, "outcome": outcome, "of": start.of}
            log.write(json.dumps(line) + "\n")

    def _wait_until(self, due_ns: int | None, turn: int) -> bool:
        """False if something else is to be done; without `due_ns` that is what ends it."""
        with self._condition:
            while self._turn == turn:
                left_s = None if due_ns is None else (due_ns - time.monotonic_ns()) / 1e9
                if left_s is not None and left_s <= 0:
                    return True
                self._condition.wait(None if left_s is None else max(left_s - SPIN_S, 1e-4))
            return False
