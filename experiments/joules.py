"""What a system's requests drew: joules per token of both nodes, with how they were obtained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.statistics import ratio_interval, sums_by, units
from nodes.probes import STATUSES
from nodes.probes.energy import Counter, EnergyResult, energy_between
from nodes.records import RequestRecord

NODES = ("device", "edge")


@dataclass(frozen=True)
class Joules:
    """Per output token; None where one of the nodes' joules are not known. `status` is the worse of the two
    nodes'."""

    per_token: float | None = None
    ci95: list[float] | None = None  # of per_token
    device_per_token: float | None = None
    edge_per_token: float | None = None
    status: str = "unsupported"
    source: str = ""
    note: str = ""


def energy_of(
    requests: Sequence[RequestRecord],
    counters: Sequence[Counter],
    sources: Mapping[str, Mapping[str, Any]],
    clock_offset_ns: float | None,
) -> Joules:
    """The integral of each node's chosen source from a request's start to its end, idling included: a node
    that waits still draws. Requests whose joules are not known on both nodes (a gap in a trace) are left out
    of both sides."""
    if not requests:
        return Joules()
    by_node: dict[str, list[EnergyResult]] = {}
    missing: dict[str, list[str]] = {}  # reason: nodes
    for node in NODES:
        mine = [counter for counter in counters if counter.node == node]
        offset_ns = 0.0 if node == "device" else clock_offset_ns
        if not mine or offset_ns is None:
            reason = sources.get(node, {}).get("reason", "no samples") if not mine else "clocks were not compared"
            missing.setdefault(reason, []).append(node)
            continue
        by_node[node] = [
            energy_between(mine, node, round(r.start_ns + offset_ns), round(r.end_ns + offset_ns)) for r in requests
        ]
    notes = [f"{' and '.join(nodes)}: {reason}" for reason, nodes in missing.items()]
    known = [i for i in range(len(requests)) if all(results[i].joules is not None for results in by_node.values())]
    tokens = sum(requests[i].output_tokens for i in known)
    if not by_node or not tokens:
        flags = {flag for results in by_node.values() for result in results for flag in result.flags}
        return Joules(note="; ".join([*notes, *sorted(flags)]))
    per_token = {node: sum(results[i].joules or 0.0 for i in known) / tokens for node, results in by_node.items()}
    notes += _doubts(by_node, known, len(requests))
    statuses = [results[known[0]].status for results in by_node.values()]
    if len(by_node) < len(NODES):
        statuses.append("unsupported")
    return Joules(
        per_token=sum(per_token.values()) if len(per_token) == len(NODES) else None,
        ci95=_interval([requests[i] for i in known], _sums(by_node, known)) if len(per_token) == len(NODES) else None,
        device_per_token=per_token.get("device"),
        edge_per_token=per_token.get("edge"),
        status=max(statuses, key=STATUSES.index),
        source="; ".join(f"{node}: {results[known[0]].source}" for node, results in by_node.items()),
        note="; ".join(notes),
    )


def _sums(by_node: Mapping[str, Sequence[EnergyResult]], known: Sequence[int]) -> list[float]:
    """Joules of each known request, both nodes'."""
    return [sum(results[i].joules or 0.0 for results in by_node.values()) for i in known]


def _interval(requests: Sequence[RequestRecord], joules: Sequence[float]) -> list[float] | None:
    _, keys = units([r.prompt_id for r in requests], [r.request_id for r in requests])
    tokens = sums_by(keys, [r.output_tokens for r in requests])
    return ratio_interval(list(sums_by(keys, joules).values()), list(tokens.values()))


def _doubts(by_node: Mapping[str, Sequence[EnergyResult]], known: Sequence[int], n: int) -> list[str]:
    notes = [f"{len(known)} of {n} requests"] if len(known) < n else []
    for node, results in by_node.items():
        for flag in dict.fromkeys(flag for i in known for flag in results[i].flags):
            times = sum(1 for i in known if flag in results[i].flags)
            notes.append(f"{node}: {flag} in {times} of {len(known)}")
    return notes
