"""From records to the figures that tables and plots show: one flat record per system, plain finite JSON.

Names follow vLLM and the serving benchmarks; where a definition could be read in two ways it is written out
below. Warm-up and failed requests never count. `*_ci95` are bootstrap intervals (statistics.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from experiments.baselines import absent_baselines
from experiments.clocks import describe_clock
from experiments.intervals import apart, beside, comparisons, intervals
from experiments.joules import Joules, energy_of
from experiments.predict import predict
from experiments.quality import asked, with_quality
from experiments.statistics import OUTLIER_RULE
from experiments.store import RunFolder
from nodes.composition import System
from nodes.methods import method_class
from nodes.policies.route import make_route
from nodes.probes.energy import Counter, counters
from nodes.records import RequestRecord, RoundRecord

FORMAT = 7  # of summary.json: raised whenever a figure is added or means something else
PARTS = ("draft", "encode", "network_up", "network_down", "queue", "verify", "edge_other", "resolve")


def summarise_run(run: RunFolder) -> dict[str, Any]:
    """The summary of a run's folder, from what is recorded there and nothing else."""
    spec = run.spec()
    rounds, requests, manifest = run.rounds(), run.requests(), run.manifest()
    events = list(manifest.get("events", []))
    for file, read in (("rounds.jsonl", rounds), ("requests.jsonl", requests)):
        if read.damaged:
            events.append({"event": "damaged_lines", "file": file, "lines": read.damaged})
    ends = [name for name in run.cut_short() if name not in ("rounds.jsonl", "requests.jsonl")]
    events += [{"event": "damaged_lines", "file": name, "lines": 1} for name in ends]
    broken: list[str] = []
    power = counters(run.samples(broken))
    events += [{"event": "broken_trace", "what": what} for what in broken]
    clock = describe_clock(run.path, [t_ns for r in requests.records for t_ns in (r.start_ns, r.end_ns)])
    summary = summarise(
        spec.name,
        run.run_id,
        spec.systems,
        rounds.records,
        requests.records,
        power,
        energy_sources=run.energy_sources(),
        link=run.link(),
        events=events,
        clock_offset_ns=0.0 if clock["compared"] else None,  # the folder's records are on the device's clock already
    )
    quality = run.quality()
    summary["systems"] = [finite(with_quality(figures, quality)) for figures in summary["systems"]]
    models = {node: model for node in ("device", "edge") if (model := run.node(node).get("engine"))}
    held = spec.device.cpus or spec.device.cpu_share or spec.device.cpu_max_mhz
    return {
        **summary,
        "status": manifest.get("status", ""),
        "models": models,
        "quality": asked(quality),
        "clock": finite(clock),
        "device_limits": run.node("device").get("limits", {}) if held else {},
    }


def summarise(
    name: str,
    run_id: str,
    systems: Sequence[System],
    rounds: Sequence[RoundRecord],
    requests: Sequence[RequestRecord],
    energy: Sequence[Counter] = (),
    *,
    energy_sources: Mapping[str, Mapping[str, Any]] | None = None,
    link: Mapping[str, Any] | None = None,
    events: Iterable[Mapping[str, Any]] = (),
    clock_offset_ns: float | None = 0.0,
) -> dict[str, Any]:
    """`energy` are both nodes' counters, `energy_sources` what their samplers chose and why.
    `clock_offset_ns`: edge's clock minus device's, 0 on one host, None where it was not measured: the two
    ways are then not told apart."""
    counted = [request for request in requests if not request.warmup and not request.error]
    by_request: dict[str, list[RoundRecord]] = {request.request_id: [] for request in counted}
    for record in rounds:
        if not record.warmup and record.request_id in by_request:
            by_request[record.request_id].append(record)
    records = []
    for system in systems:
        mine = [request for request in counted if request.system == system.name]
        its_rounds = [record for request in mine for record in by_request[request.request_id]]
        joules = energy_of(mine, energy, energy_sources or {}, clock_offset_ns)
        failed = sum(1 for r in requests if r.system == system.name and r.error)
        records.append(_record(system, mine, its_rounds, joules, failed, clock_offset_ns))
    base = next((r for s, r in zip(systems, records) if _is_edge_alone(s) and r["tokens_per_s"]), None)
    pairs = comparisons(counted, [figures["system"] for figures in records])
    for figures in records:
        figures.update(beside(figures, base, pairs))
    predict(systems, records, by_request, link or {})
    summary = {
        "format": FORMAT,
        "name": name,
        "run_id": run_id,
        "link": dict(link or {}),
        "labels": sorted({label for request in counted for label in request.labels}),
        "requests": len(counted),
        "systems": records,
        "comparisons": pairs,
        "absent_baselines": absent_baselines(systems),
        "outlier_rule": OUTLIER_RULE,
        "events": [dict(event) for event in events],
    }
    return finite(summary)


def _is_edge_alone(system: System) -> bool:
    return system.method == "edge_ar" and not make_route(system.route).decides


def _record(
    system: System,
    requests: Sequence[RequestRecord],
    rounds: Sequence[RoundRecord],
    joules: Joules,
    failed: int,
    clock_offset_ns: float | None,
) -> dict[str, Any]:
    tokens = sum(request.output_tokens for request in requests)
    e2e_ms = sum(request.e2e_ms for request in requests)
    answered = [request for request in requests if request.output_tokens]
    ttft_ms = [request.ttft_ms for request in answered]
    routed = [request for request in requests if request.kept is not None]
    itl_ms = [gap for request in answered for gap in _arrival_gaps_ms(request)]
    verified = [record for record in rounds if record.n_drafted and record.received_ns]
    lengths = acceptance_lengths(verified, method_class(system.method).adds)
    return {
        "system": system.name,
        "title": system.title,
        "exact": system.exact and not any(record.n_unverified for record in rounds),  # released after a timeout
        "labels": sorted({label for request in requests for label in request.labels}),
        "requests": len(requests),
        "failed_requests": failed,
        "output_tokens": tokens,
        "tokens_per_s": _over(tokens, e2e_ms / 1e3),
        "ms_per_token": _over(e2e_ms, tokens),
        **intervals(requests, rounds, verified, lengths),
        "outlier_requests": apart(requests),
        "ttft_ms": _mean(ttft_ms),
        "ttft_ms_p50": _percentile(ttft_ms, 50),
        "ttft_ms_p90": _percentile(ttft_ms, 90),
        "tpot_ms": _mean([request.tpot_ms for request in requests if request.tpot_ms is not None]),
        "itl_ms_p50": _percentile(itl_ms, 50),
        "itl_ms_p90": _percentile(itl_ms, 90),
        "itl_ms_p99": _percentile(itl_ms, 99),
        "e2e_ms": _mean([request.e2e_ms for request in requests]),
        **_acceptance(verified, lengths),
        "rounds_per_request": _over(len(rounds), len(requests)),
        "round_trips_per_request": _over(sum(r.legs for r in rounds if r.sent_ns), len(requests)),
        **_traffic(requests, rounds, tokens),
        "network_share": _over(sum(record.network_ms for record in rounds), e2e_ms),
        "parts_ms": _parts_ms(rounds, clock_offset_ns),
        "target_calls_per_token": _over(sum(r.legs for r in rounds if r.received_ns), tokens),
        "unverified_share": _over(sum(record.n_unverified for record in rounds), tokens),
        "routed_share": _mean([not request.kept for request in routed]),  # of its requests, to the edge
        "route_ms": _mean([request.route_ms for request in routed]),
        "policy_ms": _mean([record.policy_ms for record in rounds]),  # a round
        "lookahead_ms": _mean([record.lookahead_ms for record in rounds]),
        "lookahead_hit_rate": _mean([r.lookahead_hit for r in rounds if r.lookahead_hit is not None]),
        "discarded_tokens": sum(record.n_discarded for record in rounds),
        "retries": sum(request.retries for request in requests),
        "resumed": sum(request.resumed for request in requests),
        "energy_j_per_token": joules.per_token,
        "energy_j_per_token_ci95": joules.ci95,
        "energy_device_j_per_token": joules.device_per_token,
        "energy_edge_j_per_token": joules.edge_per_token,
        "energy_status": joules.status,
        "energy_source": joules.source,
        "energy_note": joules.note,
    }


def acceptance_lengths(verified: Sequence[RoundRecord], adds: int) -> list[int]:
    """Tokens each round was worth: those accepted, and the one that follows a rejection, or the `adds` that the method
    has for a draft that stood whole. An answer's end may have cut them off."""
    return [r.n_accepted + (1 if r.n_accepted < r.n_drafted else adds) for r in verified]


def _acceptance(verified: Sequence[RoundRecord], lengths: Sequence[int]) -> dict[str, Any]:
    """Over the rounds in which a draft was verified. `tested` counts a round's accepted tokens and the first rejected
    one, since what lies behind it was never looked at; `by_position` is how often the i-th drafted token of those
    rounds that had one was kept."""
    accepted = sum(record.n_accepted for record in verified)
    tested = sum(min(record.n_accepted + 1, record.n_drafted) for record in verified)
    longest = max((record.n_drafted for record in verified), default=0)
    return {
        "mean_acceptance_length": _mean(lengths),
        "draft_acceptance_rate": _over(accepted, sum(record.n_drafted for record in verified)),
        "acceptance_rate_tested": _over(accepted, tested),
        "acceptance_by_position": [
            _mean([record.n_accepted > i for record in verified if record.n_drafted > i]) for i in range(longest)
        ],
        "acceptance_by_length": [
            {"drafted": length, "rounds": len(mine), "accepted": _mean([record.n_accepted for record in mine])}
            for length in range(1, longest + 1)
            if (mine := [record for record in verified if record.n_drafted == length])
        ],
    }


def _traffic(requests: Sequence[RequestRecord], rounds: Sequence[RoundRecord], tokens: int) -> dict[str, float | None]:
    """Bytes a token, counted three ways: our frames, the paper's formula, the interface (None on
    loopback)."""
    traffic: dict[str, float | None] = {}
    for way in ("up", "down"):
        at_interface = [getattr(request, f"link_{way}_bytes") for request in requests]
        counted = [n for n in at_interface if n is not None]
        traffic[f"bytes_{way}_per_token"] = _over(sum(getattr(r, f"{way}_wire_bytes") for r in rounds), tokens)
        traffic[f"ideal_bytes_{way}_per_token"] = _over(sum(getattr(r, f"{way}_ideal_bytes") for r in rounds), tokens)
        traffic[f"link_bytes_{way}_per_token"] = (
            _over(sum(counted), tokens) if counted and len(counted) == len(requests) else None
        )
    return traffic


def _parts_ms(rounds: Sequence[RoundRecord], clock_offset_ns: float | None) -> dict[str, float]:
    """Mean milliseconds a round spent in each part; they add up to the mean round.

    Of a round of several legs only the sum of both ways is known, and of a stream's later replies only that
    nothing went up; the first are divided as the system's other rounds are, evenly where there are none.
    """
    if not rounds:
        return {}
    sums = dict.fromkeys(PARTS, 0.0)
    undivided_ms = 0.0
    for record in rounds:
        sums["draft"] += record.draft_ms
        sums["encode"] += record.encode_ms
        sums["queue"] += record.queue_ms
        sums["verify"] += record.verify_ms
        sums["edge_other"] += record.edge_ms - record.queue_ms - record.verify_ms
        sums["resolve"] += record.resolve_ms
        if record.legs > 1 or clock_offset_ns is None:
            undivided_ms += record.network_ms
        else:
            up_ms = _up_ms(record, clock_offset_ns)
            sums["network_up"] += up_ms
            sums["network_down"] += record.network_ms - up_ms
    if clock_offset_ns is None:
        del sums["network_up"], sums["network_down"]
        sums["network"] = undivided_ms
    else:
        both_ms = sums["network_up"] + sums["network_down"]
        up_share = sums["network_up"] / both_ms if both_ms > 0 else 0.5
        sums["network_up"] += undivided_ms * up_share
        sums["network_down"] += undivided_ms * (1 - up_share)
    return {part: total / len(rounds) for part, total in sums.items()}


def _up_ms(record: RoundRecord, clock_offset_ns: float) -> float:
    if not record.sent_ns:
        return 0.0
    up_ms = (record.edge_arrived_ns - clock_offset_ns - record.sent_ns) / 1e6
    return min(max(up_ms, 0.0), max(record.network_ms, 0.0))  # what the offset's error allows


def _arrival_gaps_ms(request: RequestRecord) -> list[float]:
    """Between settlements that brought something: tokens of one round come at once and count as one arrival,
    as chunks do in vLLM's benchmark; else half of a speculative system's gaps would be zeros."""
    arrivals = sorted(set(request.token_ms))
    return [later - earlier for earlier, later in pairwise(arrivals)]


def _over(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _percentile(values: Sequence[float], pct: float) -> float | None:
    return float(np.percentile(values, pct)) if values else None


def finite(value: Any) -> Any:
    """Seven digits are more than any of this is good for; what is no number becomes null."""
    if isinstance(value, dict):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else json.loads(json.dumps(value, default=str))
