"""A link's course in a figure of matplotlib's: a panel each for rate, delay and loss."""

from __future__ import annotations

from typing import Any

from experiments.report.course import Courses
from experiments.report.palette import SYSTEM_COLOURS
from netem.traces.sketch import NAMES, UNITS

WAYS = {"up": (6, "-"), "down": (4, ":"), "both": (6, "-")}  # place in the palette, as course.COLOURS; line
SHADE = "#f3d5da"
PANEL_IN = 1.1
Figure = Any  # matplotlib's


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
