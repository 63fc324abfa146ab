"""A trace in words and numbers, and as lines of blocks for a terminal."""

from __future__ import annotations

from typing import Any

from netem.traces.trace import KEYS, Trace

BLOCKS = "▁▂▃▄▅▆▇█"
NOTHING = "·"  # a rate of 0
UNITS = {"rate_mbps": "Mbit/s", "delay_ms": "ms", "loss_pct": "%"}
NAMES = {"rate_mbps": "rate", "delay_ms": "delay", "loss_pct": "loss"}


def describe(trace: Trace) -> dict[str, Any]:
    """Its length, fineness and, for each column, least, mean over time and most; the share of time that is shut."""
    figures = {
        key: {"min": min(trace.column(key)), "mean": round(trace.mean(key), 6), "max": max(trace.column(key))}
        for key in trace.keys
    }
    about = {"format": trace.format, "period_s": round(trace.period_s, 6), "points": len(trace.points)}
    return {**about, "finest_s": round(trace.finest_s, 6), "shut_share": round(trace.shut_share, 6), "columns": figures}


def blocks(trace: Trace, key: str, width: int) -> str:
    """A character per time slice: the mean over it, from nothing to the column's most."""
    most = max(trace.column(key)) or 1.0
    step_s = trace.period_s / width
    means = [trace.mean_between(key, i * step_s, (i + 1) * step_s) for i in range(width)]
    return "".join(_block(mean / most, shut=key == "rate_mbps" and mean == 0) for mean in means)


def lines(trace: Trace, width: int = 72) -> list[str]:
    """The sketch, a line a column, its numbers behind it."""
    about, drawn = describe(trace), []
    for key in (key for key in KEYS if key in trace.keys):
        figures = about["columns"][key]
        numbers = f"{figures['min']:.4g} to {figures['max']:.4g}, mean {figures['mean']:.4g} {UNITS[key]}"
        drawn.append(f"{NAMES[key]:<6}{blocks(trace, key, width)}  {numbers}")
    drawn.append(f"{'':<6}0{f'{trace.period_s:g} s':>{width - 1}}")
    return drawn


def _block(share: float, shut: bool) -> str:
    return NOTHING if shut else BLOCKS[min(len(BLOCKS) - 1, int(share * len(BLOCKS)))]
