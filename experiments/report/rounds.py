"""Where a round's time goes, and how many of its drafted tokens stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.report.palette import PARTS
from experiments.report.plot import SYSTEM_LEGEND, Cell, Figures, Plot, Style, Table, titled

DODGE = 0.05  # positions apart, so that systems with equal acceptance do not hide one another


def parts_of(systems: Sequence[Figures]) -> list[str]:
    """The parts that any system's rounds have, in the order of time."""
    return [part for part in PARTS if any(part in figures["parts_ms"] for figures in systems)]


def round_parts(systems: Sequence[Figures], style: Style) -> Plot:
    shown = [figures for figures in systems if figures["parts_ms"]]
    parts = parts_of(shown)
    names = [figures["system"] for figures in shown]
    traces: list[dict[str, Any]] = [
        {
            "type": "bar", "orientation": "h", "name": PARTS[part][0], "y": names,
            "x": [figures["parts_ms"].get(part, 0.0) for figures in shown],
            "marker": {"color": f"var(--part-{part})"}, "meta": {"systems": names},
            "hovertemplate": f"%{{y}} · {PARTS[part][0]}: %{{x:.4g}} ms<extra></extra>",
        }
        for part in parts
    ]  # fmt: skip
    one_way = "network_up" in parts
    caption = "Mean over all counted rounds; the parts add up to the round. " + (
        "Both nodes read one clock, so each way of the network is a measured one-way time; rounds of several "
        "legs, where there are any, are divided likewise."
        if one_way
        else "The nodes' clocks are not the same, so the network is one block: round trip less the edge's residence."
    )
    rows = [
        [f["system"], *(f["parts_ms"].get(part) for part in parts), sum(f["parts_ms"].values()) or None]
        for f in systems
    ]
    table = Table(["system", *(f"{PARTS[part][0]} ms" for part in parts), "sum ms"], rows,
                  [figures["system"] for figures in systems])  # fmt: skip
    layout = {
        "barmode": "stack",
        "bargap": 0.35,
        "xaxis": titled("mean time of a round (ms)"),
        "yaxis": style.axis(shown),
        "showlegend": False,
    }
    reason = "" if shown else "no round was recorded"
    return Plot("round-parts", "Time per round", caption, table, traces if shown else [], layout, 96, 27,
                parts=parts, reason=reason)  # fmt: skip


def acceptance(systems: Sequence[Figures], style: Style) -> Plot:
    shown = [figures for figures in systems if figures["acceptance_by_position"]]
    traces: list[dict[str, Any]] = []
    for i, figures in enumerate(shown):
        name, shares = figures["system"], figures["acceptance_by_position"]
        offset = (i - (len(shown) - 1) / 2) * DODGE
        colour = style.colour(name)
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": name, "meta": {"system": name},
                "x": [position + offset for position in range(1, len(shares) + 1)],
                "y": [None if share is None else 100 * share for share in shares],
                "text": [str(position) for position in range(1, len(shares) + 1)],
                "hovertemplate": f"{name} · token %{{text}}: %{{y:.3g}} %<extra></extra>",
                "line": {"color": colour, "width": 1.5, "dash": "solid" if figures["exact"] else "dot"},
                "marker": {"color": colour, "size": 9, "symbol": style.symbol(name)},
            }
        )  # fmt: skip
    longest = max((len(figures["acceptance_by_position"]) for figures in shown), default=0)
    rows = [
        [
            f["system"],
            f["mean_acceptance_length"],
            *(100 * share if share is not None else None for share in f["acceptance_by_position"]),
            *[None] * (longest - len(f["acceptance_by_position"])),
        ]
        for f in systems
    ]
    table = Table(["system", "mean length", *(f"token {i} %" for i in range(1, longest + 1))], rows,
                  [figures["system"] for figures in systems])  # fmt: skip
    caption = (
        "How often the i-th drafted token of a round was kept, of the rounds that had one. Points are set apart "
        "sideways where systems share a position."
    )
    without = [figures["system"] for figures in systems if not figures["acceptance_by_position"]]
    if without:
        caption += f" Without verified drafts: {', '.join(without)}."
    layout = {
        "xaxis": titled("position in the draft", dtick=1, range=[0.5, longest + 0.5]),
        "yaxis": titled("kept (%)", rangemode="tozero"),
        "legend": SYSTEM_LEGEND,
    }
    reason = "" if shown else "no system had a draft verified"
    return Plot("acceptance", "Acceptance by position", caption, table, traces, layout, 380, reason=reason)


def acceptance_by_length(systems: Sequence[Figures], style: Style) -> Plot:
    """How many of a draft's tokens stand, by how many there were: lengths differ where a policy stops the draft, and at
    a request's end."""
    shown = [figures for figures in systems if figures["acceptance_by_length"]]
    traces: list[dict[str, Any]] = []
    for figures in shown:
        name, found = figures["system"], figures["acceptance_by_length"]
        colour = style.colour(name)
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": name, "meta": {"system": name},
                "x": [one["drafted"] for one in found], "y": [one["accepted"] for one in found],
                "text": [f"{one['rounds']} rounds" for one in found],
                "hovertemplate": f"{name} · %{{x}} drafted: %{{y:.3g}} kept (%{{text}})<extra></extra>",
                "line": {"color": colour, "width": 1.5, "dash": "solid" if figures["exact"] else "dot"},
                "marker": {"color": colour, "size": 9, "symbol": style.symbol(name)},
            }
        )  # fmt: skip
    lengths = sorted({one["drafted"] for figures in shown for one in figures["acceptance_by_length"]})
    rows: list[list[Cell]] = []
    for figures in systems:
        kept = {one["drafted"]: one["accepted"] for one in figures["acceptance_by_length"]}
        rows.append([figures["system"], *(kept.get(length) for length in lengths)])
    table = Table(["system", *(f"{length} drafted" for length in lengths)], rows, [f["system"] for f in systems])
    caption = "Mean number of drafted tokens kept, by the length of the draft; the token that follows is not counted."
    layout = {
        "xaxis": titled("drafted tokens", dtick=1),
        "yaxis": titled("kept tokens", rangemode="tozero"),
        "legend": SYSTEM_LEGEND,
    }
    reason = "" if shown else "no system had a draft verified"
    return Plot("acceptance-length", "Acceptance by draft length", caption, table, traces, layout, 380, reason=reason)
