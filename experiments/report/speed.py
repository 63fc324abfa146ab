"""Tokens per second, and how long tokens take to arrive."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from experiments.report.html import number
from experiments.report.plot import Figures, Plot, Style, Table, known, named, titled
from nodes.records import RequestRecord

LATENCIES = {  # key: title, axis, how it is meant
    "ttft": ("Time to first token", "TTFT (ms)", "one value per request: its start to its first settled token"),
    "tpot": ("Time per output token", "TPOT (ms)", "one value per request: (last − first token) / (tokens − 1)"),
    "itl": (
        "Inter-token latency",
        "ITL (ms)",
        "one value per arrival; tokens that one round settles together count as one arrival",
    ),
}
PERCENTILES = (50, 90, 99)


def tokens_per_s(systems: Sequence[Figures], style: Style) -> Plot:
    shown = known(systems, "tokens_per_s")
    names = [figures["system"] for figures in shown]
    intervals = [figures["tokens_per_s_ci95"] for figures in shown]
    rates = [figures["tokens_per_s"] for figures in shown]
    traces: list[dict[str, Any]] = []
    for name, rate, interval in zip(names, rates, intervals):
        error = {"array": [interval[1] - rate], "arrayminus": [rate - interval[0]]} if interval else {}
        traces.append(
            {
                "type": "bar", "orientation": "h", "x": [rate], "y": [name], "marker": style.bar(name),
                "meta": {"system": name}, "hovertemplate": "%{y}: %{x:.4g} tokens/s<extra></extra>",
                "error_x": {"type": "data", "symmetric": False, "color": "var(--text)", "thickness": 1.2,
                            "width": 3, **error} if error else {"visible": False},
            }
        )  # fmt: skip
    traces.append(
        {
            "type": "scatter", "mode": "text", "x": [i[1] if i else r for r, i in zip(rates, intervals)], "y": names,
            "text": [f" {number(float(f'{rate:.3g}'))}" for rate in rates], "textposition": "middle right",
            "cliponaxis": False, "hoverinfo": "skip", "meta": {"systems": names},
        }
    )  # fmt: skip
    inexact = [figures for figures in shown if not figures["exact"]]
    caption = "Output tokens of all counted requests over the time they took, one request at a time."
    if any(intervals):
        drawn = ", ".join(dict.fromkeys(figures["intervals_over"] for figures in shown))
        caption += f" Whiskers: 95 % bootstrap interval over {drawn}; beside edge_ar the same ones are paired."
    without = [figures for figures in shown if not figures["tokens_per_s_ci95"]]
    if without:
        whose = "" if len(without) == len(shown) else f": {named(without)}"
        caption += f" No interval, for want of requests{whose}."
    if inexact:
        caption += f" Hatched, not the large model's output: {named(inexact)}."
    rows = [
        [
            f["system"],
            f["tokens_per_s"],
            *(f["tokens_per_s_ci95"] or [None, None]),
            f["speedup_over_edge_ar"],
            *(f["speedup_over_edge_ar_ci95"] or [None, None]),
            f["speedup_p_value"],
            f["speedup_requests"],
        ]
        for f in systems
    ]
    headings = ["system", "tokens/s", "95 % from", "to", "vs edge_ar", "95 % from ", "to ", "p", "requests of both"]
    table = Table(headings, rows, [figures["system"] for figures in systems])
    layout = {
        "xaxis": titled("tokens/s", rangemode="tozero"),
        "yaxis": style.axis(shown),
        "bargap": 0.35,
        "showlegend": False,
        "margin": {"r": 48},
    }
    reason = "" if shown else "no request was finished"
    return Plot("tokens-per-s", "Tokens per second", caption, table, traces if shown else [], layout, 96, 27,
                reason=reason)  # fmt: skip


def latency_values_ms(requests: Sequence[RequestRecord]) -> dict[str, dict[str, list[float]]]:
    """By kind of latency and system, all values; `requests` are those that count."""
    values: dict[str, dict[str, list[float]]] = {kind: {} for kind in LATENCIES}
    for request in requests:
        arrivals = sorted(set(request.token_ms))
        found = {
            "ttft": [request.ttft_ms] if request.output_tokens else [],
            "tpot": [] if request.tpot_ms is None else [request.tpot_ms],
            "itl": [later - earlier for earlier, later in pairwise(arrivals)],
        }
        for kind, new in found.items():
            values[kind].setdefault(request.system, []).extend(new)
    return values


def latencies(systems: Sequence[Figures], requests: Sequence[RequestRecord], style: Style) -> list[Plot]:
    """One plot for each kind: the 50th, 90th and 99th percentile of every system."""
    values = latency_values_ms(requests)
    return [_latency(kind, values[kind], systems, style) for kind in LATENCIES]


def _latency(kind: str, values: dict[str, list[float]], systems: Sequence[Figures], style: Style) -> Plot:
    title, axis, meaning = LATENCIES[kind]
    shown = [figures for figures in systems if values.get(figures["system"])]
    traces: list[dict[str, Any]] = []
    rows: list[list[Any]] = []
    for figures in systems:
        name, mine = figures["system"], values.get(figures["system"], [])
        marks = np.percentile(mine, PERCENTILES).tolist() if mine else [None] * len(PERCENTILES)
        rows.append([name, len(mine), *marks, max(mine, default=None)])
        if mine:
            colour = style.colour(name)
            traces.append(
                {
                    "type": "scatter", "mode": "lines+markers", "x": marks, "y": [name] * len(marks),
                    "text": [f"p{p}" for p in PERCENTILES], "meta": {"system": name},
                    "hovertemplate": "%{y} %{text}: %{x:.4g} ms<extra></extra>",
                    "line": {"color": colour, "width": 3},
                    "marker": {"color": colour, "size": [11, 9, 12], "symbol": ["circle", "diamond", "line-ns-open"],
                               "line": {"color": colour, "width": 3}, "opacity": 1},
                }
            )  # fmt: skip
    counts = [len(mine) for mine in values.values() if mine]
    caption = f"Circle p50, diamond p90, bar p99; {meaning}."
    if counts:
        few, many = min(counts), max(counts)
        caption += f" Values per system: {few}." if few == many else f" Values per system: {few} to {many}."
        if few < 100:
            caption += " Of fewer than 100 values p99 is all but the largest."
    layout = {
        "xaxis": titled(axis, rangemode="tozero"),
        "yaxis": style.axis(shown),
        "showlegend": False,
    }
    table = Table(["system", "values", *(f"p{p} ms" for p in PERCENTILES), "max ms"], rows,
                  [figures["system"] for figures in systems])  # fmt: skip
    reason = "" if shown else "no request has such a value"
    return Plot(f"latency-{kind}", title, caption, table, traces, layout, 96, 24, reason=reason)
