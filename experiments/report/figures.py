"""Figures for papers: PDF and SVG, one column wide, in the page's colours; made by matplotlib without a display."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.report.course import Courses, applied_courses
from experiments.report.course_panels import course_height_in, draw_course
from experiments.report.data import RunData, read_run
from experiments.report.energy import pareto_front, with_energy
from experiments.report.palette import PARTS, SYMBOLS, SYSTEM_COLOURS
from experiments.report.plot import Figures
from experiments.report.rounds import DODGE, parts_of
from experiments.report.speed import LATENCIES, PERCENTILES, latency_values_ms
from experiments.report.traffic import COUNTS
from experiments.store import RunFolder

COLUMN_IN = 3.4  # the width of a column in two-column papers
ROW_IN = 0.17
RC: Any = {
    "font.size": 7, "axes.titlesize": 7, "axes.labelsize": 7, "xtick.labelsize": 6.5, "ytick.labelsize": 6.5,
    "legend.fontsize": 6, "legend.frameon": False, "legend.handlelength": 1.2, "legend.columnspacing": 1.0,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "axes.axisbelow": True,
    "axes.grid": True, "grid.color": "#e3e6ea", "grid.linewidth": 0.5, "hatch.linewidth": 0.6,
    "lines.linewidth": 1.0, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "dssd",  # editable text; the same file every time
}  # fmt: skip
METADATA: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
Axes = Any  # matplotlib's, which is imported when a figure is drawn
Figure = Any


def write_figures(folder: RunFolder, summary: Mapping[str, Any]) -> list[Path]:
    """Draw what there is data for into the run's figures/ and return the files; none where matplotlib is missing."""
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Blank
    except ImportError:
        return []
    run = read_run(folder, summary)
    course = applied_courses(folder.path, summary["run_id"], min((r.start_ns for r in run.requests), default=0))
    target = folder.path / "figures"
    target.mkdir(exist_ok=True)
    written = []
    with mpl.rc_context(RC):
        for name, (height_in, draw) in _figures(run, course).items():
            figure = Blank(figsize=(COLUMN_IN, height_in), layout="constrained")
            FigureCanvasAgg(figure)
            draw(figure)
            figure.draw_without_rendering()
            figure.set_layout_engine(None)  # laid out once, for both kinds
            for kind, metadata in METADATA.items():
                path = target / f"{name}.{kind}"
                figure.savefig(path, metadata=metadata)
                written.append(path)
    return written


def _figures(run: RunData, course: Courses | None) -> dict[str, tuple[float, Callable[[Figure], None]]]:
    """Name: height and what draws it; those without data are left out."""
    values = latency_values_ms(run.requests)
    rows_in = 0.5 + ROW_IN * len(run.systems)
    bytes_there = any(f[f"{count}_{way}_per_token"] for f in run.systems for count in COUNTS for way in ("up", "down"))
    found: dict[str, tuple[bool, float, Callable[[Figure], None]]] = {
        "tokens_per_s": (any(f["tokens_per_s"] for f in run.systems), rows_in, partial(_speed, run)),
        "round_parts": (any(f["parts_ms"] for f in run.systems), rows_in + 0.35, partial(_parts, run)),
        "acceptance": (any(f["acceptance_by_position"] for f in run.systems), 2.2, partial(_acceptance, run)),
        "bytes": (bytes_there, rows_in + 0.2, partial(_bytes, run)),
        "latency": (any(values["ttft"].values()), rows_in, partial(_latencies, run, values)),
        "predicted": (bool(_with_formula(run)), 0.6 + ROW_IN * len(run.systems), partial(_predicted, run)),
        "energy_delay": (bool(_with_energy(run)), 2.3, partial(_energy, run)),
    }
    if course:
        found["link_course"] = (True, course_height_in(course), partial(draw_course, course))
    return {name: (height_in, draw) for name, (there, height_in, draw) in found.items() if there}


def _speed(run: RunData, figure: Figure) -> None:
    ax = figure.add_subplot()
    shown = [f for f in run.systems if f["tokens_per_s"]]
    _rows(ax, shown)
    for y, f in enumerate(shown):
        rate, interval = f["tokens_per_s"], f["tokens_per_s_ci95"]
        error = [[rate - interval[0]], [interval[1] - rate]] if interval else None
        ax.barh(y, rate, 0.65, xerr=error, error_kw={"elinewidth": 0.7, "capsize": 1.5}, **_bar(run, f))
        ax.annotate(f"{rate:.3g}", (interval[1] if interval else rate, y), (3, 0), textcoords="offset points",
                    va="center", fontsize=6)  # fmt: skip
    ax.set_xlabel("tokens/s (hatched: not exact)" if any(not f["exact"] for f in shown) else "tokens/s")
    ax.margins(x=0.12)


def _parts(run: RunData, figure: Figure) -> None:
    ax = figure.add_subplot()
    shown = [f for f in run.systems if f["parts_ms"]]
    _rows(ax, shown)
    left = np.zeros(len(shown))
    for part in parts_of(shown):
        widths = np.array([f["parts_ms"].get(part, 0.0) for f in shown])
        ax.barh(range(len(shown)), widths, 0.65, left=left, color=PARTS[part][1], label=PARTS[part][0])
        left += widths
    ax.set_xlabel("mean time of a round (ms)")
    figure.legend(loc="outside upper center", ncols=4)


def _acceptance(run: RunData, figure: Figure) -> None:
    ax = figure.add_subplot()
    shown = [f for f in run.systems if f["acceptance_by_position"]]
    for i, f in enumerate(shown):
        shares = np.array([np.nan if s is None else 100 * s for s in f["acceptance_by_position"]])
        positions = np.arange(1, len(shares) + 1) + (i - (len(shown) - 1) / 2) * DODGE
        line = "-" if f["exact"] else ":"
        ax.plot(positions, shares, line, label=f["system"], markersize=3.5, **_marker(run, f))
    ax.set_xlabel("position in the draft")
    ax.set_ylabel("kept (%)")
    ax.set_ylim(0, None)
    figure.legend(loc="outside upper center", ncols=4)
    ax.xaxis.get_major_locator().set_params(integer=True)


def _bytes(run: RunData, figure: Figure) -> None:
    shown = [f for f in run.systems if f["bytes_up_per_token"] or f["bytes_down_per_token"]]
    for ax, way in zip(figure.subplots(1, 2, sharey=True), ("up", "down")):
        _rows(ax, shown)
        for y, f in enumerate(shown):
            colour = _colour(run, f)
            found = {count: value for count in COUNTS if (value := f[f"{count}_{way}_per_token"])}
            ax.plot([min(found.values(), default=1), max(found.values(), default=1)], [y, y], color=colour)
            for count, value in found.items():
                ax.plot(value, y, **_count_marker(count, colour))
        ax.set_xscale("log")
        ax.set_xlabel(f"bytes {way} per token")
    for count in COUNTS:
        ax.plot([], [], label=COUNTS[count][0], **_count_marker(count, "#333333"))
    figure.legend(loc="outside upper center", ncols=3)


def _count_marker(count: str, colour: str) -> dict[str, Any]:
    marker = {"ideal_bytes": "D", "bytes": "o", "link_bytes": "|"}[count]
    face = "white" if count == "ideal_bytes" else colour
    return {"marker": marker, "linestyle": "", "color": colour, "markerfacecolor": face, "markersize": 4}


def _latencies(run: RunData, values: Mapping[str, Mapping[str, list[float]]], figure: Figure) -> None:
    shown = [f for f in run.systems if values["ttft"].get(f["system"])]
    for ax, kind in zip(figure.subplots(1, len(LATENCIES), sharey=True), LATENCIES):
        _rows(ax, shown)
        for y, f in enumerate(shown):
            mine = values[kind].get(f["system"])
            if mine:
                colour = _colour(run, f)
                marks = np.percentile(mine, PERCENTILES)
                ax.plot([marks[0], marks[-1]], [y, y], color=colour, linewidth=1.4)
                for mark, marker in zip(marks, "oD|"):
                    ax.plot(mark, y, marker, color=colour, markersize=3.5, markeredgewidth=1.2)
        ax.set_xlim(0, None)
        ax.set_xlabel(LATENCIES[kind][1])
    figure.suptitle("circle p50, diamond p90, bar p99", fontsize=6)


def _predicted(run: RunData, figure: Figure) -> None:
    ax = figure.add_subplot()
    shown = _with_formula(run)
    _rows(ax, shown)
    for y, f in enumerate(shown):
        found, colour = f["predicted"], _colour(run, f)
        ends = [found["round_ms"], found["round_ms_measured"]]
        ax.plot(ends, [y, y], color=colour, linewidth=0.8)
        ax.plot(ends[0], y, "D", color=colour, markerfacecolor="white", markersize=4)
        ax.plot(ends[1], y, "o", color=colour, markersize=3.5)
        ax.annotate(f"{found['round_residual_pct']:+.1f} %", (max(ends), y), (5, 0), textcoords="offset points",
                    va="center", fontsize=6)  # fmt: skip
    ax.set_xlim(0, None)
    ax.margins(x=0.15)
    ax.set_xlabel("mean time of a round (ms): diamond the formula, circle measured")


def _with_formula(run: RunData) -> list[Figures]:
    return [
        f for f in run.systems if f["predicted"].get("round_ms") and f["predicted"]["round_residual_pct"] is not None
    ]


def _energy(run: RunData, figure: Figure) -> None:
    ax = figure.add_subplot()
    shown = _with_energy(run)
    for f in shown:
        ax.plot(1e3 / f["tokens_per_s"], f["energy_j_per_token"], linestyle="", label=f["system"], markersize=5,
                **_marker(run, f))  # fmt: skip
    front = pareto_front(with_energy(shown).values())
    ax.plot(*zip(*front), "o--", color="#5c6470", linewidth=0.8, markersize=9, markerfacecolor="none",
            markeredgewidth=0.7, zorder=1, label="Pareto front")  # fmt: skip
    ax.set_xlim(0, None)
    ax.set_ylim(0, 1.1 * max(f["energy_j_per_token"] for f in shown))
    ax.set_xlabel("time per token (ms)")
    ax.set_ylabel(f"energy per token (J), {', '.join(dict.fromkeys(f['energy_status'] for f in shown))}")
    figure.legend(loc="outside upper center", ncols=4)


def _with_energy(run: RunData) -> list[Figures]:
    return [f for f in run.systems if f["energy_j_per_token"] is not None and f["tokens_per_s"]]


def _rows(ax: Axes, shown: list[Figures]) -> None:
    """One row per system, the first on top."""
    ax.set_yticks(range(len(shown)), [f["system"] for f in shown])
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")


def _colour(run: RunData, figures: Figures) -> str:
    return SYSTEM_COLOURS[run.style.slots[figures["system"]]][0]


def _bar(run: RunData, figures: Figures) -> dict[str, Any]:
    colour = _colour(run, figures)
    if figures["exact"]:
        return {"color": colour}
    return {"facecolor": "white", "edgecolor": colour, "hatch": "//////", "linewidth": 0.7}


def _marker(run: RunData, figures: Figures) -> dict[str, Any]:
    colour = _colour(run, figures)
    face = colour if figures["exact"] else "white"
    return {"color": colour, "marker": SYMBOLS[run.style.slots[figures["system"]]][1], "markerfacecolor": face}
