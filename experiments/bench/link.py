"""Is the lab's link what was declared, and does a round on it last what its parts add up to?

A round's time is predicted from what was declared alone, before anything is measured: the pace of the two models, the
link's round trip and rate, and the bytes. Once a connection is warm nothing else counts; its very first message also
waits for TCP's slow start, whose flights are counted too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from experiments.bench.predict import INITIAL_WINDOW, Wire
from experiments.bench.records import record
from experiments.launch import Outcome, run_nodes
from experiments.schema import Config
from netem.check import check_link
from netem.lab import exit_on_sigterm, open_lab
from netem.spec import DIRECTIONS, LinkSpec
from nodes.engine.profiles import load_pace
from nodes.records import RoundRecord

RTT_MS, RATE_MBPS, LOSS_PCT = 40.0, 40.0, 2.0
PACE = "opt-125m-6.7b@h800"  # published forward times; its rows are 201 kB
SYSTEMS = ("dssd", "dsd")
BOUND_PCT = "<= 10"
WIRE = Wire(RTT_MS, RATE_MBPS)


def measure(requests: int = 2, max_new_tokens: int = 24) -> list[dict[str, Any]]:
    """Round trip, rate and loss against what was declared; rounds against what was predicted."""
    observed, rounds = _run(requests, max_new_tokens)
    records = [*_shape(observed), *_loss()]
    for system in SYSTEMS:
        warm = [r for r in rounds if r.system == system and not r.warmup and r.round > 1]
        note = f"{len(warm)} rounds, most of {max(r.up_wire_bytes for r in warm)} bytes up"
        records.append(
            _off(f"{system}, round time", warm, 0.0, BOUND_PCT, f"draft + verify + RTT + bytes / rate; {note}")
        )
    first = next(r for r in rounds if r.system == "dsd" and r.warmup)
    flights, idle_ms = WIRE.slow_start_ms(first.up_wire_bytes)
    name, size = "dsd, first round of a connection", f"{first.up_wire_bytes} bytes up"
    waits = f"{flights} flights, {idle_ms:.0f} ms of waiting for acknowledgements"
    return [
        *records,
        _off(name, [first], 0.0, "", f"{size}; the link stands idle while TCP's window opens from {INITIAL_WINDOW}"),
        _off(f"{name}, slow start included", [first], idle_ms, BOUND_PCT, f"{size} in {waits}"),
    ]


def _run(requests: int, max_new_tokens: int) -> tuple[dict[str, Any], list[RoundRecord]]:
    """What the link check observed, and all rounds."""
    config = Config.model_validate(
        {
            "name": "bench",
            "systems": list(SYSTEMS),
            "engine": {"engine": "toy", "vocab_size": 512},
            "pace": PACE,
            "draft_length": 4,
            "workload": {"prompts": ["t1 t2 t3"], "requests": requests, "max_new_tokens": max_new_tokens},
            "link": {"rtt_ms": RTT_MS, "rate_mbps": RATE_MBPS},
        }
    )
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="dssd-bench-") as folder:
        run_nodes(config, Path(folder), lambda stage, fields: None, outcome)
        with Path(folder, "rounds.jsonl").open("rb") as lines:
            return outcome.link["observed"], [msgspec.json.decode(line, type=RoundRecord) for line in lines]


def _shape(observed: dict[str, Any]) -> list[dict[str, Any]]:
    rtt_ms = observed["rtt_ms"]["median"]
    note = f"{rtt_ms:.2f} ms where {RTT_MS / 2:g}+{RTT_MS / 2:g} are declared"
    records = [record("link: round trip, off by", abs(rtt_ms - RTT_MS), "ms", "<= 1", note)]
    for which in DIRECTIONS:
        rate_mbps = observed[which]["rate_mbps"]
        note = f"{rate_mbps:.2f} Mbit/s where {RATE_MBPS:g} are declared"
        off_pct = 100 * abs(rate_mbps / RATE_MBPS - 1)
        records.append(record(f"link: rate {which}, off by", off_pct, "%", "<= 5", note))
    return records


def _loss() -> list[dict[str, Any]]:
    """The 99 % interval around what was observed has to hold what was declared."""
    with exit_on_sigterm(), open_lab(LinkSpec(rtt_ms=RTT_MS, loss_pct=LOSS_PCT)) as lab:
        observed = check_link(lab).observed
    records = []
    for which in DIRECTIONS:
        seen_pct, (low_pct, high_pct) = observed[which]["loss_pct"], observed[which]["loss_interval_pct"]
        reach_pct = high_pct - seen_pct if seen_pct < LOSS_PCT else seen_pct - low_pct
        note = f"{seen_pct:.2f} % of {observed[which]['probes']} probes where {LOSS_PCT:g} % are declared"
        name = f"link: loss {which}, off by"
        records.append(record(name, abs(seen_pct - LOSS_PCT), "%", f"<= {reach_pct:.3f}", f"{note}; 99 % interval"))
    return records


def _off(name: str, rounds: Sequence[RoundRecord], waiting_ms: float, bound: str, note: str) -> dict[str, Any]:
    """By how many per cent all these rounds together last longer or shorter than predicted."""
    draft_ms, verify_ms = (load_pace(PACE, role).forward_ms for role in ("draft", "target"))
    predicted_ms = waiting_ms + sum(
        r.n_drafted * draft_ms
        + verify_ms
        + RTT_MS
        + WIRE.transfer_ms(r.up_wire_bytes)
        + WIRE.transfer_ms(r.down_wire_bytes)
        for r in rounds
    )
    measured_ms = sum(r.end_ns - r.start_ns for r in rounds) / 1e6
    note = f"{measured_ms / len(rounds):.1f} ms where {predicted_ms / len(rounds):.1f} were predicted: {note}"
    return record(f"link: {name}, off by", 100 * abs(predicted_ms / measured_ms - 1), "%", bound, note)
