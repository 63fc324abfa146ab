"""In what runs differ: dotted keys of the configuration, and each run's value.

A sweep's manifest names its axes; beside these, every key whose value differs between the runs is one, unless another
axis settles it. Shorthands that a configuration resolves away (`link.rtt_ms`, `draft_length`, ...) are spelled again,
since they are what one varies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nodes.composition import CompositionError, load_system
from nodes.methods import MethodError, method_class

Value = str | float | bool | None
NO_AXES = ("name", "workload.sha256", "systems")  # `systems` that differ are rows that differ
SHORTHANDS = (
    "link.profile", "link.rtt_ms", "link.rate_mbps", "link.up.rate_mbps", "link.down.rate_mbps", "link.loss_pct",
    "link.jitter_ms", "draft_length", "pace", "models",
)  # fmt: skip
NUMBERS = ("link.rtt_ms", "link.rate_mbps", "link.up.rate_mbps", "link.down.rate_mbps", "link.loss_pct", "draft_length")
MACHINE = "machine"


def differing(
    runs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
) -> tuple[dict[str, set[Value]], list[dict[str, Value]]]:
    """Of (configuration, manifest) pairs: the axes with their values, and every run's place on them."""
    flat = [_spelled(config, manifest) for config, manifest in runs]
    declared = [dict((manifest.get("sweep") or {}).get("axes") or {}) for _, manifest in runs]
    for known, own in zip(flat, declared):
        known.update({key: _plain(value) for key, value in own.items()})
    names = list(dict.fromkeys(key for own in declared for key in own))
    rest = sorted({key for known in flat for key in known} - set(names) - set(SHORTHANDS) - {MACHINE})
    chosen: dict[str, list[Value]] = {}
    for key in [*names, *SHORTHANDS, MACHINE, *rest]:
        values = [known.get(key) for known in flat]
        present = (
            [i for i, known in enumerate(flat) if key in known] if key.startswith("systems.") else range(len(flat))
        )
        if len({values[i] for i in present}) < 2:
            continue
        if key in names or not _settled(key, values, present, chosen, names):
            chosen[key] = values
    places = [{key: values[i] for key, values in chosen.items()} for i in range(len(flat))]
    return {key: set(values) for key, values in chosen.items()}, places


def row_axes(entry: Mapping[str, Any]) -> dict[str, Value]:
    """What belongs to one system of a resolved configuration: `draft_length` where it is fixed, and `threshold`, of
    whatever decides what the target gets to see (p_t, u_th, c_th, a router's, the share routed at random)."""
    found: dict[str, Value] = {}
    stop = entry.get("stop") or {}
    if isinstance(stop, dict) and stop.get("policy", "fixed") == "fixed" and "length" in stop and _speculates(entry):
        found["draft_length"] = stop["length"]
    for key, value in sorted(
        flatten({part: entry.get(part) for part in ("options", "route", "upload", "stop")}).items()
    ):
        if key.split(".")[-1].endswith(("threshold", "_th", "share")) and isinstance(value, int | float):
            found["threshold"] = value  # the last in this order of parts that are swept together
    return found


def _speculates(entry: Mapping[str, Any]) -> bool:
    """Does anybody check what is drafted? A system that is not known here is believed to have it checked."""
    try:
        method = method_class(load_system(str(entry.get("system"))).method)
    except (CompositionError, MethodError):
        return True
    return method.edge_drafts or (method.drafts and method.edge)


def flatten(value: Any, prefix: str = "") -> dict[str, Value]:
    """Dotted keys and plain values; a list's elements by their name (`as`, `id`) or as one text."""
    if isinstance(value, Mapping):
        return {k: v for key, inner in value.items() for k, v in flatten(inner, f"{prefix}{key}.").items()}
    if isinstance(value, list) and value and all(isinstance(item, Mapping) and "as" in item for item in value):
        return {k: v for item in value for k, v in flatten(item, f"{prefix}{item['as']}.").items()}
    return {prefix.rstrip("."): _plain(value)}


def place(axes: Mapping[str, Value]) -> str:
    """`link.rtt_ms 20, draft_length 4`"""
    return ", ".join(f"{key} {value_text(value)}" for key, value in axes.items())


def value_text(value: Value) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _spelled(config: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Value]:
    """The flat configuration, the shorthands that hold both ways or for all systems, and the machine."""
    flat = flatten(config)
    for key in [key for key in flat if key in NO_AXES or key.endswith((".title", ".as"))]:
        del flat[key]
    link = config.get("link") or {}
    ways = [link.get(way) or {} for way in ("up", "down")]
    flat["link.rtt_ms"] = float(sum(way.get("delay_ms") or 0 for way in ways))
    for name in ("rate_mbps", "loss_pct", "jitter_ms"):
        if ways[0].get(name) == ways[1].get(name):
            flat[f"link.{name}"] = ways[0].get(name)
    entries = [entry for entry in config.get("systems") or [] if isinstance(entry, Mapping)]
    lengths = {row_axes(entry).get("draft_length") for entry in entries} - {None, 1}
    if len(lengths) == 1:
        flat["draft_length"] = lengths.pop()
    nodes = [(config.get(node) or {}).get("engine") or {} for node in ("device", "edge")]
    nodes = [node if isinstance(node, Mapping) else {"engine": node} for node in nodes]
    flat["pace"] = " + ".join(dict.fromkeys(str(_plain(node.get("pace"))) for node in nodes))
    flat["models"] = " + ".join(str(node.get("engine")) for node in nodes)
    machine = manifest.get("machine") or {}
    flat[MACHINE] = " ".join(str(machine.get(key, "")) for key in ("host", "cpu")).strip()
    return flat


def _settled(
    key: str,
    values: Sequence[Value],
    present: Sequence[int],
    chosen: Mapping[str, Sequence[Value]],
    names: Sequence[str],
) -> bool:
    """Does an axis that was chosen before say it already? A number one varies stays beside a name that implies it."""
    where = {name: [chosen[name][i] for i in present] for name in chosen}
    mine = [values[i] for i in present]
    if key in NUMBERS:
        return any(_function(one, mine) and _function(mine, one) for name, one in where.items() if name in NUMBERS)
    together = list(zip(*(where[name] for name in names if name in where)))
    return any(_function(one, mine) for one in where.values()) or (bool(together) and _function(together, mine))


def _function(of: Sequence[Any], values: Sequence[Value]) -> bool:
    seen: dict[Any, Value] = {}
    return all(seen.setdefault(at, value) == value for at, value in zip(of, values))


def _plain(value: Any) -> Value:
    if isinstance(value, str | bool | int | float | None):
        return value
    if not value:
        return None  # an empty list is what a key that is not there means
    return json.dumps(value, sort_keys=True, default=str)
