"""What a run's folder says about energy: the `energy` block of its summary, energy.csv and emissions.csv."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from experiments.clocks import edge_clock
from experiments.energy import (
    NODES,
    WASTED,
    Baseline,
    Row,
    energy_rows,
    known_requests,
    rounds_by_request,
    summed,
    told_apart,
    wasted,
)
from experiments.store import RunFolder, replacing
from nodes.composition import System
from nodes.methods import method_class
from nodes.probes import STATUSES
from nodes.probes.energy import Counter, counters, energy_between
from nodes.probes.sampler import Sample
from nodes.records import RequestRecord, RoundRecord

RADIO = [("radio_model", "radio")]  # stands beside the nodes' joules: never added to them
COLUMNS = (
    "run_id", "node", "phase", "system", "request_id", "joules", "joules_above_idle", "seconds", "windows",
    "windows_below_resolution", "windows_outside", "step_s", "status", "source",
)  # fmt: skip
J_PER_KWH = 3.6e6
FOOTER_ROOM_BYTES = 1 << 14


@dataclass(frozen=True)
class Energy:
    """`rows` by request, all phases; `block` as in summary.json."""

    rows: list[Row]
    block: dict[str, Any]


def run_energy(folder: RunFolder) -> Energy:
    """From the records and traces alone. A folder without traces has no rows, and a block that says so."""
    broken: list[str] = []
    samples = list(folder.samples(broken))
    counted, radio = counters(samples), counters(samples, "device", RADIO)
    requests, rounds = folder.requests().records, folder.rounds().records
    one_clock = edge_clock(folder.path) is not None
    baselines = {node: _baseline(folder, node, counted) for node in NODES}
    idle_w = {node: baseline.idle_w for node, baseline in baselines.items()}
    rows = energy_rows(requests, rounds, counted, one_clock, idle_w)
    sources = folder.energy_sources()
    nodes = {
        node: {**_node(node, counted, rows, baselines[node], sources), "sampler": _sampler(folder, node)}
        for node in NODES
    }
    known = known_requests(requests, rounds_by_request(requests, rounds), counted, one_clock)
    systems = []
    for system in folder.spec().systems:
        mine = [r for r in requests if r.system == system.name and r.request_id in known]
        its_rounds = [r for r in rounds if r.system == system.name and r.request_id in known]
        its_rows = [row for row in rows if row["system"] == system.name and row["request_id"] in known]
        systems.append(_system(system, mine, its_rounds, its_rows, radio))
    return Energy(rows, {"nodes": nodes, "clocks_compared": one_clock, "broken_traces": broken, "systems": systems})


def _baseline(folder: RunFolder, node: str, counted: Sequence[Counter]) -> Baseline:
    """Measured watts at rest where the node's joules are measured and the run rested; declared ones otherwise."""
    windows = folder.node("device").get("baseline") or []
    mine = [counter for counter in counted if counter.node == node]
    if len(windows) == 2 and mine and all(counter.status == "measured" for counter in mine):
        drawn = [energy_between(mine, node, *window).joules for window in windows]
        watts = [j / ((t1 - t0) / 1e9) for j, (t0, t1) in zip(drawn, windows) if j is not None]
        if len(watts) == 2:
            return Baseline(sum(watts) / 2, "measured", *watts)
    declared = getattr(folder.spec(), node).probes.idle_w
    if declared is None:
        declared = (folder.node(node).get("engine", {}).get("pace") or {}).get("idle_w")
    return Baseline() if declared is None else Baseline(float(declared), "declared")


def _node(
    node: str,
    counted: Sequence[Counter],
    rows: Sequence[Row],
    baseline: Baseline,
    sources: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """All of a node's trace: what its rows sum to, beside what its counters counted. None over a hole in which nothing
    counted, whatever the rows around it sum to."""
    mine = [row for row in rows if row["node"] == node]
    whole = summed(mine, ("node",))
    counted_j = _counted_joules(counted, node)
    chosen = sources.get(node, {})
    reason = chosen.get("reason", "no samples")
    if whole and counted_j is None:
        reason += "; what it drew in a hole of the trace was not counted"
    return {
        "joules": whole[0]["joules"] if whole and counted_j is not None else None,
        "joules_above_idle": whole[0]["joules_above_idle"] if whole and counted_j is not None else None,
        "counted_joules": counted_j,
        "seconds": whole[0]["seconds"] if whole else None,
        "status": chosen.get("status", "unsupported"),
        "source": "+".join(chosen.get("probes", [])),
        "reason": reason,
        "baseline": asdict(baseline),
    }


def _sampler(folder: RunFolder, node: str) -> dict[str, Any] | None:
    """What the node's sampler itself took: of a core, how late its ticks were, how many it missed. None where its trace
    is not whole: it was killed, or its node was with everything that belonged to it."""
    trace = folder.path / f"power.{node}.jsonl"
    header = folder.trace_header(node)
    if not header:
        return None
    with trace.open("rb") as file:
        file.seek(max(0, trace.stat().st_size - FOOTER_ROOM_BYTES))
        last = (file.read().splitlines() or [b""])[-1]
    if not last.startswith(b'{"footer"'):
        return None
    try:
        footer = json.loads(last)["footer"]
    except ValueError:  # cut short: the disk was full
        return None
    seconds = (footer["clock"]["monotonic_ns"] - header["clock"]["monotonic_ns"]) / 1e9
    return {
        "interval_ms": header["interval_ms"],
        "cpu_pct": 100 * footer["cpu_s"] / seconds if seconds > 0 else None,
        "late_ms": footer["late_ms"],
        "ticks": footer["ticks"],
        "missed": footer["missed"],
        "errors": footer["errors"],
    }


def _counted_joules(counted: Sequence[Counter], node: str) -> float | None:
    mine = [counter for counter in counted if counter.node == node]
    if not mine:
        return None
    span = max(int(c.t_ns[0]) for c in mine), min(int(c.t_ns[-1]) for c in mine)
    return energy_between(mine, node, *span).joules


def _system(
    system: System,
    requests: Sequence[RequestRecord],
    rounds: Sequence[RoundRecord],
    rows: Sequence[Row],
    radio: Sequence[Counter],
) -> dict[str, Any]:
    tokens = sum(request.output_tokens for request in requests)
    accepted = sum(record.n_accepted for record in rounds)

    def per(joules: float | None, above: float | None, status: str, source: str) -> dict[str, Any]:
        """One number in the units that people compare."""
        over = {"token": tokens, "accepted_token": accepted, "request": len(requests)}
        each = {f"j_per_{what}": joules / n if joules is not None and n else None for what, n in over.items()}
        return {"joules": joules, "joules_above_idle": above, **each, "status": status, "source": source}

    nothing = per(None, None, "unsupported", "")
    by_node = {row["node"]: row for row in summed(rows, ("node",))}
    parts = {
        node: per(row["joules"], row["joules_above_idle"], row["status"], row["source"])
        for node, row in by_node.items()
    }
    total = nothing
    if len(parts) == len(NODES):
        both = [by_node[node] for node in NODES]
        above = None if any(r["joules_above_idle"] is None for r in both) else sum(r["joules_above_idle"] for r in both)
        status = max((row["status"] for row in both), key=STATUSES.index)
        total = per(sum(row["joules"] for row in both), above, status, "device + edge")
    aired = [energy_between(radio, "device", r.start_ns, r.end_ns).joules for r in requests] if radio else []
    on_air = [j for j in aired if j is not None]
    drafter = "edge" if method_class(system.method).edge_drafts else "device"
    return {
        "system": system.name,
        "requests": len(requests),
        "output_tokens": tokens,
        "accepted_tokens": accepted,
        **{node: parts.get(node, nothing) for node in NODES},
        "total": total,
        "radio": per(sum(on_air), None, "modelled", "radio_model") if on_air and len(on_air) == len(aired) else nothing,
        **(wasted(rows, rounds, drafter) if drafter in by_node else dict.fromkeys(WASTED)),
        "phases": told_apart(rows, ("system",)),
    }


def write_energy(folder: RunFolder, energy: Energy) -> list[str]:
    """energy.csv, energy.parquet where pyarrow is installed, emissions.csv, and all samples as power.csv; returns the
    names written."""
    rows = [{"run_id": folder.run_id, **row} for row in told_apart(energy.rows, ("system", "request_id"))]
    with replacing(folder.path / "energy.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    with replacing(folder.path / "emissions.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        row = emissions_row(folder, energy)
        emissions = csv.DictWriter(file, list(row))
        emissions.writeheader()
        emissions.writerow(row)
    with replacing(folder.path / "power.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        samples = csv.writer(file)
        samples.writerow(Sample._fields)
        samples.writerows(folder.samples())
    written = ["energy.csv", "emissions.csv", "power.csv"]
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return written
    if rows:
        table = pyarrow.Table.from_pylist(rows)
        with replacing(folder.path / "energy.parquet") as path:
            pyarrow.parquet.write_table(table.select(COLUMNS), path)
        written.append("energy.parquet")
    return written


def emissions_row(folder: RunFolder, energy: Energy) -> dict[str, Any]:
    """One run as CodeCarbon writes it: kWh of both nodes, samplers' whole span. Empty is what is not known; carbon
    is reckoned only with a declared intensity, and by no other than that."""
    manifest, nodes = folder.manifest(), energy.block["nodes"]
    software, machine = manifest.get("software", {}), manifest.get("machine", {})
    joules = [nodes[node]["joules"] for node in NODES]
    kwh = sum(joules) / J_PER_KWH if None not in joules else None
    duration_s = max((nodes[node]["seconds"] or 0.0 for node in NODES), default=0.0)
    intensity = (folder.config().get("energy") or {}).get("carbon_kg_per_kwh")
    kg = kwh * intensity if kwh is not None and intensity is not None else None
    row = {
        "timestamp": manifest.get("ended") or manifest.get("started"),
        "project_name": folder.spec().name,
        "run_id": folder.run_id,
        "duration": duration_s or None,
        "emissions": kg,
        "emissions_rate": kg / duration_s if kg is not None and duration_s else None,
        **dict.fromkeys(("cpu_power", "gpu_power", "ram_power", "cpu_energy", "gpu_energy", "ram_energy")),
        "energy_consumed": kwh,
        "os": machine.get("os"),
        "python_version": software.get("python"),
        "cpu_count": machine.get("cores_logical"),
        "cpu_model": machine.get("cpu"),
        "ram_total_size": machine["memory_bytes"] / 2**30 if machine.get("memory_bytes") else None,
        "tracking_mode": "process" if folder.spec().shared_machine else "machine",
        "dssd_energy_status": max((nodes[node]["status"] for node in NODES), key=STATUSES.index),
    }
    return {name: "" if value is None else value for name, value in row.items()}
