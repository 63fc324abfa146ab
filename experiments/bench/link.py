"""Does a round last what its parts add up to; does a trace play in time; is a link what was declared, on every backend;
does a killed owner leave anything behind?

A round's time is predicted from what was declared alone, before anything is measured: the pace of the two models, the
link's round trip and rate, and the bytes. Once a connection is warm nothing else counts; its very first message also
waits for TCP's slow start, whose flights are counted too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from experiments.bench.declared import BACKENDS, measure_declared
from experiments.bench.kills import measure_kills
from experiments.bench.link_trace import measure_traces
from experiments.bench.predict import INITIAL_WINDOW, Wire
from experiments.bench.records import record
from experiments.launch import Outcome, run_nodes
from experiments.schema import Config
from netem.errors import BackendError
from nodes.engine.profiles import load_pace
from nodes.records import RoundRecord

RTT_MS, RATE_MBPS = 40.0, 40.0
PACE = "opt-125m-6.7b@h800"  # published forward times; its rows are 201 kB
SYSTEMS = ("dssd", "dsd")
BOUND_PCT = "<= 10"
WIRE = Wire(RTT_MS, RATE_MBPS)


def measure() -> list[dict[str, Any]]:
    """Everything but what this machine cannot build, which is told in its place."""
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {"rounds": measure_rounds, "traces": measure_traces}
    parts |= {f"declared on {backend}": partial(measure_declared, backend) for backend in BACKENDS}
    parts["killed owners"] = measure_kills
    records = []
    for name, part in parts.items():
        try:
            records += part()
        except BackendError as error:
            records.append(record(f"link: {name}, not measured here", 0.0, "", "", " ".join(str(error).split())))
    return records


def measure_rounds(requests: int = 2, max_new_tokens: int = 24) -> list[dict[str, Any]]:
    """Rounds over a declared link against what was predicted."""
    rounds = _run(requests, max_new_tokens)
    records = []
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


def _run(requests: int, max_new_tokens: int) -> list[RoundRecord]:
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
            return [msgspec.json.decode(line, type=RoundRecord) for line in lines]


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
