"""A trace: what a direction of the link is like over time, piece by piece constant."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import count


class TraceError(ValueError):
    """A trace that cannot be read or played; the message names file, line and what is wrong with it."""


@dataclass(frozen=True)
class Point:
    """From `t_s` on, these hold; None: the trace says nothing of it."""

    t_s: float
    rate_mbps: float | None = None
    delay_ms: float | None = None
    loss_pct: float | None = None

    @property
    def values(self) -> dict[str, float]:
        """What it says, without the time."""
        return {key: value for key in KEYS if (value := getattr(self, key)) is not None}

    @property
    def lets_through(self) -> bool:
        return (self.rate_mbps is None or self.rate_mbps > 0) and (self.loss_pct is None or self.loss_pct < 100)


KEYS = tuple(field.name for field in fields(Point) if field.name != "t_s")


@dataclass(frozen=True)
class Trace:
    """`points` begin at 0 and rise; at `period_s` the trace has ended, or begins again."""

    points: tuple[Point, ...]
    period_s: float
    format: str = "csv"

    def __post_init__(self) -> None:
        times = [point.t_s for point in self.points]
        assert times and times[0] == 0 and all(a < b for a, b in zip(times, [*times[1:], self.period_s]))

    @property
    def keys(self) -> tuple[str, ...]:
        """What it varies, of rate_mbps, delay_ms and loss_pct."""
        return tuple(self.points[0].values)

    @cached_property
    def rates(self) -> Trace:
        """The rate alone."""
        return Trace(tuple(Point(point.t_s, point.rate_mbps) for point in self.points), self.period_s)

    def column(self, key: str) -> list[float]:
        return [point.values[key] for point in self.points]

    @cached_property
    def most(self) -> dict[str, float]:
        """Of each key, at any time."""
        return {key: max(self.column(key)) for key in self.keys}

    def mean(self, key: str) -> float:
        """Over time."""
        return sum(value * hold for value, hold in zip(self.column(key), self._holds)) / self.period_s

    def mean_between(self, key: str, from_s: float, to_s: float) -> float:
        """Over that part of a period."""
        held = 0.0
        for point, hold_s in zip(self.points, self._holds):
            held += point.values[key] * max(0.0, min(to_s, point.t_s + hold_s) - max(from_s, point.t_s))
        return held / (to_s - from_s)

    @property
    def shut_share(self) -> float:
        """Of time, in which nothing passes."""
        return sum(hold for point, hold in zip(self.points, self._holds) if not point.lets_through) / self.period_s

    @property
    def finest_s(self) -> float:
        """The shortest time for which a point holds."""
        return min(self._holds)

    def at(self, t_s: float) -> Point:
        """What holds at a time of its first period."""
        return self.points[bisect_right(self._times, t_s) - 1]

    def changes(self, loop: bool, offset_s: float = 0.0, speed: float = 1.0) -> Iterator[tuple[float, Point]]:
        """(seconds since the start, what holds from then on), from what holds at once; without end where it loops.

        Points that change nothing are left out.
        """
        before = None
        alike = all(point.values == self.points[0].values for point in self.points)
        for turn in count():
            for point in self.points:
                starts_s = (turn * self.period_s + point.t_s - offset_s) / speed
                if turn == 0 and point.t_s <= offset_s:
                    if point is not self.at(offset_s):
                        continue
                    starts_s = 0.0
                if point.values != before:
                    yield starts_s, point
                before = point.values
            if alike or not loop:
                return

    @cached_property
    def _times(self) -> list[float]:
        return [point.t_s for point in self.points]

    @cached_property
    def _holds(self) -> list[float]:
        return [after - before for before, after in zip(self._times, [*self._times[1:], self.period_s])]
