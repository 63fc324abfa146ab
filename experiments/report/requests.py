"""Every counted request on its own: what the means are made of, and which requests stand apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.report.plot import Figures, Plot, Style, Table, titled
from nodes.records import RequestRecord

MOST = 2000  # dots of a system; beyond, every n-th is drawn, and the caption says so


def each_request(systems: Sequence[Figures], requests: Sequence[RequestRecord], style: Style, rule: str) -> Plot:
    answered: dict[str, list[RequestRecord]] = {f["system"]: [] for f in systems}
    for request in requests:
        if request.output_tokens:
            answered[request.system].append(request)
    shown = [f for f in systems if answered[f["system"]]]
    traces: list[dict[str, Any]] = []
    rows: list[list[Any]] = []
    thinned = False
    for f in shown:
        name, far = f["system"], set(f["outlier_requests"])
        step = -(-len(answered[name]) // MOST)
        thinned |= step > 1
        drawn = [r for i, r in enumerate(answered[name]) if i % step == 0 or r.request_id in far]
        colour = style.colour(name)
        apart = [r.request_id in far for r in drawn]
        traces.append(
            {
                "type": "scatter", "mode": "markers", "y": [name] * len(drawn),
                "x": [r.e2e_ms / r.output_tokens for r in drawn], "text": [r.request_id for r in drawn],
                "meta": {"system": name}, "hovertemplate": "%{text}: %{x:.4g} ms/token<extra></extra>",
                "marker": {"color": colour, "size": [11 if out else 8 for out in apart], "opacity": 0.75,
                           "symbol": ["x-thin-open" if out else "circle-open" for out in apart],
                           "line": {"width": 2, "color": colour}},
            }
        )  # fmt: skip
        values = sorted(r.e2e_ms / r.output_tokens for r in answered[name])
        rows.append(
            [name, len(values), values[0], values[len(values) // 2], values[-1], len(far), ", ".join(sorted(far))]
        )
    caption = f"Whole requests, the prompt included. Crosses stand apart ({rule}); they count like the others."
    if thinned:
        caption += f" Of systems with more than {MOST} requests every n-th is drawn."
    layout = {
        "xaxis": titled("time per token (ms)", rangemode="tozero"),
        "yaxis": style.axis(shown),
        "showlegend": False,
    }
    headings = ["system", "requests", "least ms", "median ms", "most ms", "apart", "which"]
    table = Table(headings, rows, [f["system"] for f in shown])
    reason = "" if shown else "no request was finished"
    return Plot("requests", "Each request", caption, table, traces, layout, 96, 26, reason=reason)
