"""What a plot of the page is made of: traces and a layout for plotly.js, a caption, and the same as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.report.palette import SYMBOLS, system_slots

SYSTEM_LEGEND = {"orientation": "h", "yanchor": "top", "y": -0.2, "x": 0}  # below the plot; a click filters the page
Figures = Mapping[str, Any]
Cell = str | float | None


@dataclass(frozen=True)
class Table:
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    systems: Sequence[str] = ()  # of the rows, where each is a system's: the page's filter hides them


@dataclass
class Plot:
    """`traces` follow plotly.js; colours may be `var(--name)`. A trace's `meta.system` names its system, or
    `meta.systems` the system of each of its points: that is what the filter goes by.

    Where there is nothing to draw, `traces` is empty and `reason` says why."""

    id: str
    title: str
    caption: str
    table: Table
    traces: list[dict[str, Any]] = field(default_factory=list)
    layout: dict[str, Any] = field(default_factory=dict)
    height_px: int = 340
    row_px: int = 0  # > 0: one row per system; the height follows how many are shown
    wide: bool = False
    parts: Sequence[str] = ()  # of a round, whose colours need a legend
    reason: str = ""

    def spec(self) -> dict[str, Any]:
        """What the page's script draws."""
        return {
            "id": self.id,
            "traces": self.traces,
            "layout": self.layout,
            "height_px": self.height_px,
            "row_px": self.row_px,
        }


class Style:
    """How a system looks in every plot of a page: its colour, its symbol; filled where it is exact."""

    def __init__(self, systems: Sequence[Figures]) -> None:
        self.exact = {figures["system"]: bool(figures["exact"]) for figures in systems}
        self.slots = system_slots(list(self.exact))

    def colour(self, system: str) -> str:
        return f"var(--system-{self.slots[system]})"

    def symbol(self, system: str) -> str:
        return SYMBOLS[self.slots[system]][0] + ("" if self.exact[system] else "-open")

    def bar(self, system: str) -> dict[str, Any]:
        """A bar's marker: hatched where the system is not exact."""
        colour = self.colour(system)
        if self.exact[system]:
            return {"color": colour}
        pattern = {"shape": "/", "fgcolor": colour, "bgcolor": "rgba(0,0,0,0)", "size": 6, "solidity": 0.35}
        return {"color": colour, "pattern": pattern, "line": {"color": colour, "width": 1}}

    def axis(self, shown: Sequence[Figures]) -> dict[str, Any]:
        """One row per system, the first on top."""
        names = [figures["system"] for figures in shown]
        return {"type": "category", "categoryarray": names[::-1], "categoryorder": "array", "automargin": True}


def known(systems: Sequence[Figures], key: str) -> list[Figures]:
    """The systems for which this figure is there."""
    return [figures for figures in systems if figures.get(key) is not None]


def titled(text: str, **options: Any) -> dict[str, Any]:
    """An axis with a title, which names the unit."""
    return {"title": {"text": text}, "automargin": True, **options}


def named(systems: Sequence[Figures]) -> str:
    return ", ".join(figures["system"] for figures in systems)
