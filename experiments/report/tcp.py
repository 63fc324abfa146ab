"""What TCP did meanwhile: window, round trip, what it sent again and what got across, of every system's connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.report.plot import SYSTEM_LEGEND, Plot, Style, Table, titled
from nodes.tcp_trace import TcpSample

POINTS = 200  # of a line: of more, the largest in each stretch of time is drawn
SENDERS = {"device": ("up", "solid"), "edge": ("down", "dot")}  # who sends, the way it sends, its line


@dataclass(frozen=True)
class Measure:
    id: str
    title: str
    axis: str
    caption: str
    value: Callable[[TcpSample], float]


MEASURES = (
    Measure("tcp-cwnd", "TCP: congestion window", "segments", "How much may be under way, in segments",
            lambda sample: sample.cwnd_segments),
    Measure("tcp-rtt", "TCP: round trip", "smoothed RTT (ms)", "As the sender's TCP sees it, smoothed, queues included",
            lambda sample: sample.rtt_us / 1e3),
    Measure("tcp-retransmits", "TCP: sent again", "segments", "Segments sent again since the connection was made",
            lambda sample: sample.retransmits),
    Measure("tcp-bytes", "TCP: acknowledged", "kB", "Bytes acknowledged since the connection was made",
            lambda sample: sample.bytes_acked / 1e3),
)  # fmt: skip

Lines = Mapping[tuple[str, str], Sequence[TcpSample]]  # by system and who sends, in order of time


def tcp_plots(lines: Lines, zero_ns: int, style: Style) -> list[Plot]:
    """One plot a measure, over seconds since `zero_ns`."""
    return [_plot(measure, lines, zero_ns, style) for measure in MEASURES]


def tcp_lines(samples: Sequence[TcpSample], one_clock: bool) -> Lines:
    """The connections that are some system's; the edge's only where its instants are on the device's clock."""
    lines: dict[tuple[str, str], list[TcpSample]] = {}
    for sample in samples:
        if sample.system and (one_clock or sample.node == "device"):
            lines.setdefault((sample.system, sample.node), []).append(sample)
    return {key: sorted(line, key=lambda sample: sample.t_ns) for key, line in sorted(lines.items())}


def _plot(measure: Measure, lines: Lines, zero_ns: int, style: Style) -> Plot:
    traces: list[dict[str, Any]] = []
    rows: list[list[Any]] = []
    for (system, node), line in lines.items():
        if system not in style.slots:
            continue
        way, dash = SENDERS[node]
        values = [measure.value(sample) for sample in line]
        rows.append([system, way, len(line), min(values), sorted(values)[len(values) // 2], max(values), values[-1]])
        points = thin([((sample.t_ns - zero_ns) / 1e9, value) for sample, value in zip(line, values)], POINTS)
        traces.append(
            {
                "type": "scatter", "mode": "lines", "name": system, "legendgroup": system,
                "showlegend": node == "device",
                "x": [round(t_s, 3) for t_s, _ in points], "y": [round(value, 3) for _, value in points],
                "line": {"color": style.colour(system), "width": 1.5, "dash": dash, "shape": "hv"},
                "hovertemplate": f"{system} {way}: %{{y:.4g}} at %{{x:.2f}} s<extra></extra>",
                "meta": {"system": system},
            }
        )  # fmt: skip
    layout = {
        "xaxis": titled("s since the first request"),
        "yaxis": titled(measure.axis, rangemode="tozero"),
        "legend": SYSTEM_LEGEND,
    }
    table = Table(["system", "way", "samples", "least", "median", "most", "last"], rows, [row[0] for row in rows])
    caption = f"{measure.caption}. Solid: the device sends; dotted: the edge does."
    reason = "" if traces else "no connection was sampled"
    return Plot(measure.id, measure.title, caption, table, traces, layout, 300, reason=reason)


def thin(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most so many points and the last: of each stretch of time the one with the largest value."""
    if len(points) <= most:
        return list(points)
    width_s = (points[-1][0] - points[0][0]) / most or 1.0
    largest: dict[int, tuple[float, float]] = {}
    for point in points:
        stretch = int((point[0] - points[0][0]) / width_s)
        if stretch not in largest or point[1] >= largest[stretch][1]:
            largest[stretch] = point
    return [*largest.values()]
