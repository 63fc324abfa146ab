"""A link's course in a file: PNG, SVG or PDF by matplotlib; HTML that one can zoom into, by plotly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.reading import ConfigError
from experiments.report.course import Courses, course_plot
from experiments.report.figures import METADATA, RC
from experiments.report.palette import SYSTEM_COLOURS
from netem.traces.sketch import NAMES, UNITS

WAYS = {"up": (6, "-"), "down": (4, ":"), "both": (6, "-")}  # place in the palette, as course.COLOURS; line
SHADE = "#f3d5da"
PANEL_IN = 1.1
Figure = Any  # matplotlib's


def draw_courses(found: Courses, path: Path, width_in: float = 6.8) -> None:
    """Raises ConfigError where what draws is missing, or the file cannot be written."""
    try:
        if path.suffix == ".html":
            _html(found, path)
            return
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Blank
    except ImportError as error:
        raise ConfigError(f"drawing {path} needs {error.name}: pip install {error.name}") from None
    with mpl.rc_context(RC):
        figure = Blank(figsize=(width_in, course_height_in(found)), layout="constrained", dpi=200)
        FigureCanvasAgg(figure)
        draw_course(found, figure)
        figure.suptitle(found.title)
        try:
            figure.savefig(path, metadata=METADATA.get(path.suffix[1:]))
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from None


def course_height_in(found: Courses) -> float:
    return 0.6 + PANEL_IN * max(1, len(found.keys))


def draw_course(found: Courses, figure: Figure) -> None:
    """Panels one above the other, in a figure of matplotlib's; shaded where nothing passed."""
    keys = found.keys or [""]
    axes = figure.subplots(len(keys), 1, sharex=True, squeeze=False)[:, 0]
    for ax, key in zip(axes, keys):
        for way, trace in found.traces.items():
            if key in trace.keys:
                slot, line = WAYS[way]
                x = [*(point.t_s for point in trace.points), trace.period_s]
                y = [*trace.column(key), trace.column(key)[-1]]
                ax.step(x, y, line, where="post", color=SYSTEM_COLOURS[slot][0], label=way)
        for cut in found.shut():
            ax.axvspan(cut.from_s, cut.to_s, color=SHADE, linewidth=0)
        ax.set_ylim(0, None)
        if key:
            ax.set_ylabel(f"{NAMES[key]} ({UNITS[key]})")
        else:
            ax.set_yticks([])
    axes[-1].set_xlim(0, found.until_s)
    axes[-1].set_xlabel("s")
    if len(found.traces) > 1:
        axes[0].legend(loc="upper right", ncols=len(found.traces))


def _html(found: Courses, path: Path) -> None:
    import plotly.graph_objects as go

    plot = course_plot(found)
    for trace in plot.traces:
        if "name" in trace:
            trace["line"]["color"] = SYSTEM_COLOURS[WAYS[trace["name"]][0]][0]
    layout = {**plot.layout, "title": {"text": found.title}, "template": "plotly_white", "height": plot.height_px}
    layout["xaxis"] = {**layout["xaxis"], "title": {"text": "s"}}
    try:
        go.Figure({"data": plot.traces, "layout": layout}).write_html(path, include_plotlyjs=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
