"""What there is to draw. Each kind turns chosen rows into a `Picture`; none knows how one is drawn.

over an axis      a figure of the summary, a line a system: speedup, throughput, latency, acceptance, bytes, ...
one on another    energy-delay, threshold: a point a place on the axis, or a threshold
predicted         the formulas over the measured points, residuals below
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from experiments.axes import Value, value_text
from experiments.collection import Collection, Row
from experiments.report.many.reported import remarks
from experiments.report.papers.beside import SETTING, SPEEDUP_ALONE, reported_panels
from experiments.report.papers.picture import INTERVAL, RANGE, Estimate, FigureError, Line, Mark, Panel, Picture
from experiments.report.papers.places import (
    SYSTEM,
    Choice,
    Rows,
    averaged_over,
    choose,
    default_axis,
    estimate,
    grouped,
    is_number,
    require_axis,
    values_at,
)

UNITS = {"link.rtt_ms": "round trip (ms)", "link.rate_mbps": "rate (Mbit/s)", "link.loss_pct": "loss (%)",
         "link.up.rate_mbps": "uplink rate (Mbit/s)", "link.down.rate_mbps": "downlink rate (Mbit/s)",
         "draft_length": "draft length", "threshold": "threshold", "system": "", "link": ""}  # fmt: skip
THRESHOLD, SPEEDUP = "threshold", "speedup_over_edge_ar"
REPORTED_NOTE = "speedups over the target's own time per token, without a network, as the paper has them"
INEXACT_NOTE = "open marks, dotted: output is not the target's own"


@dataclass(frozen=True)
class Metric:
    """A number of a row: `figure` names it in tables, `of` where it is not one of the summary's."""

    figure: str
    label: str
    log: bool = False
    level: float | None = None
    from_zero: bool = True
    ci95: str = ""
    of: Callable[[Row], float | None] | None = None

    def value(self, row: Row) -> float | None:
        return self.of(row) if self.of else row.figures.get(self.figure)

    def interval(self, row: Row) -> Sequence[float] | None:
        found: Sequence[float] | None = row.figures.get(self.ci95 or f"{self.figure}_ci95")
        return found

    def estimate(self, rows: Sequence[Row]) -> Estimate | None:
        return estimate(rows, self.value, self.interval)


@dataclass(frozen=True)
class Kind:
    title: str
    make: Callable[[Kind, Rows, str, str | None], tuple[list[Panel], int]]
    metrics: Sequence[Metric]
    missing: str  # what has to be there
    by: str | None = None  # the axis it has unless another is asked for

    def __str__(self) -> str:
        return f"{self.title} ({', '.join(metric.figure for metric in self.metrics)})"


def make_picture(collection: Collection, name: str, choice: Choice) -> Picture:
    """Raises FigureError for a kind, axis, value or system that is not there, and where nothing can be drawn."""
    kind = KINDS.get(name)
    if kind is None:
        raise FigureError(f"no kind of figure {name}: there are {', '.join(KINDS)}")
    rows = choose(collection, choice)
    by = choice.by or kind.by or default_axis(rows)
    if by == THRESHOLD:
        _require_thresholds(rows)
    elif by != kind.by:
        require_axis(by, rows.axes)
    if choice.panels in (by, SYSTEM):
        raise FigureError(f"--panels {choice.panels}: systems are lines and {by} is the axis; name another one")
    panels, n_rows = kind.make(kind, rows, by, choice.panels)
    if not any(panel.lines for panel in panels):
        raise FigureError(f"{name} by {by}: {kind.missing}")
    over = [] if by == kind.by else ["by", by]
    stem = "-".join([name, *over, *(["panels", choice.panels] if choice.panels else [])]).replace(".", "_")
    picture = Picture(stem, kind.title, by, panels, n_rows)
    return Picture(stem, kind.title, by, panels, n_rows, _notes(picture, rows, choice))


def _require_thresholds(rows: Rows) -> None:
    if not any(row.axes.get(THRESHOLD) is not None for row in rows.rows):
        raise FigureError("no system of these runs has a threshold; configs/thresholds.yaml makes such runs")


# Panels ---------------------------------------------------------------------------------------------------------------


def _over(kind: Kind, rows: Rows, by: str, panels: str | None) -> tuple[list[Panel], int]:
    """A row of panels a figure, a column a value of the axis `panels`."""
    found = []
    split = _split(rows, panels)
    for metric in kind.metrics:
        for title, mine in split:
            lines = _lines(mine, by, metric)
            if metric.figure == SPEEDUP and by == "link.rtt_ms":
                lines += _critical(mine)
            found.append(_panel(mine, by, metric, title, lines))
    if panels is None and len(kind.metrics) > 1:
        return found, 1  # side by side, where nothing else takes the columns
    return found, len(kind.metrics)


def _against(kind: Kind, rows: Rows, by: str, panels: str | None) -> tuple[list[Panel], int]:
    """Of the kind's two figures the first across, the second up; a point a place on the axis `by`."""
    across, up = kind.metrics
    found = []
    for title, mine in _split(rows, panels):
        lines = []
        for (name, exact), ours in _named(mine, by).items():
            marks = []
            for value, group in _places(mine.only(ours), by).items():
                x, y = across.estimate(group), up.estimate(group)
                if x and y:
                    marks.append(Mark(value, x, y, len(group)))
            if marks:
                lines.append(Line(name, exact, marks, up.figure, x_figure=across.figure))
        found.append(Panel(title, across.label, up.label, lines, x_from_zero=across.from_zero,
                           y_from_zero=up.from_zero))  # fmt: skip
    return found, 1


def _predicted(kind: Kind, rows: Rows, by: str, panels: str | None) -> tuple[list[Panel], int]:
    """The formula's line over the measured points; below, how far these are from it."""
    formula, measured, residual = kind.metrics
    split = _split(rows, panels)
    upper, lower = [], []
    for title, mine in split:
        known = mine.only([row for row in mine.rows if formula.value(row) is not None])
        drawn = [*_lines(known, by, formula, "formula"), *_lines(known, by, measured)]
        upper.append(_panel(mine, by, measured, title, drawn))
        lower.append(_panel(mine, by, residual, "", _lines(known, by, residual, "residual")))
    return [*upper, *lower], 2


def _reported(kind: Kind, rows: Rows, by: str, panels: str | None) -> tuple[list[Panel], int]:
    found = reported_panels(rows, kind.metrics[0].label)
    return found, len(found) // 2 if len(found) % 2 == 0 and found else 1


def _panel(rows: Rows, by: str, metric: Metric, title: str, lines: Sequence[Line]) -> Panel:
    values = values_at(rows, by)
    words = [] if is_number(values) else values
    return Panel(title, UNITS.get(by, by), metric.label, lines, words, metric.log, metric.level,
                 y_from_zero=metric.from_zero and not metric.log)  # fmt: skip


def _lines(rows: Rows, by: str, metric: Metric, role: str = "measured") -> list[Line]:
    lines = []
    for (system, exact), ours in _named(rows, by).items():
        marks = [
            Mark(value, None, y, len(group))
            for value, group in grouped(rows.only(ours), by).items()
            if (y := metric.estimate(group)) is not None
        ]
        if marks:
            lines.append(Line(system, exact, marks, metric.figure, role))
    return lines


def _critical(rows: Rows) -> list[Line]:
    """Where the formulas put each system's critical round trip beside edge_ar, on the line of 1; as far as twice the
    longest round trip there is."""
    longest = max(value for value in values_at(rows, "link.rtt_ms") if isinstance(value, int | float))
    lines = []
    for system, exact in _systems(rows.rows).items():
        mine = [row for row in rows.rows if row.system == system and (_critical_ms("edge_ar", row) or 0) > 0]
        at = estimate(mine, lambda row: _critical_ms("edge_ar", row), lambda row: None)
        if at and at.value <= 2 * longest:
            lines.append(Line(system, exact, [Mark(None, at, Estimate(1.0), len(mine))], SPEEDUP, "critical",
                              "critical_rtt_ms_edge_ar"))  # fmt: skip
    return lines


def _critical_ms(rival: str, row: Row) -> float | None:
    found: float | None = ((row.figures.get("predicted") or {}).get("critical_rtt_ms") or {}).get(rival)
    return found


def _split(rows: Rows, panels: str | None) -> list[tuple[str, Rows]]:
    if panels is None:
        return [("", rows)]
    return [(f"{panels} {value_text(value)}", rows.only(group)) for value, group in grouped(rows, panels).items()]


def _systems(rows: Sequence[Row]) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for row in rows:
        found[row.system] = found.get(row.system, True) and bool(row.figures["exact"])
    return found


def _named(rows: Rows, by: str) -> dict[tuple[str, bool], list[Row]]:
    """A line's name, and its rows: a system; over thresholds a published system, whatever its entries are called."""
    found: dict[tuple[str, bool], list[Row]] = {}
    exact = _systems(rows.rows)
    for row in rows.rows:
        swept = by == THRESHOLD and row.axes.get(THRESHOLD) is not None
        name = row.kind if swept else row.system
        found.setdefault((name, exact[row.system]), []).append(row)
    return found


def _places(rows: Rows, by: str) -> dict[Value, list[Row]]:
    """By place on the axis; what has none (a system without a threshold) is one point."""
    if by != THRESHOLD:
        return grouped(rows, by)
    found: dict[Value, list[Row]] = {}
    for row in sorted(rows.rows, key=lambda row: row.axes.get(THRESHOLD) or 0):
        found.setdefault(row.axes.get(THRESHOLD), []).append(row)
    return found


def _notes(picture: Picture, rows: Rows, choice: Choice) -> list[str]:
    """What a caption has to say."""
    notes = [f"{key} = {value}" for key, value in choice.where.items()]
    groups = (
        []
        if picture.by == SETTING
        else [
            group
            for _, panel in _split(rows, choice.panels)
            for (name, _), ours in _named(panel, picture.by).items()
            for group in _places(panel.only(ours), picture.by).values()
        ]
    )
    over = averaged_over(rows, groups, [picture.by, choice.panels])
    if over:
        notes.append(f"means over {', '.join(over)}")
    spreads = {end.spread for line in picture.lines for mark in line.marks for end in (mark.x, mark.y) if end}
    notes += [f"bars: {what}" for what in (_bars(spreads),) if what]
    if not all(picture.systems.values()):
        notes.append(INEXACT_NOTE)
    if any(line.role == "formula" for line in picture.lines):
        notes.append("dashed: formula with the run's own measured parts; below: residual of the measurement")
    if picture.by == SETTING:
        notes += [REPORTED_NOTE, *remarks(rows.collection)]
    if any(line.role == "critical" for line in picture.lines):
        notes.append("ticks on the line of 1: the round trip at which the formulas see edge_ar as fast")
    if any(row.figures.get("speedup_beside") for row in rows.rows) and SPEEDUP in _figures(picture):
        notes.append(
            "speedups of runs without edge_ar are over that of a run beside them, on the same prompts and coins"
        )
    labels = sorted({label for row in rows.rows for label in row.figures.get("labels", [])})
    notes += [f"compute: {', '.join(labels)}"] if labels else []
    if any("energy" in line.figure or "power" in line.figure for line in picture.lines):
        notes.append("energy " + ", ".join(sorted({str(row.figures["energy_status"]) for row in rows.rows})))
    return notes


def _figures(picture: Picture) -> set[str]:
    return {line.figure for line in picture.lines}


def _bars(spreads: set[str]) -> str:
    return ", ".join(text for key, text in ((INTERVAL, "95 % bootstrap intervals"), (RANGE, RANGE)) if key in spreads)


# The kinds ------------------------------------------------------------------------------------------------------------


def _watts(node: str) -> Callable[[Row], float | None]:
    def of(row: Row) -> float | None:
        joules, ms = row.figures.get(f"energy_{node}_j_per_token"), row.figures.get("ms_per_token")
        return 1e3 * joules / ms if joules is not None and ms else None

    return of


def _in_prediction(figure: str, label: str, key: str, **more: object) -> Metric:
    return Metric(figure, label, of=lambda row: (row.figures.get("predicted") or {}).get(key), **more)  # type: ignore[arg-type]


class _Measured(Metric):
    def interval(self, row: Row) -> Sequence[float] | None:
        found: Sequence[float] | None = (row.figures.get("predicted") or {}).get("ms_per_token_measured_ci95")
        return found


class _Residual(Metric):
    """The measurement's interval beside the formula, which is taken as it stands."""

    def interval(self, row: Row) -> Sequence[float] | None:
        found = row.figures.get("predicted") or {}
        ends = found.get("ms_per_token_measured_ci95")
        return [100 * (end / found["ms_per_token"] - 1) for end in ends] if ends else None


MS_PER_TOKEN = Metric("ms_per_token", "time per token (ms)")
SECONDS = "no request was answered"
DRAFTS = "no draft was verified"
JOULES = "no run has the joules of both nodes"
KINDS: dict[str, Kind] = {
    "speedup": Kind("Speedup over edge_ar", _over,
                    [Metric(SPEEDUP, "speedup over edge_ar", level=1.0)],
                    "no run has edge_ar, nor a run beside it on the same link and workload that has"),
    "throughput": Kind("Tokens per second", _over, [Metric("tokens_per_s", "tokens/s")], SECONDS),
    "latency": Kind("Time per output token", _over, [Metric("tpot_ms", "TPOT (ms)")], SECONDS),
    "ttft": Kind("Time to first token", _over, [Metric("ttft_ms", "TTFT (ms)")], SECONDS),
    "time": Kind("Time per token of whole requests", _over, [MS_PER_TOKEN], SECONDS),
    "acceptance": Kind("Mean acceptance length", _over,
                       [Metric("mean_acceptance_length", "acceptance length (tokens)")], DRAFTS),
    "bytes": Kind("Bytes per token", _over,
                  [Metric("bytes_up_per_token", "bytes up per token", log=True),
                   Metric("bytes_down_per_token", "bytes down per token", log=True)], "nothing crossed the link"),
    "network": Kind("Share of time on the network", _over,
                    [Metric("network_share", "network share of time")], "nothing crossed the link"),
    "energy": Kind("Energy per token", _over, [Metric("energy_j_per_token", "energy per token (J)")], JOULES),
    "power": Kind("Mean power while a request runs", _over,
                  [Metric("device_power_w", "device power (W)", of=_watts("device")),
                   Metric("edge_power_w", "edge power (W)", of=_watts("edge"))], "no run has joules"),
    "energy-delay": Kind("Energy against delay", _against,
                         [MS_PER_TOKEN, Metric("energy_j_per_token", "energy per token (J)")], JOULES),
    "threshold": Kind("Quality against calls of the target", _against,
                      [Metric("target_calls_per_token", "calls of the target per token"),
                       Metric("target_logprob_per_token", "log-likelihood per token", from_zero=False,
                              ci95="target_logprob_ci95")],
                      "no answers were judged by the target", by=THRESHOLD),
    "unverified": Kind("Unverified tokens against calls of the target", _against,
                       [Metric("target_calls_per_token", "calls of the target per token"),
                        Metric("unverified_share", "share of unverified tokens")],
                       "nothing was recorded", by=THRESHOLD),
    "predicted": Kind("Predicted against measured", _predicted,
                      [_in_prediction("predicted_ms_per_token", "time per token (ms)", "ms_per_token"),
                       _Measured("steady_ms_per_token", "time per token (ms)",
                                 of=lambda row: (row.figures.get("predicted") or {}).get("ms_per_token_measured")),
                       _Residual("residual_pct", "residual (%)", level=0.0, from_zero=False,
                                 of=lambda row: (row.figures.get("predicted") or {}).get("residual_pct"))],
                      "no formula describes these systems, or no request had a second round"),
    "reported": Kind("What a paper reports, its formula and the measurement", _reported,
                     [Metric(SPEEDUP_ALONE, "speedup over the target alone", level=1.0)],
                     "no run is at a setting that a paper has numbers for; configs/paper-dssd.yaml makes such runs",
                     by=SETTING),
    "critical": Kind("Critical round trip by the formulas", _over,
                     [Metric("critical_rtt_ms_edge_ar", "critical RTT beside edge_ar (ms)", from_zero=False, level=0.0,
                             of=partial(_critical_ms, "edge_ar")),
                      Metric("critical_rtt_ms_colocated_sd", "beside colocated_sd (ms)", from_zero=False, level=0.0,
                             of=partial(_critical_ms, "colocated_sd"))],
                     "no run has a formula's system together with edge_ar or colocated_sd"),
}  # fmt: skip
