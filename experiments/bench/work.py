"""Work per drafted token beside the models' forwards, at a real vocabulary's width and on one core: logits to
distribution, codec, coin and draw on the device; decoding, testing and the last draw at the edge.

The methods' own halves run, over engines whose forwards cost nothing: their logits were made beforehand.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.bench.records import record
from nodes.composition import System, load_system
from nodes.drafting import Drafter
from nodes.engine import Dists
from nodes.methods import Score, Serving
from nodes.policies.stop import make_stop
from nodes.sampling import Coins, Sampling
from nodes.session import Session

VOCAB_SIZE, DRAFT_LENGTH, BOUND = 151_936, 4, "<= 1.5"
FULL, TOP_K = Sampling(), Sampling(top_k=20)
CASES = [("dssd", FULL), ("dsd", FULL), ("dsd_sparse", FULL), ("dsd_sparse", TOP_K), ("coupled", FULL)]


class MadeBefore:
    """Answers every forward with logits that were there already, those of the session's last positions. Has only what
    a drafter asks of an engine."""

    eos_tokens: frozenset[int] = frozenset()

    def __init__(self, logits: Any) -> None:
        self._logits = logits  # [N, V]
        self.vocab_size = logits.shape[1]

    def forward(self, sessions: Sequence[Session], rows: Sequence[int]) -> list[Dists]:
        from nodes.engine.hf_dists import TorchDists

        start = (len(sessions[0].tokens) - rows[0]) % (len(self._logits) - DRAFT_LENGTH)
        return [TorchDists(self._logits[start : start + rows[0]], sessions[0].sampling)]


def _pair(vocab_size: int) -> tuple[MadeBefore, MadeBefore]:
    """A draft and a target that agree about as well as real ones do."""
    import torch

    chance = torch.Generator().manual_seed(0)
    draft, apart = (torch.randn(48, vocab_size, generator=chance) for _ in range(2))
    return MadeBefore(3 * draft), MadeBefore(3 * draft + 0.6 * apart)


def measure(vocab_size: int = VOCAB_SIZE, repeats: int = 30) -> list[dict[str, Any]]:
    """Milliseconds a drafted token, device and edge together; medians over rounds, the cases taking turns."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        engines = _pair(vocab_size)
        rounds = [_rounds(load_system(name), sampling, engines) for name, sampling in CASES]
        timed = [[next(each) for each in rounds] for _ in range(repeats + 2)][2:]
    finally:
        torch.set_num_threads(threads)
    records = []
    for (name, sampling), times in zip(CASES, zip(*timed)):
        device_ms, edge_ms = (statistics.median(side) for side in zip(*times))
        law = f"top-k {sampling.top_k}" if sampling.top_k else "T = 1"
        note = f"device {device_ms:.2f}, edge {edge_ms:.2f}; V = {vocab_size}, draft length {DRAFT_LENGTH}"
        records.append(record(f"work: {name}, {law}", device_ms + edge_ms, "ms", BOUND, note))
    return records


def _rounds(
    system: System, sampling: Sampling, engines: tuple[MadeBefore, MadeBefore]
) -> Iterator[tuple[float, float]]:
    """Milliseconds a drafted token of one round after the other: at the device, at the edge."""
    device, edge = engines
    method = system.build(device.vocab_size)
    drafter = Drafter(device, method, make_stop({"policy": "fixed", "length": DRAFT_LENGTH}))  # type: ignore[arg-type]
    coins, prefix = Coins(0, 0), [1]
    while True:
        session = Session(sampling, prefix)
        began_s = time.perf_counter()
        draft = drafter.draft(session, prefix, coins, DRAFT_LENGTH)
        up = method.propose(draft, DRAFT_LENGTH + 1)
        drafted_s = time.perf_counter()
        down = _verdict(method.serve(up, draft.base, coins), edge, Session(sampling, [*prefix, *draft.tokens]))
        served_s = time.perf_counter()
        method.resolve(draft, down, coins)
        resolved_s = time.perf_counter()
        prefix = [*prefix, *draft.tokens]
        device_s = drafted_s - began_s + resolved_s - served_s
        yield device_s * 1e3 / DRAFT_LENGTH, (served_s - drafted_s) * 1e3 / DRAFT_LENGTH


def _verdict(serving: Serving, edge: MadeBefore, session: Session) -> Any:
    """What an edge half that scores once answers."""
    score = next(serving)
    assert isinstance(score, Score)
    try:
        serving.send(edge.forward([session], [len(score.tokens) + 1])[0])
    except StopIteration as stop:
        return stop.value
    raise AssertionError("not a method of one exchange")
