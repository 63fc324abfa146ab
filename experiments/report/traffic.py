"""Bytes per output token, each way, counted three times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.report.plot import Figures, Plot, Style, Table, titled

COUNTS = {  # prefix of the figure: label, plotly's symbol
    "ideal_bytes": ("paper's formula", "diamond-open"),
    "bytes": ("our frames", "circle"),
    "link_bytes": ("interface counter", "line-ns-open"),
}


def bytes_per_token(systems: Sequence[Figures], style: Style) -> list[Plot]:
    """One plot up, one down."""
    return [_one_way(way, systems, style) for way in ("up", "down")]


def _one_way(way: str, systems: Sequence[Figures], style: Style) -> Plot:
    keys = {f"{count}_{way}_per_token": entry for count, entry in COUNTS.items()}
    shown = [figures for figures in systems if any(figures[key] for key in keys)]
    names = [figures["system"] for figures in shown]
    counted = any(figures[f"link_bytes_{way}_per_token"] for figures in shown)
    traces: list[dict[str, Any]] = []
    for figures in shown:  # a line through a system's counts leads the eye along its row
        found = [figures[key] for key in keys if figures[key]]
        name = figures["system"]
        traces.append(
            {
                "type": "scatter", "mode": "lines", "x": [min(found), max(found)], "y": [name, name],
                "line": {"color": style.colour(name), "width": 2}, "hoverinfo": "skip", "showlegend": False,
                "meta": {"system": name},
            }
        )  # fmt: skip
    for key, (label, symbol) in keys.items():
        if any(figures[key] for figures in shown):
            colours = [style.colour(name) for name in names]
            traces.append(
                {
                    "type": "scatter", "mode": "markers", "name": label, "y": names,
                    "x": [figures[key] or None for figures in shown], "meta": {"systems": names},
                    "marker": {"color": colours, "size": 11, "symbol": symbol, "line": {"color": colours, "width": 2}},
                    "hovertemplate": f"%{{y}} · {label}: %{{x:.4s}}B per token<extra></extra>",
                }
            )  # fmt: skip
    caption = "Logarithmic: diamond the paper's formula, circle our frames"
    caption += ", bar the interface's counter" if counted else ""
    caption += ". The formula counts the payload with 4-byte ids, the frames what we hand to the socket"
    caption += (
        ", the interface everything that left it." if counted
        else ". No interface was counted: the nodes spoke over loopback, or no counter was read."
    )  # fmt: skip
    silent = [figures["system"] for figures in systems if not figures[f"bytes_{way}_per_token"]]
    if silent:
        caption += f" No frame went {way}: {', '.join(silent)}."
    layout = {
        "xaxis": titled(f"bytes {way} per output token", type="log", exponentformat="SI", minexponent=2, dtick=1),
        "yaxis": style.axis(shown),
        "showlegend": False,
    }
    rows = [[figures["system"], *(figures[key] for key in keys)] for figures in systems]
    table = Table(["system", *(f"{label} B" for label, _ in keys.values())], rows,
                  [figures["system"] for figures in systems])  # fmt: skip
    reason = "" if shown else f"nothing went {way}"
    return Plot(f"bytes-{way}", f"Bytes {way} per token", caption, table, traces, layout, 96, 26, reason=reason)
