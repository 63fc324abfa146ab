"""What a round of each system should weigh: its paper's formula and our framing, at a real vocabulary's width.

    formula   4 bytes an id, a count or a probability; a row as wide as its codec makes it; in ROWS and `payload`
    framing   what is left of the same message when all that is taken out: magic, header, msgpack's own bytes

The nodes count what they really send; the two are compared way by way. V = vocabulary, g = drafted tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from msgspec import Struct

from experiments.bench.records import record
from experiments.bench.rig import Rig
from nodes.composition import System, load_system, system_names
from nodes.methods import Method, method_class
from nodes.policies.stop import make_stop
from nodes.records import RoundRecord
from transport.messages import Header, Kind, ReplyHeader
from transport.wire import pack, wire_bytes

WITHIN = 0.03
WIDTHS = ((1 << 7, 1), (1 << 8, 2), (1 << 16, 3), (1 << 31, 5))  # ids below: bytes of one as msgpack writes it
LINK = "10 Mbit/s"
BYTES_PER_MS = 10e6 / 8 / 1e3
FIXED = {"policy": "fixed", "length": 4}
ROWS: dict[str, Callable[[int, Any], float]] = {  # bytes of a row whose every entry is above zero
    "DenseFp32": lambda v, codec: 4 * v,
    "Sparse": lambda v, codec: 1 + 4 * v,  # where all are, it is written as a dense one
    "TopK": lambda v, codec: 1 + 7 * codec.k,
    "Lattice": lambda v, codec: 4 * min(codec.resolution, codec.k or v),
}
SPLIT = ("dssd", "dssd_as_printed", "dssd_truncated", "dssd_sampled")


def measure(vocab_size: int, requests: int, max_new_tokens: int) -> list[dict[str, Any]]:
    """A record a system and way: how far what was sent is from formula and framing, in percent."""
    systems = [name for name in system_names() if _comparable(load_system(name))]
    config = {
        "systems": [_entry(load_system(name)) for name in systems],
        "engine": {"engine": "toy", "vocab_size": vocab_size, "acceptance": 0.6},
        "workload": {"prompts": ["t1 t2"], "requests": requests, "max_new_tokens": max_new_tokens},
    }
    records = []
    with Rig(config) as rig:
        for system in rig.spec.systems:
            for prompt in range(requests):
                rig.serve(system.name, prompt)
            records += _compare(system, rig.rounds(system.name), vocab_size)
    return records


def _comparable(system: System) -> bool:
    """An edge is asked, no trained part is needed that a table has not, and rows have a size that can be foretold."""
    method = method_class(system.method)
    return method.edge and not method.reads_hidden and system.method != "cu_hlm" and not method.edge_drafts


def _entry(system: System) -> dict[str, Any]:
    """Of fixed length, nothing kept on the device: what is left is the exchange."""
    stop = {"stop": FIXED} if make_stop(system.stop).adapts else {}
    return {"system": system.name, **stop, "route": {"policy": "always"}, "upload": {"policy": "always"}}


def _compare(system: System, rounds: Sequence[RoundRecord], vocab_size: int) -> list[dict[str, Any]]:
    method = system.build(vocab_size)
    counted = []  # the first round carries the prompt; later legs ask for more of what a formula has once
    residence_ms = 0.0
    for before, now in pairwise(rounds):
        same = before.request_id == now.request_id
        residence_ms = now.edge_ms + (residence_ms or before.edge_ms if same and method.streams else 0.0)
        if same and now.legs == 1:
            counted.append((payload(method, before, now, vocab_size), now, residence_ms))
    records = []
    for way in ("up", "down"):
        sent = sum(getattr(r, f"{way}_wire_bytes") for _, r, _ in counted)
        if not sent:
            continue
        formula = sum(size[way][0] for size, _, _ in counted)
        ids = sum(size[way][1] for size, _, _ in counted)
        framing = ids * (id_bytes(vocab_size) - 4) + sum(frame_bytes(method, r, way, at_ms) for _, r, at_ms in counted)
        n, off = len(counted), 100 * (sent / (formula + framing) - 1)
        note = (
            f"{sent / n:.1f} B sent a round, formula {formula / n:.1f}, framing {framing / n:.1f}; {n} rounds; "
            f"{sent / n / BYTES_PER_MS:.2f} ms at {LINK}"
        )
        records.append(
            record(f"bytes: {system.name} {way}, off its formula", abs(off), "%", f"<= {100 * WITHIN:g}", note)
        )
    return records


def payload(method: Method, before: RoundRecord, now: RoundRecord, vocab_size: int) -> dict[str, tuple[float, int]]:
    """By way: (bytes, how many ids are among them)."""
    name, g, rejected = type(method).__module__.rpartition(".")[2], now.n_drafted, now.n_accepted < now.n_drafted
    row_up, row_down = (ROWS.get(type(codec).__name__) for codec in (method.up, method.down))
    if method.streams:
        up, ids_up, ids_down = 0.0, 0, now.n_emitted
        return {"up": (up, ids_up), "down": (4.0 + 4 * ids_down, ids_down)}
    carried = 0
    if name in SPLIT and before.n_accepted < before.n_drafted:
        carried = 1  # what the device drew itself rides up with the next round
    up = 4.0 * (g + carried)
    if name in SPLIT:
        up += 4 * g + (4 if name == "dssd_sampled" else 0)  # and how many draws more
    elif name in ("dsd", "hlm"):
        assert row_up is not None
        up += g * row_up(vocab_size, method.up)
    if name in SPLIT and rejected:
        down, ids_down = 4.0, 0
        if name == "dssd_sampled":
            ids_down = method.draws  # type: ignore[attr-defined]
            down += 8 * ids_down
        else:
            assert row_down is not None
            down += row_down(vocab_size, method.down)
    else:
        ids_down = 1 if method.adds or rejected else 0
        down = 4.0 + 4 * ids_down
    return {"up": (up, g + carried), "down": (down, ids_down)}


def frame_bytes(method: Method, now: RoundRecord, way: str, residence_ms: float) -> int:
    """Of a message with nothing in it: what `payload` counts (4 bytes an integer) is taken off again. A stream's
    replies count on: residence and number since the one Up."""
    if way == "up":
        body, header = hollow(method.Up), Header(Kind.ROUND, 1, now.round, epoch=now.epoch, base=32)
        return 0 if method.streams else wire_bytes(pack(header, body)) - _integers(body)
    body = hollow(method.Down)
    durations = (int(1e3 * residence_ms), int(1e3 * now.queue_ms), int(1e3 * now.verify_ms))
    number = (1, now.round - 1) if method.streams else (now.round, 0)
    reply = ReplyHeader(Kind.REPLY, 1, *number, True, now.edge_arrived_ns, *durations, now.batch)
    # a count takes a byte where the papers say four
    return wire_bytes(pack(reply, body)) - 4 * sum(type(getattr(body, f)) is int for f in body.__struct_fields__)


def hollow(kind: type[Struct]) -> Any:
    """A message of that kind without tokens, rows or numbers."""
    lists: dict[str, Any] = {name: [] for name in ("tokens", "tail", "rows", "draws")}
    numbers = dict.fromkeys(("n_accepted", "limit", "drafted", "more"), 0)
    known: dict[str, Any] = {**lists, **numbers, "probs": np.empty(0, np.float32), "target": None, "target_probs": None}
    return kind(**{name: known[name] for name in kind.__struct_fields__})


def id_bytes(vocab_size: int) -> float:
    """Mean over the ids there are, which a toy's tokens are spread over."""
    below, total = 0, 0.0
    for limit, width in WIDTHS:
        total += width * (min(limit, vocab_size) - below)
        below = min(limit, vocab_size)
    return total / vocab_size


def _integers(body: Struct) -> int:
    return 4 * sum(type(getattr(body, name)) is int for name in body.__struct_fields__)
