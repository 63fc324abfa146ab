"""What a figure shows, before anybody draws it or writes it as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from experiments.axes import Value

INTERVAL, RANGE, NO_INTERVAL = "95 %", "range of runs", ""


class FigureError(RuntimeError):
    """A figure that cannot be drawn, what there is instead, and what to say."""


@dataclass(frozen=True)
class Estimate:
    """A figure's value, and how sure it is: `spread` says what `low` and `high` are."""

    value: float
    low: float | None = None
    high: float | None = None
    spread: str = NO_INTERVAL


@dataclass(frozen=True)
class Mark:
    """One point: where it stands on the axis, what was measured there, over how many runs."""

    at: Value  # on the figure's axis
    x: Estimate | None  # None: x is `at` itself
    y: Estimate
    runs: int


@dataclass(frozen=True)
class Line:
    """A system's points. `role`: measured, formula or residual; `figure` names what they are, `x_figure` what they
    stand over where that is no axis."""

    system: str
    exact: bool
    marks: Sequence[Mark]
    figure: str
    role: str = "measured"
    x_figure: str = ""


@dataclass(frozen=True)
class Panel:
    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    x_values: Sequence[Value] = ()  # places of an axis that is no number; empty: x is one
    log_y: bool = False
    level: float | None = None  # a horizontal line that divides better from worse
    x_from_zero: bool = False
    y_from_zero: bool = False


@dataclass(frozen=True)
class Picture:
    """`rows` x `columns` of panels, row by row; `notes` is what a caption has to say."""

    name: str
    title: str
    by: str
    panels: Sequence[Panel]
    rows: int = 1
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def columns(self) -> int:
        return len(self.panels) // self.rows

    @property
    def lines(self) -> list[Line]:
        return [line for panel in self.panels for line in panel.lines]

    @property
    def systems(self) -> dict[str, bool]:
        """By name, in order: exact in every line."""
        found: dict[str, bool] = {}
        for line in self.lines:
            found[line.system] = found.get(line.system, True) and line.exact
        return found
