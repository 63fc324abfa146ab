"""Bytes of our frames at a real vocabulary's width, counted by the nodes while they talk. Tables stand in for models;
their tokens are spread over the whole vocabulary, so ids are as long on the wire as a real model's."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from experiments.bench import formulas
from experiments.bench.records import record
from experiments.bench.rig import Rig
from nodes.records import RoundRecord

VOCAB_SIZE = 151_936  # Qwen's
ID_BYTES = 5  # of the largest token id as msgpack writes it
PER_DRAFTED_BYTES, PER_ROUND_BYTES, PER_REJECTION_BYTES, DRAWS = 10, 64, 350, 32
SHORT, LONG = 4, 8  # two draft lengths tell what a token and what a round costs


def measure() -> list[dict[str, Any]]:
    """Bytes a drafted token, a round and a rejection, up and down; every system's rounds beside their formula, with
    paced engines on the lab's link."""
    return [*measure_frames(), *formulas.measure(VOCAB_SIZE)]


def measure_frames(vocab_size: int = VOCAB_SIZE, requests: int = 3, max_new_tokens: int = 48) -> list[dict[str, Any]]:
    """What a token, a round and a rejection cost; on loopback, as fast as tables go."""
    config = {
        "systems": [
            {"system": "dssd", "as": "short", "stop": {"length": SHORT}},
            {"system": "dssd", "as": "long", "stop": {"length": LONG}},
            {"system": "dssd_sampled", "as": "sampled", "options": {"draws": DRAWS}, "stop": {"length": SHORT}},
            {"system": "coupled", "stop": {"length": SHORT}},
        ],
        "engine": {"engine": "toy", "vocab_size": vocab_size, "acceptance": 0.6},
        "workload": {"prompts": ["t1 t2"], "requests": requests, "max_new_tokens": max_new_tokens},
    }
    with Rig(config) as rig:
        for prompt in range(requests):
            for system in rig.spec.systems:
                rig.serve(system.name, prompt)
        # the first round carries the prompt, which nobody drafted
        rounds = {s.name: [r for r in rig.rounds(s.name) if r.round > 1] for s in rig.spec.systems}
    return [
        *_up(rounds["short"], rounds["long"]),
        *_down(rounds["sampled"], rounds["short"]),
        *_coupled(rounds["coupled"]),
    ]


def _up(short: Sequence[RoundRecord], long: Sequence[RoundRecord]) -> list[dict[str, Any]]:
    mean_short, mean_long = (
        statistics.mean(r.up_wire_bytes for r in rounds if r.n_drafted == length)
        for length, rounds in ((SHORT, short), (LONG, long))
    )
    per_drafted = (mean_long - mean_short) / (LONG - SHORT)
    per_round = max(r.up_wire_bytes - PER_DRAFTED_BYTES * r.n_drafted for r in (*short, *long))
    return [
        record(
            "bytes: dssd up, a drafted token",
            per_drafted,
            "B",
            f"<= {PER_DRAFTED_BYTES}",
            f"means of rounds of {LONG} and of {SHORT} tokens: {mean_long:.1f} and {mean_short:.1f} bytes",
        ),
        record(
            "bytes: dssd up, a round besides",
            per_round,
            "B",
            f"<= {PER_ROUND_BYTES}",
            f"the most of {len(short) + len(long)} rounds, less {PER_DRAFTED_BYTES} bytes a drafted token",
        ),
    ]


def _down(sampled: Sequence[RoundRecord], dense: Sequence[RoundRecord]) -> list[dict[str, Any]]:
    rejected = [r.down_wire_bytes for r in sampled if r.n_accepted < r.n_drafted]
    rows = [r.down_wire_bytes for r in dense if r.n_accepted < r.n_drafted]
    again = sum(r.legs > 2 for r in sampled)
    row = f"dssd's row: {statistics.mean(rows):.0f}"
    note = f"mean of {len(rejected)} at K = {DRAWS}, {again} of them asked for more; {row}"
    return [
        record(
            "bytes: dssd_sampled down, a rejection", statistics.mean(rejected), "B", f"<= {PER_REJECTION_BYTES}", note
        )
    ]


def _coupled(rounds: Sequence[RoundRecord]) -> list[dict[str, Any]]:
    """What is left of a round when its token ids are taken off: no room for a distribution."""
    up = max(r.up_wire_bytes - ID_BYTES * r.n_drafted for r in rounds)
    down = max(r.down_wire_bytes - ID_BYTES for r in rounds)
    payload = max(r.up_ideal_bytes + r.down_ideal_bytes for r in rounds)
    note = f"the most of {len(rounds)} rounds; by the papers' count, ids and a count, at most {payload} bytes both ways"
    return [
        record(f"bytes: coupled {way}, a round besides its ids", left, "B", f"<= {PER_ROUND_BYTES}", note)
        for way, left in (("up", up), ("down", down))
    ]
