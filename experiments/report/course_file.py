"""A link's course in a file: PNG, SVG or PDF by matplotlib; HTML that one can zoom into, by plotly."""

from __future__ import annotations

from pathlib import Path

from experiments.reading import ConfigError
from experiments.report.course import Courses, course_plot
from experiments.report.course_panels import WAYS, course_height_in, draw_course
from experiments.report.figures import METADATA, RC
from experiments.report.palette import SYSTEM_COLOURS


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
