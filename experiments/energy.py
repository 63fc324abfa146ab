"""A run's joules, shared out by node, phase, system and request, and what was spent for nothing. Pure and offline.

The rows of a node sum to what its counters counted from the first sample to the last: warm-up is the phase `warmup`,
the time between requests `idle`, and a hole in the trace `gap`. Phases whose windows together are shorter than a step
of the sensor are not told apart: `told_apart` makes them one, `unresolved`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.spans import Span, spans_of
from nodes.probes.energy import Counter, Phase, attribute, integrate
from nodes.records import RequestRecord, RoundRecord

NODES = ("device", "edge")
PHASES = {  # what a span's part is called here
    "draft": "draft", "lookahead": "lookahead", "encode": "encode", "resolve": "resolve",
    "network_up": "wait", "edge": "wait", "network_down": "wait", "network": "wait",
    "queue": "queue", "verify": "verify", "edge_other": "sample",
}  # fmt: skip
WAITING = ("wait", "queue")  # they yield to whatever is done meanwhile
SUMS = ("joules", "seconds", "windows", "windows_below_resolution", "windows_outside")
UNRESOLVED = "unresolved"
WASTED = ("rejected_drafts_j", "discarded_lookahead_j", "unverified_tokens_j")
Row = dict[str, Any]


@dataclass(frozen=True)
class Baseline:
    """Watts of a node at rest: as declared, or the mean of what was measured before and after the requests."""

    idle_w: float | None = None
    source: str = ""  # declared, measured; empty: not known
    before_w: float | None = None
    after_w: float | None = None


def energy_rows(
    requests: Sequence[RequestRecord],
    rounds: Iterable[RoundRecord],
    counted: Sequence[Counter],
    one_clock: bool,
    idle_w: Mapping[str, float | None],
) -> list[Row]:
    """Rows (node, phase, system, request_id, joules, joules_above_idle, seconds, windows ...) of every node whose
    samples can be placed on the device's clock. `joules_above_idle` is None without `idle_w` of the node; `step_s` is
    the sensor's step."""
    by_request = rounds_by_request(requests, rounds)
    rows: list[Row] = []
    for node, mine in counters_by_node(counted, one_clock).items():
        phases = [phase for r in requests for phase in phases_of(r, by_request[r.request_id], node, one_clock)]
        idle = idle_w.get(node)
        step_s = max(counter.step_ns for counter in mine) / 1e9
        for row in attribute(mine, phases, node, passive=WAITING, idle_w=idle):
            if row["seconds"] or row["joules"]:
                rows.append({"joules_above_idle": None, **row, "step_s": step_s})
    return rows


def rounds_by_request(requests: Sequence[RequestRecord], rounds: Iterable[RoundRecord]) -> dict[str, list[RoundRecord]]:
    by_request: dict[str, list[RoundRecord]] = {request.request_id: [] for request in requests}
    for record in rounds:
        if record.request_id in by_request:
            by_request[record.request_id].append(record)
    return by_request


def counters_by_node(counted: Sequence[Counter], one_clock: bool) -> dict[str, list[Counter]]:
    """Of the nodes that have any, and whose instants can be placed on the device's clock."""
    by_node = {node: [c for c in counted if c.node == node] for node in (NODES if one_clock else NODES[:1])}
    return {node: mine for node, mine in by_node.items() if mine}


def phases_of(
    request: RequestRecord,
    rounds: Sequence[RoundRecord],
    node: str,
    one_clock: bool,
    called: Mapping[str, str] = PHASES,
) -> Iterator[Phase]:
    """What the node did for a request, from its start to its end; `called` names the parts of a round."""
    whose = request.system, request.request_id
    if request.warmup or request.error:
        yield request.start_ns, request.end_ns, "warmup" if request.warmup else "failed", *whose
        return
    spans = sorted((s for s in spans_of(rounds, one_clock) if s.node == node), key=lambda span: span.t0_ns)
    for span in spans:
        yield span.t0_ns, span.t1_ns, called[span.part], *whose
    for t0_ns, t1_ns in _between(spans, request):
        yield t0_ns, t1_ns, "idle", *whose


def _between(spans: Sequence[Span], request: RequestRecord) -> Iterator[tuple[int, int]]:
    """The times of a request in which the node did nothing for it."""
    t_ns = request.start_ns
    for span in spans:
        if span.t0_ns > t_ns:
            yield t_ns, span.t0_ns
        t_ns = max(t_ns, span.t1_ns)
    if request.end_ns > t_ns:
        yield t_ns, request.end_ns


def told_apart(rows: Sequence[Row], by: Sequence[str]) -> list[Row]:
    """The rows summed by `by` and phase, those of a system that the sensor cannot resolve made one. The sum stays."""
    kept, short = [], []
    for row in summed(rows, ("node", "phase", *by)):
        if row["system"] and row["seconds"] < row["step_s"]:
            short.append({**row, "phase": UNRESOLVED})
        else:
            kept.append(row)
    return [*kept, *summed(short, ("node", "phase", *by))]


def summed(rows: Iterable[Row], by: Sequence[str]) -> list[Row]:
    """Rows that agree on `by` become one, in the order of their first; the other names are left out."""
    groups: dict[tuple[str, ...], Row] = {}
    for row in rows:
        key = tuple(row[name] for name in by)
        group = groups.setdefault(key, {
            **dict(zip(by, key)), **dict.fromkeys(SUMS, 0), "joules_above_idle": 0.0,
            "status": row["status"], "source": row["source"], "step_s": row["step_s"],
        })  # fmt: skip
        for name in SUMS:
            group[name] += row[name]
        above, more = group["joules_above_idle"], row.get("joules_above_idle")
        group["joules_above_idle"] = None if above is None or more is None else above + more
    return list(groups.values())


def known_requests(
    requests: Sequence[RequestRecord],
    rounds: Mapping[str, Sequence[RoundRecord]],
    counted: Sequence[Counter],
    one_clock: bool,
) -> set[str]:
    """Counted requests whose joules are known in every phase on every node that has any: a hole in a trace leaves out
    those of which a phase begins or ends in it. `rounds` by request."""
    mine = [request for request in requests if not request.warmup and not request.error]
    known = {request.request_id for request in mine}
    for node, its in counters_by_node(counted, one_clock).items():
        phases = [phase for r in mine for phase in phases_of(r, rounds[r.request_id], node, one_clock)]
        for counter in its:
            results = integrate(counter, [(t0_ns, t1_ns) for t0_ns, t1_ns, *_ in phases])
            known -= {phase[4] for phase, result in zip(phases, results) if result.joules is None}
    return known


def wasted(rows: Sequence[Row], rounds: Iterable[RoundRecord], drafter: str = "device") -> dict[str, float]:
    """Joules of drafting that came to nothing, or to tokens nobody verified, on the node that drafts; rows and rounds
    of one system.

    A request's watts while drafting (and while drafting ahead), times the milliseconds the tokens in question took: a
    token of a round took its share of the round. A draft made ahead that was right is what the next round proposed.
    """
    by_request: dict[str, list[RoundRecord]] = {}
    for record in rounds:
        by_request.setdefault(record.request_id, []).append(record)
    spent = {(row["request_id"], row["phase"]): row for row in rows if row["node"] == drafter}
    joules = dict.fromkeys(WASTED, 0.0)
    for request_id, mine in by_request.items():
        for phase in ("draft", "lookahead"):
            row = spent.get((request_id, phase))
            if row and row["seconds"] > 0:
                watts = row["joules"] / row["seconds"]
                for name, ms in _wasted_ms(mine, phase, drafter).items():
                    joules[name] += watts * ms / 1e3
    return joules


def _wasted_ms(rounds: Sequence[RoundRecord], phase: str, drafter: str) -> dict[str, float]:
    rejected = discarded = unverified = 0.0
    for i, record in enumerate(rounds):
        proposed: RoundRecord | None = record
        ms = record.draft_ms if drafter == "device" else record.edge_draft_ms
        if phase == "lookahead":
            ms = record.lookahead_ms
            proposed = rounds[i + 1] if record.lookahead_hit and i + 1 < len(rounds) else None
            discarded += 0.0 if record.lookahead_hit else ms
        if proposed and proposed.n_drafted:
            unverified += ms * proposed.n_unverified / proposed.n_drafted
            turned_down = proposed.n_drafted - proposed.n_accepted
            rejected += ms * turned_down / proposed.n_drafted if proposed.received_ns else 0.0
    return dict(zip(WASTED, (rejected, discarded, unverified)))
