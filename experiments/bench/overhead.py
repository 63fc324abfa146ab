"""What a round costs outside the engines: codec, wire, ZeroMQ, hand-over between threads, scheduling, resolving. Held
against a bare ping-pong of frames of the same sizes, one for every round. Drawing the draft is among the parts that are
told, but not in the ratio: it is work of every drafted token, on whatever link, and has its bound in `work`.

Tables stand in for models and their time is taken off exactly: the device's forwards are timed here, the edge's there.
The bare exchange takes place inside a forward, so it finds the machine as our own does: just woken, its caches cold.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from experiments.bench.pingpong import PingPong
from experiments.bench.records import record
from experiments.bench.rig import Rig
from nodes.engine import Dists, Engine
from nodes.records import RoundRecord
from nodes.session import Session
from transport.wire import INLINE_BYTES, MAGIC

DRAFT_LENGTH, BOUND = 4, "<= 3"
CASES = [("dssd", 512, "small frames"), ("dsd", 50_272, "dense rows up, V = 50272")]
PARTS = {
    "draft": "drawing, coding, coins",
    "encode": "what goes up is made, packed and handed over",
    "wire": "both links' threads, CURVE, TCP",
    "dispatch": "at the edge: unpacked, looked up, tested, packed",
    "resolve": "the answer unpacked and settled",
}

Span = tuple[int, int]  # began, ended: monotonic ns


class Timed:
    """An engine whose forwards are noted in `spans`. What `meanwhile` does, once in a draft, counts as forward."""

    def __init__(self, inner: Engine) -> None:
        self._inner = inner
        self.spans: list[Span] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def forward(self, sessions: Sequence[Session], rows: Sequence[int]) -> list[Dists]:
        began_ns = time.monotonic_ns()
        if len(self.spans) % DRAFT_LENGTH == 0:
            self.meanwhile()
        dists = self._inner.forward(sessions, rows)
        self.spans.append((began_ns, time.monotonic_ns()))
        return dists


def measure(requests: int = 12, max_new_tokens: int = 64) -> list[dict[str, Any]]:
    """For each case the ratio, then, in milliseconds and without a bound, what it is made of."""
    return [entry for case in CASES for entry in _case(*case, requests, max_new_tokens)]


def _case(system: str, vocab_size: int, title: str, requests: int, max_new_tokens: int) -> list[dict[str, Any]]:
    config = {
        "systems": [system],
        "engine": {"engine": "toy", "vocab_size": vocab_size, "acceptance": 0.7},
        "draft_length": DRAFT_LENGTH,
        "workload": {"prompts": ["t1 t2 t3"], "requests": requests + 1, "max_new_tokens": max_new_tokens},
    }
    bare_ms: list[float] = []
    with Rig(config, wrap=Timed) as rig:
        engine: Any = rig.engine
        rig.serve(system, 0)  # warm-up; and its rounds say how large the frames are
        first = rig.rounds(system)
        up = frame_sizes(statistics.median(r.up_wire_bytes for r in first), vocab_size)
        down = frame_sizes(statistics.median(r.down_wire_bytes for r in first), vocab_size)
        with PingPong(up, down) as bare:
            bare.exchange()
            engine.meanwhile = lambda: bare_ms.append(bare.exchange())
            for number in range(1, requests + 1):
                rig.serve(system, number)
        measured = [r for r in rig.rounds(system)[len(first) :] if r.round > 1 and r.n_drafted == DRAFT_LENGTH]
    parts_ms = [beside_forwards_ms(r, engine.spans) for r in measured]
    least_ms = statistics.median(bare_ms)
    all_ms = statistics.median(sum(parts.values()) for parts in parts_ms)
    ours_ms = statistics.median(sum(parts.values()) - parts["draft"] for parts in parts_ms)
    name = f"overhead: {system}, {title}"
    note = f"{ours_ms:.2f} against {least_ms:.2f} ms; {sum(up)} bytes up, {sum(down)} down, CURVE on both"
    return [
        record(f"{name}, a round / bare ping-pong", ours_ms / least_ms, "x", BOUND, note),
        record(f"{name}, the same with drawing", all_ms / least_ms, "x", note=f"{all_ms:.2f} ms"),
        *(
            record(f"{name}, of which {part}", statistics.median(each[part] for each in parts_ms), "ms", note=what)
            for part, what in PARTS.items()
        ),
    ]


def frame_sizes(message_bytes: float, vocab_size: int) -> list[int]:
    """A message of that size as the wire format cuts it: a mark, header, body, and the rows that go by themselves."""
    row_bytes = 4 * vocab_size
    rows = int(message_bytes) // row_bytes if row_bytes >= INLINE_BYTES else 0
    rest = int(message_bytes) - rows * row_bytes - len(MAGIC)
    return [len(MAGIC), rest // 2, rest - rest // 2, *[row_bytes] * rows]


def beside_forwards_ms(record: RoundRecord, spans: Sequence[Span]) -> dict[str, float]:
    """The parts of one round, forwards taken off."""
    forwards_ms = sum(ended - began for began, ended in spans if record.start_ns <= began < record.end_ns) / 1e6
    return {
        "draft": record.draft_ms - forwards_ms,
        "encode": record.encode_ms,
        "wire": record.network_ms,
        "dispatch": record.edge_ms - record.verify_ms,
        "resolve": record.resolve_ms,
    }
