"""Power over time of both nodes with the phases behind it, for requests that the reader picks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.report.data import RunData
from experiments.report.html import number
from experiments.report.palette import PARTS
from experiments.report.plot import Plot, Table
from experiments.spans import spans_of
from nodes.probes.energy import Counter, power_w
from nodes.records import RequestRecord, RoundRecord

MOST_PER_SYSTEM = 6  # requests offered; the page has to stay small
MOST_ROUNDS = 400  # of one request: beyond, its timeline is cut, and says so
FINEST_STEP_MS = 10.0
NODES = ("device", "edge")
Power = Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]]  # by node: [n] t_ns, [n] watts


def timelines(run: RunData) -> dict[str, Any]:
    """What the page's script draws: by system a list of requests with their spans and power, times in ms since the
    request began. `first` is the system shown first: the one whose device drafts most for an edge to verify."""
    step_ms = power_step_ms(run.power)
    power = {node: power_w(run.power, node, step_ms) for node in NODES if node == "device" or run.one_clock}
    by_system: dict[str, list[RequestRecord]] = {}
    for request in run.requests:
        if run.rounds[request.request_id]:
            by_system.setdefault(request.system, []).append(request)
    shown = {
        figures["system"]: [
            _timeline(request, run.rounds[request.request_id], power, run.one_clock, step_ms)
            for request in _spread(by_system[figures["system"]])
        ]
        for figures in run.systems
        if figures["system"] in by_system
    }
    split = [f for f in run.systems if f["system"] in shown and f["parts_ms"].get("verify")]
    most = max(split, key=lambda f: f["parts_ms"]["draft"] / sum(f["parts_ms"].values()), default=None)
    return {
        "systems": shown,
        "counts": {system: len(mine) for system, mine in by_system.items()},
        "parts": {part: row[0] for part, row in PARTS.items()},
        "step_ms": step_ms,
        "first": most["system"] if most else next(iter(shown), ""),
    }


def timeline_plot(run: RunData, offered: Mapping[str, Any]) -> Plot:
    """The plot around it: what is drawn comes from the script."""
    caption = "Colours behind the lines are what each node was doing; draft ahead, where there is any, is the low bar."
    measured = [node for node in NODES if node not in run.power_missing and (run.one_clock or node == "device")]
    if measured:
        caption += f" Lines: power in watts ({', '.join(measured)}), means over {number(offered['step_ms'])} ms."
    reasons = dict.fromkeys(run.power_missing.values())
    missing = {reason: [node for node, why in run.power_missing.items() if why == reason] for reason in reasons}
    caption += "".join(f" No power of {' and '.join(nodes)}: {reason}." for reason, nodes in missing.items())
    if not run.one_clock:
        caption += " The edge has another clock: its work is placed in the middle of the round trip, without power."
    fewer = {s: n for s, n in offered["counts"].items() if n > len(offered["systems"][s])}
    if fewer:
        caption += f" Offered are {MOST_PER_SYSTEM} requests of each system, from its first to its last."
    if any(request["cut"] for mine in offered["systems"].values() for request in mine):
        caption += f" Timelines end after {MOST_ROUNDS} rounds."
    rows = [
        [system, request["request_id"], request["e2e_ms"], request["rounds"], *(_mean_w(request, n) for n in NODES)]
        for system, mine in offered["systems"].items()
        for request in mine
    ]
    table = Table(["system", "request", "ms", "rounds", *(f"mean {node} W" for node in NODES)], rows,
                  [str(row[0]) for row in rows])  # fmt: skip
    used = {part for mine in offered["systems"].values() for request in mine for node in NODES
            for part in request["spans"][node]}  # fmt: skip
    parts = [part for part in PARTS if part in used]
    reason = "" if offered["systems"] else "no round was recorded"
    return Plot("timeline", "Power and phases over time", caption, table, wide=True, parts=parts, reason=reason)


def pickers(offered: Mapping[str, Any]) -> str:
    """The two lists to choose from; the script fills the second."""
    options = "".join(f"<option>{escape(system)}</option>" for system in offered["systems"])
    return (
        f'<div class="pick"><select id="timeline-system" aria-label="System">{options}</select>'
        '<select id="timeline-request" aria-label="Request"></select></div>'
    )


def _mean_w(request: Mapping[str, Any], node: str) -> float | None:
    t_ms, watts = request["power"].get(node) or ([], [])
    during = [w for t, w in zip(t_ms, watts) if w is not None and 0 <= t <= request["e2e_ms"]]
    return sum(during) / len(during) if during else None


def power_step_ms(counted: Sequence[Counter]) -> float:
    """As fine as the slowest counter moves."""
    steps = [counter.step_ns / 1e6 for counter in counted if np.isfinite(counter.step_ns) and counter.step_ns]
    return round(max([FINEST_STEP_MS, *steps]), 1)


def _spread(requests: Sequence[RequestRecord]) -> list[RequestRecord]:
    """A few of them, from the first to the last."""
    if len(requests) <= MOST_PER_SYSTEM:
        return list(requests)
    places = np.linspace(0, len(requests) - 1, MOST_PER_SYSTEM).round().astype(int)
    return [requests[i] for i in places]


def _timeline(
    request: RequestRecord, rounds: Sequence[RoundRecord], power: Power, one_clock: bool, step_ms: float
) -> dict[str, Any]:
    def ms(t_ns: int) -> float:
        return round((t_ns - request.start_ns) / 1e6, 3)

    spans: dict[str, dict[str, list[Any]]] = {node: {} for node in NODES}
    for span in spans_of(rounds[:MOST_ROUNDS], one_clock):
        row = [ms(span.t0_ns), round((span.t1_ns - span.t0_ns) / 1e6, 3), span.record.round]
        spans[span.node].setdefault(span.part, []).append(row)
    margin_ns = int(max(2 * step_ms * 1e6, 0.03 * (request.end_ns - request.start_ns)))
    return {
        "request_id": request.request_id,
        "e2e_ms": round(request.e2e_ms, 3),
        "rounds": len(rounds),
        "cut": len(rounds) > MOST_ROUNDS,
        "spans": spans,
        "power": {
            node: _window(*power[node], request.start_ns - margin_ns, request.end_ns + margin_ns, request.start_ns)
            for node in power
        },
    }


def _window(
    t_ns: NDArray[np.int64], watts: NDArray[np.float64], from_ns: int, to_ns: int, zero_ns: int
) -> list[list[float | None]]:
    """[t_ms, watts] between two instants; None in a hole of the trace."""
    first, last = np.searchsorted(t_ns, [from_ns, to_ns])
    t_ms = ((t_ns[first:last] - zero_ns) / 1e6).round(2).tolist()
    return [t_ms, [None if np.isnan(w) else round(w, 3) for w in watts[first:last].tolist()]]
