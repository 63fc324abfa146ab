"""What a link was like over time: of a trace file, or of a run as it was really applied; as a plot and as text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from experiments.course import LOG, read_log
from experiments.report.plot import Plot, Table, titled
from netem.spec import DIRECTIONS
from netem.traces.files import Format, read_trace
from netem.traces.sketch import NAMES, UNITS, describe, lines
from netem.traces.trace import KEYS, Point, Trace, TraceError

COLOURS = {"up": "var(--system-6)", "down": "var(--system-4)", "both": "var(--system-6)"}  # as in figures
SHADE = "rgba(204, 85, 102, 0.22)"
GAP = 0.06  # between panels, of the height


class Cut(NamedTuple):
    """Seconds between which a direction let nothing through."""

    direction: str
    from_s: float
    to_s: float


@dataclass(frozen=True)
class Courses:
    """By direction, or for `both`: what held when. `cuts` are outages."""

    title: str
    traces: Mapping[str, Trace]
    cuts: Sequence[Cut] = ()
    sha256: str = ""

    @property
    def keys(self) -> list[str]:
        return [key for key in KEYS if any(key in trace.keys for trace in self.traces.values())]

    @property
    def until_s(self) -> float:
        return max([trace.period_s for trace in self.traces.values()] + [cut.to_s for cut in self.cuts])

    def shut(self) -> list[Cut]:
        """The outages, and when a trace itself let nothing through."""
        found = list(self.cuts)
        for way, trace in self.traces.items():
            ends = [point.t_s for point in trace.points[1:]] + [trace.period_s]
            for point, end_s in zip(trace.points, ends):
                if not point.lets_through:
                    if found and found[-1].direction == way and found[-1].to_s == point.t_s:
                        found[-1] = found[-1]._replace(to_s=end_s)
                    else:
                        found.append(Cut(way, point.t_s, end_s))
        return found

    def describe(self) -> dict[str, Any]:
        about = {"title": self.title, "directions": {way: describe(trace) for way, trace in self.traces.items()}}
        about |= {"sha256": self.sha256} if self.sha256 else {}
        return {**about, "outages": [cut._asdict() for cut in self.cuts]} if self.cuts else about


def read_courses(path: Path, format: Format | None = None, step_ms: float = 100.0) -> Courses:
    """A trace file's, or those of a run's folder. Raises TraceError."""
    if path.is_dir():
        found = applied_courses(path, path.resolve().name)
        if found is None:
            raise TraceError(f"{path} has no {LOG} with a change in it: its link was not made to change")
        return found
    first = read_trace(path, format, "up", step_ms) if not _only_down(path, format) else None
    down = read_trace(path, format, "down", step_ms)
    same = first is not None and first == down
    traces = {"both": down} if same else {"up": first, "down": down} if first is not None else {"down": down}
    return Courses(path.name, traces, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def applied_courses(folder: Path, title: str, zero_ns: int | None = None) -> Courses | None:
    """A run's, at the times at which the changes were in force, since its first change or `zero_ns`; None where its
    link stayed as it was."""
    log = [line for line in read_log(folder) if line["outcome"] == "applied"]
    if not log:
        return None
    zero_ns = min(line["done_ns"] for line in log) if zero_ns is None else zero_ns
    end_s = (max(line["done_ns"] for line in log) - zero_ns) / 1e9
    traces: dict[str, Trace] = {}
    cuts: list[Cut] = []
    for which in DIRECTIONS:
        mine = [line for line in log if line["direction"] == which]
        if trace := _trace(mine, zero_ns, end_s):
            traces[which] = trace
        cuts += _cuts(mine, which, zero_ns, end_s)
    return Courses(title, traces, cuts)


def show_courses(found: Courses) -> list[str]:
    """For a terminal."""
    text = [found.title]
    for way, trace in found.traces.items():
        about = describe(trace)
        shut = f", shut {100 * about['shut_share']:.3g} % of the time" if about["shut_share"] else ""
        text.append(f"{way}: {about['points']} points in {about['period_s']:g} s, {about['format']}{shut}")
        text += lines(trace)
    return text + [f"{cut.direction}: cut from {cut.from_s:.3f} to {cut.to_s:.3f} s" for cut in found.cuts]


def course_plot(found: Courses | None, clock: str = "") -> Plot:
    """Panels one above the other: rate, delay, loss, whichever vary; shaded where nothing passed."""
    title, headings = "The link over time, as it was applied", ["way", "", "least", "mean over time", "most", "changes"]
    if found is None:
        reason = "the link stayed as it was declared: no trace, no outage"
        return Plot("link-course", title, "", Table(headings, []), reason=reason)
    keys = found.keys or ["rate_mbps"]
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "xaxis": titled("s since the first request", range=[0, found.until_s]),
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        "shapes": [_shade(cut) for cut in found.shut()],
    }
    height = (1 - GAP * (len(keys) - 1)) / len(keys)
    for panel, key in enumerate(keys):
        top, axis = 1 - panel * (height + GAP), f"y{panel + 1 if panel else ''}"
        label = titled(f"{NAMES[key]} ({UNITS[key]})", rangemode="tozero", domain=[max(0.0, top - height), top])
        layout[f"yaxis{panel + 1 if panel else ''}"] = label
        traces += [_steps(found, way, key, axis, panel == 0) for way in found.traces if key in found.traces[way].keys]
    layout["xaxis"]["anchor"] = f"y{len(keys) if len(keys) > 1 else ''}"  # below the last panel
    if not traces:  # outages alone: an axis wants something to stand on
        layout["yaxis"] = {"visible": False, "range": [0, 1]}
        traces = [{"type": "scatter", "x": [0, found.until_s], "y": [0, 0], "hoverinfo": "skip", "showlegend": False}]
    rows: list[list[Any]] = [
        [way, f"{NAMES[key]}, {UNITS[key]}", *figures.values(), len(trace.points)]
        for way, trace in found.traces.items()
        for key, figures in describe(trace)["columns"].items()
    ]
    rows += [[cut.direction, f"cut at {cut.from_s:.3f} s for {cut.to_s - cut.from_s:.3f} s"] + [None] * 4
             for cut in found.cuts]  # fmt: skip
    caption = "Each step stands where the kernel had taken the change. Shaded: nothing passed."
    return Plot("link-course", title, f"{caption} {clock}".strip(), Table(headings, rows), traces, layout,
                120 + 160 * len(keys), wide=True)  # fmt: skip


CLOCKS = {
    "system": "The time of traces and outages is that of each system's own requests: it jumps as systems take turns.",
    "request": "The time of traces and outages begins anew with each request.",
    "run": "The time of traces and outages runs through, from the first counted request on.",
}


def _only_down(path: Path, format: Format | None) -> bool:
    """Whether a csv has columns of the way down and none of the way up."""
    try:
        read_trace(path, format, "up")
    except TraceError as error:
        return "says nothing of the way" in str(error)
    return False


def _trace(log: Sequence[Mapping[str, Any]], zero_ns: int, end_s: float) -> Trace | None:
    points: dict[float, Point] = {}
    for line in log:
        if line["event"] == "point":
            t_s = max(0.0, round((line["done_ns"] - zero_ns) / 1e9, 6))
            points[t_s] = Point(t_s, **{key: line[key] for key in KEYS if key in line})
    if not points:
        return None
    ordered = [points[t_s] for t_s in sorted(points)]
    first = Point(0.0, **ordered[0].values)
    ordered = ordered if ordered[0].t_s == 0 else [first, *ordered]
    return Trace(tuple(ordered), max(end_s, ordered[-1].t_s) + 1e-3, "applied")


def _cuts(log: Sequence[Mapping[str, Any]], which: str, zero_ns: int, end_s: float) -> list[Cut]:
    cuts: list[Cut] = []
    for line in log:
        t_s = (line["done_ns"] - zero_ns) / 1e9
        if line["event"] == "cut":
            cuts.append(Cut(which, t_s, end_s))
        elif line["event"] == "mend" and cuts:
            cuts[-1] = cuts[-1]._replace(to_s=t_s)
    return cuts


def _steps(found: Courses, way: str, key: str, axis: str, legend: bool) -> dict[str, Any]:
    trace = found.traces[way]
    x = [*(point.t_s for point in trace.points), trace.period_s]
    y = [*trace.column(key), trace.column(key)[-1]]
    line = {"shape": "hv", "width": 1.4, "color": COLOURS[way], "dash": "dot" if way == "down" else "solid"}
    return {
        "type": "scatter", "mode": "lines", "x": [round(t_s, 4) for t_s in x], "y": y, "yaxis": axis, "name": way,
        "legendgroup": way, "showlegend": legend, "line": line,
        "hovertemplate": f"{way}: %{{y:.4g}} {UNITS[key]} from %{{x:.3f}} s<extra></extra>",
    }  # fmt: skip


def _shade(cut: Cut) -> dict[str, Any]:
    return {
        "type": "rect", "xref": "x", "yref": "paper", "y0": 0, "y1": 1, "x0": cut.from_s, "x1": cut.to_s,
        "fillcolor": SHADE, "line": {"width": 0}, "layer": "below",
    }  # fmt: skip
