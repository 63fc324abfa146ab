"""What the literature's formulas say of a round, from the run's own parts, beside what the rounds took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.report.plot import Cell, Figures, Plot, Style, Table, titled

HEADINGS = (
    "system", "γ", "α", "T_SLM ms", "T_LLM ms", "D_up B", "D_down B", "formula", "round ms, formula", "measured",
    "residual %", "with TCP's windows ms", "tokens a round, formula", "measured ", "ms/token, formula", "measured  ",
    "residual  %", "speedup over edge_ar, formula", "measured   ", "SD walltime factor",
    "critical RTT beside edge_ar ms", "beside colocated_sd ms",
)  # fmt: skip
CRITICAL = (
    "A critical round trip is where the formulas see both equally fast; below zero there is none, and one link's bytes "
    "are billed at that link's rate."
)


def predicted(systems: Sequence[Figures], style: Style) -> Plot:
    shown = [figures for figures in systems if figures["predicted"].get("round_ms")]
    traces: list[dict[str, Any]] = []
    for f in shown:
        name, found, colour = f["system"], f["predicted"], style.colour(f["system"])
        ends = [found["round_ms"], found["round_ms_measured"]]
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "x": ends, "y": [name, name], "meta": {"system": name},
                "text": [f"formula {found['formula']}", f"measured, {found['round_residual_pct']:+.1f} %"],
                "line": {"color": colour, "width": 2},
                "marker": {"color": colour, "size": 11, "symbol": ["diamond-open", "circle"], "opacity": 1,
                           "line": {"color": colour, "width": 2}},
                "hovertemplate": "%{y}: %{x:.4g} ms, %{text}<extra></extra>",
            }
        )  # fmt: skip
    caption = (
        "Open diamond the formula, circle what the rounds took, each request's first left out. Drafting and verifying "
        "as measured, bytes as the paper counts them, the link as declared. " + CRITICAL
    )
    without = {f["system"]: f["predicted"].get("why_not") for f in systems if f["predicted"].get("why_not")}
    caption += "".join(f" {system}: {why}." for system, why in without.items())
    layout = {
        "xaxis": titled("mean time of a round (ms)", rangemode="tozero"),
        "yaxis": style.axis(shown),
        "showlegend": False,
    }
    table = Table(HEADINGS, [_row(f) for f in systems], [f["system"] for f in systems])
    reason = "" if shown else "; ".join(dict.fromkeys(filter(None, without.values()))) or "nothing was predicted"
    return Plot("predicted", "Predicted against measured", caption, table, traces, layout, 96, 27, reason=reason)


def _row(f: Figures) -> list[Cell]:
    found, parts = f["predicted"], f["measured_parts"] or {}
    critical = found.get("critical_rtt_ms") or {}
    return [
        f["system"],
        *(parts.get(key) for key in ("draft_length", "acceptance", "draft_ms", "target_ms", "up_bytes", "down_bytes")),
        found.get("formula") or found.get("why_not"),
        *(found.get(key) for key in ("round_ms", "round_ms_measured", "round_residual_pct", "round_ms_with_tcp")),
        *(found.get(key) for key in ("tokens_per_round", "tokens_per_round_measured")),
        *(found.get(key) for key in ("ms_per_token", "ms_per_token_measured", "residual_pct")),
        *(found.get("speedup_over_edge_ar"), f.get("speedup_over_edge_ar"), found.get("sd_walltime_factor")),
        *(critical.get(rival) for rival in ("edge_ar", "colocated_sd")),
    ]
