"""A picture as PDF and SVG: a column or a page wide, in the colours of the reports, fonts embedded as outlines one can
still select (Type 42), the same file every time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.axes import Value, value_text
from experiments.report.figures import METADATA, RC
from experiments.report.palette import SYMBOLS, SYSTEM_COLOURS, system_slots
from experiments.report.papers.picture import Estimate, FigureError, Line, Mark, Panel, Picture
from experiments.report.papers.places import SYSTEM
from experiments.report.papers.tables import write_csv, write_latex

WIDTHS_IN = {"single": 3.4, "double": 7.0}  # a column of a two-column paper, and both with the gap
HEIGHT_IN, RESIDUAL_SHARE = 2.1, 0.45
LEGEND_ROW_IN = 0.14
LEGEND_ENTRY_IN = 0.95
MARK_SIZE = 3.5
UPRIGHT_FROM = 14  # places on an axis, above which slanted labels overlap
FORMULA_DASHES = (0, (4, 2))
Axes = Any  # matplotlib's, which is imported when something is drawn


def write_picture(picture: Picture, folder: Path, width: str) -> list[Path]:
    """NAME.pdf, .svg, .csv and .tex in the folder. Raises FigureError for another width, or without matplotlib."""
    if width not in WIDTHS_IN:
        raise FigureError(f"no width {width}: there are {', '.join(WIDTHS_IN)}")
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise FigureError("figures need matplotlib: pip install matplotlib") from None
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with mpl.rc_context(RC):
        figure = Figure(figsize=_size_in(picture, WIDTHS_IN[width]), layout="constrained")
        FigureCanvasAgg(figure)
        _draw(picture, figure, WIDTHS_IN[width])
        figure.draw_without_rendering()
        figure.set_layout_engine(None)  # laid out once, for both kinds
        for kind, metadata in METADATA.items():
            path = folder / f"{picture.name}.{kind}"
            figure.savefig(path, metadata=metadata)
            written.append(path)
    return [*written, write_csv(picture, folder), write_latex(picture, folder)]


def _size_in(picture: Picture, width_in: float) -> tuple[float, float]:
    entries = 0 if picture.by == SYSTEM else len(picture.systems) + 1
    legend_in = LEGEND_ROW_IN * math.ceil(entries / _legend_columns(width_in))
    residuals = any(line.role == "residual" for line in picture.lines)
    rows = 1 + RESIDUAL_SHARE if residuals else picture.rows
    words = any(panel.x_values for panel in picture.panels)
    return width_in, HEIGHT_IN * rows + legend_in + (0.5 if words else 0.0)


def _legend_columns(width_in: float) -> int:
    return max(1, int(width_in / LEGEND_ENTRY_IN))


def _draw(picture: Picture, figure: Any, width_in: float) -> None:
    residuals = any(line.role == "residual" for line in picture.lines)
    ratios = [1.0, RESIDUAL_SHARE] if residuals else [1.0] * picture.rows
    grid = figure.subplots(picture.rows, picture.columns, squeeze=False, height_ratios=ratios, sharex=residuals,
                           sharey="row" if _same_across(picture) else "none")  # fmt: skip
    slots = system_slots(list(picture.systems))
    for i, panel in enumerate(picture.panels):
        row, column = divmod(i, picture.columns)
        ax = grid[row][column]
        _panel(ax, panel, slots)
        if residuals and row == 0:
            ax.set_xlabel("")
        if column and panel.y_label == picture.panels[i - 1].y_label:
            ax.set_ylabel("")
    for ax, panel in zip(grid.flat, picture.panels):  # when all that share an axis are drawn
        _from_zero(ax, panel)
    if picture.by == SYSTEM:
        return  # the axis names them
    for system, exact in picture.systems.items():
        grid[0][0].plot([], [], label=system, **_style(slots[system], exact))
    if residuals:
        grid[0][0].plot([], [], label="formula", color="#333333", linestyle=FORMULA_DASHES)
    figure.legend(loc="outside upper center", ncols=_legend_columns(width_in))


def _same_across(picture: Picture) -> bool:
    """Are the panels of every row of one figure?"""
    rows = [picture.panels[i : i + picture.columns] for i in range(0, len(picture.panels), picture.columns)]
    return all(len({panel.y_label for panel in row}) == 1 for row in rows)


def _panel(ax: Axes, panel: Panel, slots: dict[str, int]) -> None:
    for line in panel.lines:
        _line(ax, line, panel.x_values, slots[line.system])
    if panel.level is not None:
        ax.axhline(panel.level, color="#888888", linewidth=0.6, zorder=0)
    if panel.x_values:
        texts = [value_text(value) for value in panel.x_values]
        ax.set_xticks(range(len(texts)), texts, **_room_for(texts))
        ax.set_xlim(-0.5, len(texts) - 0.5)
    if panel.log_y:
        ax.set_yscale("log")
    ax.set_title(panel.title)
    ax.set_xlabel(panel.x_label)
    ax.set_ylabel(panel.y_label)


def _room_for(texts: Sequence[str]) -> dict[str, Any]:
    """How the labels of so many places stand beside one another: level, slanted, upright and small."""
    if len(texts) > UPRIGHT_FROM:
        return {"rotation": 90, "fontsize": 5}
    slanted = max(map(len, texts)) * len(texts) > 30
    return {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if slanted else {}


def _from_zero(ax: Axes, panel: Panel) -> None:
    if panel.y_from_zero and not _has_negative(panel):
        ax.set_ylim(bottom=0.0)
    if panel.x_from_zero:
        ax.set_xlim(left=0.0)


def _has_negative(panel: Panel) -> bool:
    return any(mark.y.value < 0 for line in panel.lines for mark in line.marks)


def _line(ax: Axes, line: Line, places: Sequence[Value], slot: int) -> None:
    style = _style(slot, line.exact)
    if line.role == "formula":
        alone = len(line.marks) == 1  # no line goes through one point
        style |= {"marker": "_" if alone else "", "markersize": 9, "linestyle": FORMULA_DASHES}
    if line.role == "critical":
        style |= {"marker": "|", "markersize": 9, "linestyle": "", "clip_on": False}
    if line.role == "residual" or (line.role == "measured" and places):
        style["linestyle"] = ""
    if line.role == "measured" and _has_formula(ax, line):
        style["linestyle"] = ""
    xs = [_x(mark, places) for mark in line.marks]
    ys = [mark.y.value for mark in line.marks]
    bars = {} if line.role == "formula" else {"yerr": _errors([mark.y for mark in line.marks])}
    if line.x_figure and line.role != "critical":
        style["clip_on"] = False  # a system that never calls stands on the axis
        bars["xerr"] = _errors([mark.x for mark in line.marks if mark.x])
    container = ax.errorbar(xs, ys, **bars, elinewidth=0.6, capsize=1.5, capthick=0.6, **style)
    container.lines[0].set_gid(f"{line.role}:{line.system}")


def _has_formula(ax: Axes, line: Line) -> bool:
    return any(drawn.get_gid() == f"formula:{line.system}" for drawn in ax.get_lines())


def _x(mark: Mark, places: Sequence[Value]) -> float:
    if mark.x is not None:
        return mark.x.value
    return float(list(places).index(mark.at)) if places else float(mark.at)  # type: ignore[arg-type]


def _errors(ends: Sequence[Estimate]) -> list[list[float]] | None:
    """[2, n] below and above; an interval that leaves its own mean out is drawn as far as it goes."""
    if not any(end.spread for end in ends):
        return None
    below = [max(0.0, end.value - end.low) if end.low is not None else 0.0 for end in ends]
    above = [max(0.0, end.high - end.value) if end.high is not None else 0.0 for end in ends]
    return [below, above]


def _style(slot: int, exact: bool) -> dict[str, Any]:
    colour = SYSTEM_COLOURS[slot][0]
    return {
        "color": colour, "marker": SYMBOLS[slot][1], "markersize": MARK_SIZE,
        "markerfacecolor": colour if exact else "white", "linestyle": "-" if exact else ":",
    }  # fmt: skip
