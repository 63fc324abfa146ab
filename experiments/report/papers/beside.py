"""Reported, formula and measured at every published setting that the chosen runs are at."""

from __future__ import annotations

from collections.abc import Callable

from experiments.collection import Row
from experiments.predict.reported import Beside, beside_reported
from experiments.report.papers.picture import INTERVAL, Estimate, Line, Mark, Panel
from experiments.report.papers.places import Rows

SETTING = "NTT (ms) / rate (Mbit/s) / draft length"
SPEEDUP_ALONE = "speedup_without_network"


def reported_panels(rows: Rows, label: str) -> list[Panel]:
    """A panel a published system, pair and sampling, all over the same settings."""
    beside: dict[tuple[bool, str], list[tuple[Row, Beside]]] = {}
    for row in rows.rows:
        for one in beside_reported(row, rows.collection.runs[row.run]):
            top_k = f"top-k {one.top_k}" if one.top_k else "no top-k"
            title = f"{row.system}, {one.setting.pace}, {top_k}"
            beside.setdefault((one.top_k == 0, title), []).append((row, one))
    settings = sorted({(o.setting.rtt_ms, o.setting.rate_mbps, o.setting.draft_length)
                       for ours in beside.values() for _, o in ours})  # fmt: skip
    places = [_text(*setting) for setting in settings]
    return [
        Panel(title, SETTING, label, _lines(ours), places, level=1.0, y_from_zero=True)
        for (_, title), ours in sorted(beside.items())
    ]


def _lines(ours: list[tuple[Row, Beside]]) -> list[Line]:
    lines = []
    for name, of in SPEEDUPS.items():
        marks = [
            Mark(_text(one.setting.rtt_ms, one.setting.rate_mbps, one.setting.draft_length), None, value, 1)
            for row, one in ours
            if (value := of(row, one)) is not None
        ]
        if marks:
            lines.append(Line(name, True, marks, SPEEDUP_ALONE))
    return lines


def _text(rtt_ms: float, rate_mbps: float, draft_length: int) -> str:
    return f"{rtt_ms:g}/{rate_mbps:g}/{draft_length}"


def _measured_speedup(row: Row, one: Beside) -> Estimate | None:
    """With the interval of the run's time per token; the target's own time is paced, hence as good as exact."""
    value, ends = one.measured.speedup, row.figures.get("ms_per_token_ci95")
    if value is None:
        return None
    ms_per_token = row.figures["ms_per_token"]
    if not ends:
        return Estimate(value)
    return Estimate(value, value * ms_per_token / ends[1], value * ms_per_token / ends[0], INTERVAL)


def _plain(value: float | None) -> Estimate | None:
    return None if value is None else Estimate(value)


SPEEDUPS: dict[str, Callable[[Row, Beside], Estimate | None]] = {
    "reported": lambda row, one: _plain(one.billed.speedup),
    "formula, paper's α": lambda row, one: _plain(one.formula.speedup),
    "formula, run's parts": lambda row, one: _plain(one.own_parts.speedup),
    "measured": _measured_speedup,
}
