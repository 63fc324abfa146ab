"""What a round's messages take beyond their payload: the same messages made anew, of the same shapes, and weighed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from nodes.methods import Method
from nodes.records import RoundRecord
from transport.messages import Encoded, Header, Kind, ReplyHeader, payload_bytes
from transport.wire import pack, wire_bytes

WIDTHS = ((1 << 7, 1), (1 << 8, 2), (1 << 16, 3), (1 << 31, 5))  # ids below: bytes of one as msgpack writes it
ID, ID_BYTES = 1 << 16, 5  # stands for any id
LOOK_AGAIN_US = 1000  # as wide on the wire as whatever a second reply takes
Letters = Mapping[str, int]  # as in formulas.py, and `tail`, the ids of a verdict


def framing_bytes(
    method: Method, letters: Letters, now: RoundRecord, way: str, known: Sequence[int], residence_ms: float
) -> float:
    """`known` are the ids that crossed, as far as they are; draws that were not taken count as the mean id. Negative
    where ids are short, since a formula counts 4 bytes each. A stream's one Up is not a round's."""
    if way == "up":
        bodies = [] if method.streams else list(_ups(method, letters))
        carried = [ID] * letters["c"]
        heads: list[Struct] = [
            Header(Kind.ROUND, 1, now.round, leg=leg, epoch=now.epoch, base=32, carry=[] if leg else carried)
            for leg in range(len(bodies))
        ]
        ids = letters["g"] + letters["c"]
    else:
        bodies = list(_downs(method, letters))
        number, seq = (1, now.round - 1) if method.streams else (now.round, 0)
        stamps: dict[str, Any] = {"arrived_ns": now.edge_arrived_ns, "batch": now.batch}
        heads = [
            ReplyHeader(Kind.REPLY, session=1, round=number, seq=seq + leg, **stamps, **spent)
            for leg, spent in enumerate(_spent_us(now, residence_ms)[: len(bodies)])
        ]
        ids = letters["tail"] + sum(len(getattr(body, "draws", ())) for body in bodies)
    if not bodies:
        return 0.0
    wire = sum(wire_bytes(pack(head, body)) for head, body in zip(heads, bodies))
    payload = sum(payload_bytes(body) for body in bodies) + (4 * letters["c"] if way == "up" else 0)
    known = known[:ids]
    unknown_bytes = (ids - len(known)) * mean_id_bytes(letters["V"])
    return wire - payload + sum(map(id_bytes, known)) + unknown_bytes - ids * ID_BYTES


def _spent_us(now: RoundRecord, residence_ms: float) -> list[dict[str, Any]]:
    """Of the first reply, which the forward is booked on, and of a second, that only looks again."""
    first = {
        "residence_us": residence_ms,
        "queue_us": now.queue_ms,
        "compute_us": now.verify_ms,
        "draft_us": now.edge_draft_ms,
    }
    return [{name: int(1e3 * ms) for name, ms in first.items()}, {"residence_us": LOOK_AGAIN_US}]


def id_bytes(token: int) -> int:
    return next(width for limit, width in WIDTHS if token < limit)


def mean_id_bytes(vocab_size: int) -> float:
    """Over the ids there are, which a toy's tokens are spread over."""
    below, total = 0, 0.0
    for limit, width in WIDTHS:
        total += width * (min(limit, vocab_size) - below)
        below = min(limit, vocab_size)
    return total / vocab_size


def _ups(method: Method, letters: Letters) -> Iterator[Struct]:
    g, state = letters["g"], 2 * letters["H"]
    row_bytes = 7 * letters["k"] or letters.get("U", 0)
    filled: dict[str, Any] = {
        "tokens": [ID] * g,
        "probs": np.zeros(g, np.float32),
        "rows": [Encoded(bytes(row_bytes))] * g,
        "more": 0,
        "link": np.zeros(2, np.float32),
        "hidden": Encoded(bytes(state * g)),
    }
    in_two = "mismatches" in method.Down.__struct_fields__
    yield _made(method.Up, {**filled, "hidden": None} if in_two else filled)
    if letters["m"] and in_two:
        asked_for = Encoded(bytes(state * letters["m"]))
        yield _made(method.Up, {"tokens": [], "link": np.zeros(0, np.float32), "hidden": asked_for})


def _downs(method: Method, letters: Letters) -> Iterator[Struct]:
    rejected, draws = letters["r"], letters["K"] * letters["r"]
    if letters["m"] and "mismatches" in method.Down.__struct_fields__:
        yield _made(method.Down, {"n_accepted": 0, "tail": [], "mismatches": [0] * letters["m"]})
    sends_row = rejected and not letters["K"]
    yield _made(
        method.Down,
        {
            "n_accepted": 1,
            "tail": [ID] * letters["tail"],
            "drafted": 1,
            "target": Encoded(bytes(letters.get("D", 0))) if sends_row else None,
            "draws": [ID] * draws,
            "target_probs": np.zeros(draws, np.float32) if draws else None,
            "mismatches": [],
        },
    )


def _made(kind: type[Struct], filled: Mapping[str, Any]) -> Struct:
    return kind(**{name: filled[name] for name in kind.__struct_fields__})
