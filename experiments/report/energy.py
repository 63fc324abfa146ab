"""Joules per token: against time, and by what the nodes were doing. Always with how they were obtained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.energy import NODES, PHASES, WAITING, counters_by_node, known_requests, phases_of
from experiments.report.palette import PARTS
from experiments.report.plot import SYSTEM_LEGEND, Figures, Plot, Style, Table, titled
from nodes.probes.energy import Counter, attribute
from nodes.records import RequestRecord, RoundRecord

OBTAINED = {  # what an energy status means
    "measured": "read from a sensor or counter of the machine",
    "estimated": "computed from the processor's load and declared watts",
    "modelled": "computed from the declared watts of the hardware that the pacing stands for",
    "denied": "a sensor is there but may not be read",
    "unsupported": "nothing on this machine tells",
}


def pareto_front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those that no other point beats on one axis without losing on the other (less is better), from left to right."""
    front: list[tuple[float, float]] = []
    for point in sorted(set(points)):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


def with_energy(systems: Sequence[Figures]) -> dict[str, tuple[float, float]]:
    """(ms, joules) per token by system, of those whose joules are known."""
    shown = [f for f in systems if f["energy_j_per_token"] is not None and f["tokens_per_s"]]
    return {f["system"]: (1e3 / f["tokens_per_s"], f["energy_j_per_token"]) for f in shown}


def energy_delay(systems: Sequence[Figures], style: Style) -> Plot:
    """The last trace is the Pareto front; the page draws it anew for the systems that are left on it."""
    points = with_energy(systems)
    shown = [f for f in systems if f["system"] in points]
    front = pareto_front(points.values())
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter", "mode": "markers", "name": f["system"],
            "x": [points[f["system"]][0]], "y": [points[f["system"]][1]],
            "text": [f["system"]], "cliponaxis": False,
            "marker": {"color": style.colour(f["system"]), "symbol": style.symbol(f["system"]), "size": 11,
                       "line": {"color": style.colour(f["system"]), "width": 2}},
            "meta": {"system": f["system"]}, "customdata": [f["energy_status"]],
            "hovertemplate": "%{text}: %{x:.4g} ms/token, %{y:.4g} J/token (%{customdata})<extra></extra>",
        }
        for f in shown
    ]  # fmt: skip
    if front:
        traces.append({
            "type": "scatter", "mode": "lines+markers", "name": "Pareto front", "showlegend": False,
            "hoverinfo": "skip",
            "x": [x for x, _ in front], "y": [y for _, y in front], "cliponaxis": False,
            "line": {"color": "var(--muted)", "width": 1.2, "dash": "dash"}, "meta": {"front": True},
            "marker": {"symbol": "circle-open", "size": 19, "color": "var(--muted)"},
        })  # fmt: skip
    headings = ["system", "Pareto", "ms/token", "J/token", "device J/token", "edge J/token", "status", "source", "note"]
    rows = [
        [
            f["system"],
            "front" if points.get(f["system"]) in front else "",
            1e3 / f["tokens_per_s"] if f["tokens_per_s"] else None,
            f["energy_j_per_token"],
            f["energy_device_j_per_token"],
            f["energy_edge_j_per_token"],
            f["energy_status"],
            f["energy_source"],
            f["energy_note"],
        ]
        for f in systems
    ]
    statuses = dict.fromkeys(f["energy_status"] for f in shown)
    caption = "Both nodes from a request's start to its end, waiting included; lower left is better, and "
    caption += "nothing is both quicker and thriftier than what is ringed, the Pareto front. Joules are "
    caption += "; ".join(f"{status}: {OBTAINED.get(status, status)}" for status in statuses) + "."
    if any(not f["exact"] for f in shown):
        caption += " Open symbols are not exact."
    layout = {
        "xaxis": titled("time per token (ms)", rangemode="tozero"),
        "yaxis": titled("energy per token (J)", rangemode="tozero"),
        "legend": SYSTEM_LEGEND,
    }
    table = Table(headings, rows, [f["system"] for f in systems])
    return Plot("energy-delay", "Energy against delay", caption, table, traces, layout, 420,
                reason="" if shown else why_not(systems))  # fmt: skip


def why_not(systems: Sequence[Figures]) -> str:
    """Why no joules are known, in the words of those who looked for them."""
    notes = dict.fromkeys(f["energy_note"] for f in systems if f["energy_j_per_token"] is None and f["energy_note"])
    statuses = dict.fromkeys(f["energy_status"] for f in systems if f["energy_j_per_token"] is None)
    return f"energy is {', '.join(statuses) or 'not known'}: " + ("; ".join(notes) or "nothing was counted")


def j_per_token_by_phase(
    requests: Sequence[RequestRecord],
    rounds: Mapping[str, Sequence[RoundRecord]],
    counted: Sequence[Counter],
    one_clock: bool,
) -> dict[str, dict[tuple[str, str], float]]:
    """By system: joules of (node, phase) per output token, from the starts to the ends of the requests whose joules are
    known by phase. A node that did nothing for a request while it lasted was idle for it."""
    known = known_requests(requests, rounds, counted, one_clock)
    mine = [request for request in requests if request.request_id in known]
    tokens: dict[str, int] = {}
    for request in mine:
        tokens[request.system] = tokens.get(request.system, 0) + request.output_tokens
    parts = {part: part for part in PHASES}  # by their own names, finer than the phases of energy.csv
    passive = [part for part, phase in PHASES.items() if phase in WAITING]
    per_token: dict[str, dict[tuple[str, str], float]] = {}
    for node, its in counters_by_node(counted, one_clock).items():
        phases = [phase for r in mine for phase in phases_of(r, rounds[r.request_id], node, one_clock, parts)]
        for row in attribute(its, phases, node, passive=passive):
            if tokens.get(row["system"]):
                of_system = per_token.setdefault(row["system"], {})
                key = node, row["phase"]
                of_system[key] = of_system.get(key, 0.0) + row["joules"] / tokens[row["system"]]
    return per_token


def energy_by_phase(
    systems: Sequence[Figures], per_token: Mapping[str, Mapping[tuple[str, str], float]], style: Style
) -> Plot:
    """Two bars a system, one per node, stacked by phase."""
    shown = [f for f in systems if f["system"] in per_token]
    stacked = [(node, part) for node in NODES for part in PARTS]
    keys = [key for key in stacked if any(key in per_token[f["system"]] for f in shown)]

    traces: list[dict[str, Any]] = []
    for node, part in sorted(keys, key=lambda key: key[0], reverse=True):  # the last drawn is on top
        names = [f["system"] for f in shown]
        traces.append(
            {
                "type": "bar", "orientation": "h", "y": names,
                "x": [per_token[name].get((node, part), 0.0) for name in names],
                "name": PARTS[part][0], "offsetgroup": node, "alignmentgroup": "all",
                "marker": {"color": f"var(--part-{part})"}, "meta": {"systems": names},
                "hovertemplate": f"%{{y}} · {node}, {PARTS[part][0]}: %{{x:.4g}} J/token<extra></extra>",
            }
        )  # fmt: skip
    rows = [[f["system"], *(per_token.get(f["system"], {}).get(key) for key in keys)] for f in systems]
    table = Table(["system", *(f"{node}: {PARTS[part][0]} J" for node, part in keys)], rows,
                  [f["system"] for f in systems])  # fmt: skip
    nodes = list(dict.fromkeys(node for node, _ in keys))
    bars = "upper bar device, lower bar edge" if len(nodes) > 1 else f"{', '.join(nodes)} only"
    caption = (
        f"Per output token; {bars}. The joules of each node's source, divided by what it did at the time; phases "
        "shorter than the source's step are averaged over their neighbours. Requests that a hole in a trace tears are "
        "left out."
    )
    layout = {
        "barmode": "stack",
        "bargap": 0.3,
        "xaxis": titled("energy per token (J)"),
        "yaxis": style.axis(shown),
        "showlegend": False,
    }
    parts = [part for part in PARTS if any(part == key[1] for key in keys)]
    return Plot("energy-phases", "Energy by phase", caption, table, traces, layout, 96, 38,
                parts=parts, reason="" if traces else why_not(systems))  # fmt: skip
