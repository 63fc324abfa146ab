"""The link's table: declared, applied, observed, a row a parameter and direction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from experiments.report.html import number

HEADINGS = ("link", "declared", "applied", "observed")
Row = list[str | None]


def link_rows(found: Mapping[str, Any]) -> list[Row]:
    """Of what a run or a check keeps of its link; only what is not nothing."""
    observed = found.get("observed") or {}
    rows = [row for way in ("up", "down") for row in _rows(way, found, observed.get(way) or {})]
    if rtt := _observed(observed.get("rtt_ms")):
        declared = [(found.get("declared") or {}).get(way, {}).get("delay_ms") or 0.0 for way in ("up", "down")]
        rows.insert(0, ["round trip, rtt_ms", number(sum(declared)), None, rtt])
    return rows


def _rows(way: str, found: Mapping[str, Any], seen: Mapping[str, Any]) -> list[Row]:
    declared = (found.get("declared") or {}).get(way) or {}
    applied = (found.get("applied") or {}).get(way) or {}
    rows: list[Row] = []
    for key in dict.fromkeys([*declared, *applied, *seen]):
        if key.endswith("_interval_pct") or (key == "distribution" and not declared.get("jitter_ms")):
            continue
        shown = _observed(seen.get(key), seen.get(key.removesuffix("_pct") + "_interval_pct"))
        if declared.get(key) or applied.get(key) or (shown and shown != "0"):
            rows.append([f"{way}, {key}", _plain(declared.get(key)), _plain(applied.get(key)), shown])
    return rows


def _plain(value: Any) -> str | None:
    if value is None or value == {}:
        return None
    if isinstance(value, bool | str):
        return str(value)
    return number(value) if isinstance(value, int | float) else json.dumps(value)


def _observed(value: Any, interval: Any = None) -> str | None:
    """A spread as its median and 95th percentile, a share with its interval."""
    if isinstance(value, Mapping) and value.get("median") is not None:
        return f"{number(value['median'])} (p95 {number(value['p95'])}, {value['probes']} probes)"
    text = _plain(value)
    if text and interval:
        text += f" ({number(interval[0])} to {number(interval[1])})"
    return text
