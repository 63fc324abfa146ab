"""Which rows of a collection a figure is about, where they stand on its axis, and what several at one place come to.

Several rows at one place differ in axes that the figure does not show, or are repeats. They are averaged, never
silently: the picture's notes name what was averaged over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.axes import Value, value_text
from experiments.collection import Collection, Row, link_label, link_size
from experiments.report.papers.picture import INTERVAL, NO_INTERVAL, RANGE, Estimate, FigureError
from experiments.statistics import FEWEST, ratio_interval

LINK, SYSTEM = "link", "system"
Figure = Callable[[Row], float | None]
Interval = Callable[[Row], Sequence[float] | None]


@dataclass(frozen=True)
class Choice:
    """What was asked for. `by`: the horizontal axis, None: the first that varies; `panels`: an axis with a panel for
    each of its values; `where`: axis to value, as text; `systems`: empty means all."""

    by: str | None = None
    panels: str | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    systems: Sequence[str] = ()


@dataclass(frozen=True)
class Rows:
    """The rows a figure is about, and every axis with the values they have there, in order."""

    collection: Collection
    rows: Sequence[Row]
    axes: Mapping[str, Sequence[Value]]

    def at(self, row: Row, axis: str) -> Value:
        if axis == SYSTEM:
            return row.system
        return link_of(self.collection, row) if axis == LINK else row.axes.get(axis)

    def only(self, rows: Sequence[Row]) -> Rows:
        return Rows(self.collection, rows, self.axes)


def link_of(collection: Collection, row: Row) -> str:
    return link_label(_declared(collection, row))


def axes_of(collection: Collection) -> dict[str, list[Value]]:
    """Every axis a figure may have: those in which runs or systems differ, the link as a whole, and the system."""
    links = sorted({(link_size(_declared(collection, row)), link_of(collection, row)) for row in collection.rows})
    found = {key: list(values) for key, values in collection.all_axes.items()}
    return {**found, LINK: list(dict.fromkeys(link for _, link in links)), SYSTEM: list(collection.systems)}


def choose(collection: Collection, choice: Choice) -> Rows:
    """Raises FigureError for an axis, a value or a system that is not there."""
    axes = axes_of(collection)
    every = Rows(collection, collection.rows, axes)
    for system in choice.systems:
        if system not in collection.systems:
            raise FigureError(f"no system {system} in these runs; there are {', '.join(collection.systems)}")
    for axis in (choice.by, choice.panels, *choice.where):
        if axis is not None:
            require_axis(axis, axes)
    rows = [row for row in collection.rows if not choice.systems or row.system in choice.systems]
    for axis, text in choice.where.items():
        texts = {value_text(value) for value in axes[axis]}
        if text not in texts:
            raise FigureError(f"{axis} is nowhere {text}; its values are {', '.join(map(value_text, axes[axis]))}")
        rows = [row for row in rows if value_text(every.at(row, axis)) == text]
    if not rows:
        raise FigureError("no run is left of what was chosen: take a --where away")
    return every.only(rows)


def require_axis(axis: str, axes: Mapping[str, Sequence[Value]]) -> None:
    if axis not in axes:
        raise FigureError(f"no axis {axis}: these runs differ in {', '.join(axes)}")


def default_axis(rows: Rows) -> str:
    """The round trip where that varies, else the first number that does, else any axis, else the systems."""
    several = [axis for axis in rows.axes if axis not in (LINK, SYSTEM) and len(values_at(rows, axis)) > 1]
    numbers = [axis for axis in several if is_number(values_at(rows, axis))]
    return next(iter([*(a for a in numbers if a == "link.rtt_ms"), *numbers, *several]), SYSTEM)


def values_at(rows: Rows, axis: str) -> list[Value]:
    """Of the rows that have a place there, in the axis's order."""
    there = {rows.at(row, axis) for row in rows.rows if axis in (LINK, SYSTEM) or axis in row.axes}
    return [value for value in rows.axes[axis] if value in there]


def is_number(values: Sequence[Value]) -> bool:
    return bool(values) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def grouped(rows: Rows, axis: str) -> dict[Value, list[Row]]:
    """By their value on the axis, in its order; rows that have no place on it are left out."""
    found: dict[Value, list[Row]] = {value: [] for value in values_at(rows, axis)}
    for row in rows.rows:
        if axis in (LINK, SYSTEM) or axis in row.axes:
            found[rows.at(row, axis)].append(row)
    return found


def averaged_over(rows: Rows, groups: Sequence[Sequence[Row]], but: Sequence[str | None]) -> list[str]:
    """The axes in which the rows of some group differ: `draft_length (4, 8)`; `repeats` where nothing else does."""
    implied = LINK if any(axis and axis.startswith("link.") for axis in rows.axes) else None
    found = []
    for axis in rows.axes:
        if axis in but or axis in (SYSTEM, implied):
            continue
        if any(len({rows.at(row, axis) for row in group}) > 1 for group in groups):
            values = [value for value in rows.axes[axis] if any(rows.at(r, axis) == value for g in groups for r in g)]
            found.append(f"{axis} ({', '.join(map(value_text, values))})")
    return found or (["repeats"] if any(len(group) > 1 for group in groups) else [])


def estimate(rows: Sequence[Row], figure: Figure, interval: Interval) -> Estimate | None:
    """One row: its own value and bootstrap interval. Several: their geometric mean (the plain one where not all are
    positive), with a bootstrap over them from FEWEST on, below that how far they range."""
    known = [(value, row) for row in rows if (value := figure(row)) is not None]
    if not known:
        return None
    values = [value for value, _ in known]
    if len(known) == 1:
        ends = interval(known[0][1])
        return Estimate(values[0], ends[0], ends[1], INTERVAL) if ends else Estimate(values[0])
    ratios = all(value > 0 for value in values)
    scaled = [math.log(value) for value in values] if ratios else values
    back: Callable[[float], float] = math.exp if ratios else float
    mean = back(sum(scaled) / len(scaled))
    ends = ratio_interval(scaled, [1.0] * len(scaled)) if len(scaled) >= FEWEST else None
    if ends:
        return Estimate(mean, back(ends[0]), back(ends[1]), INTERVAL)
    low, high = min(values), max(values)
    return Estimate(mean, low, high, RANGE if high > low else NO_INTERVAL)


def _declared(collection: Collection, row: Row) -> dict[str, Any]:
    return (collection.runs[row.run].summary.get("link") or {}).get("declared") or {}
