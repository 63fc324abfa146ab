"""One model held by several processes, on one machine's accelerators or on several machines: transformers' tensor
parallelism, in the group that torchrun made.

Rank 0 is the engine that everybody else knows. It says before each forward what comes - which sessions, how much of
each cache is valid, the new tokens - and all ranks do it at once, each with its share of the weights and of the keys
and values. What a rank keeps of a session follows from what it was told, so a rollback on rank 0 is one everywhere.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from nodes.engine import Dists, EngineError, EngineLost
from nodes.engine.hf import HfEngine
from nodes.engine.weights import model_id
from nodes.sampling import Sampling
from nodes.session import Session

log = logging.getLogger("dssd.parallel")
PATIENCE = timedelta(days=365)  # the others wait for rank 0, and an edge may have nothing to do for long
FRAME = 64  # numbers in the first message of an order; a round's few tokens fit
ALIKE = ("weights", "dtype", "torch", "transformers", "batching", "rollback")


def join(count: int, device: str) -> None:
    """Become one of the group's processes, with an accelerator of its own where there are any. Raises EngineError."""
    if "RANK" not in os.environ:
        raise EngineError(f"tensor_parallel: {count} is for an edge's process, or under torchrun: leave it out here")
    on_cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
    if not on_cpu:
        here, seen = int(os.environ.get("LOCAL_WORLD_SIZE", count)), torch.cuda.device_count()
        if seen < here:
            raise EngineError(
                f"tensor_parallel: {count} wants {here} GPUs on {platform.node()}, and torch {torch.__version__} sees "
                f"{seen}: lower it, make more visible (CUDA_VISIBLE_DEVICES), or use more machines (torchrun --nnodes)"
            )
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    elif torch.cuda.is_available():
        raise EngineError("device: cpu with tensor_parallel needs the GPUs hidden: set CUDA_VISIBLE_DEVICES=''")
    if not dist.is_initialized():
        dist.init_process_group("gloo" if on_cpu else "cpu:gloo,cuda:nccl", timeout=PATIENCE)


class ParallelEngine:
    """Rank 0's: the engine whose other shares are computed elsewhere at the same time. See `Engine`."""

    def __init__(self, inner: HfEngine) -> None:
        self.inner, self.name, self.labels = inner, inner.name, inner.labels
        self.vocab_size, self.named_tokens, self.hidden_size = inner.vocab_size, inner.named_tokens, inner.hidden_size
        self.vocab_hash = inner.vocab_hash
        self.eos_tokens, self.max_tokens, self.tokenizer = inner.eos_tokens, inner.max_tokens, inner.tokenizer
        self._numbers: dict[int, tuple[int, Session]] = {}  # by identity: a session's number on the other ranks
        self._made = 0
        self._over: list[int] = []  # sessions that the others have not been told to forget yet
        self._ranks = _meet(inner)

    def forward(self, sessions: Sequence[Session], rows: Sequence[int]) -> list[Dists]:
        """See `Engine`. Raises EngineLost when another rank cannot be reached any more."""
        self.inner.prepare(sessions, rows)  # what is refused is refused before anybody is told
        order = [len(self._over), *self._over, len(sessions)]
        for session, n_rows in zip(sessions, rows):
            news = session.tokens[session.fed :]
            order += [self._number(session), session.fed, n_rows, len(news), *news]
        self._over = []
        try:
            _tell(order)
            return self.inner.forward(sessions, rows)
        except Exception as error:
            raise EngineLost(
                f"{self.name}: the {dist.get_world_size()} processes that hold it are out of step, and it has to be "
                f"loaded again: {type(error).__name__}: {error}"
            ) from error

    def release(self, session: Session) -> None:
        self.inner.release(session)
        number, _ = self._numbers.pop(id(session), (None, None))
        if number is not None:
            self._over.append(number)

    def describe(self) -> dict[str, Any]:
        return {**self.inner.describe(), "tensor_parallel": len(self._ranks), "ranks": self._ranks}

    def _number(self, session: Session) -> int:
        if id(session) not in self._numbers:
            self._made += 1
            self._numbers[id(session)] = self._made, session
        return self._numbers[id(session)][0]


def follow(engine: HfEngine) -> None:
    """What every other rank does: its share of each forward, until rank 0 ends."""
    _meet(engine)
    sessions: dict[int, Session] = {}
    while True:
        try:
            order = iter(_hear())
        except RuntimeError:  # the connection is closed
            log.info("rank 0 has ended")
            return
        for number in _take(order, next(order)):
            if number in sessions:
                engine.release(sessions.pop(number))
        chosen, rows = [], []
        for _ in range(next(order)):
            number, fed, n_rows, n_new = _take(order, 4)
            session = sessions.setdefault(number, Session(Sampling()))
            session.tokens, session.fed = session.tokens[:fed] + _take(order, n_new), fed
            chosen.append(session)
            rows.append(n_rows)
        engine.forward(chosen, rows)


def _take(numbers: Iterator[int], count: int) -> list[int]:
    return [next(numbers) for _ in range(count)]


def _tell(order: Sequence[int]) -> None:
    """Rank 0, to all others: how many numbers, as many as fit, and the rest where there is one."""
    first = torch.zeros(FRAME, dtype=torch.long)
    first[0], head = len(order), torch.tensor(order[: FRAME - 1], dtype=torch.long)
    first[1 : 1 + len(head)] = head
    dist.broadcast(first, 0)
    if len(order) >= FRAME:
        dist.broadcast(torch.tensor(order[FRAME - 1 :], dtype=torch.long), 0)


def _hear() -> list[int]:
    first = torch.zeros(FRAME, dtype=torch.long)
    dist.broadcast(first, 0)
    count, *head = first.tolist()
    if count < FRAME:
        return head[:count]
    rest = torch.zeros(count - len(head), dtype=torch.long)
    dist.broadcast(rest, 0)
    return [*head, *rest.tolist()]


def _meet(engine: HfEngine) -> list[dict[str, Any]]:
    """Who holds the model, in order of rank. Raises EngineError where two ranks loaded something different."""
    about = {**engine.describe(), "weights": model_id(engine)}
    mine = {"rank": dist.get_rank(), "host": platform.node(), "pid": os.getpid(), "device": _device(engine.device)}
    ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, {**mine, **{key: about[key] for key in ALIKE}})
    for other in ranks[1:]:
        if differs := [f"{key} {ranks[0][key]} and {other[key]}" for key in ALIKE if ranks[0][key] != other[key]]:
            raise EngineError(
                f"{engine.name}: rank 0 on {ranks[0]['host']} and rank {other['rank']} on {other['host']} differ: "
                f"{'; '.join(differs)}. Remedy: the same model and the same packages on all machines"
            )
    return [{key: rank[key] for key in mine} for rank in ranks]


def _device(device: torch.device) -> str:
    if device.type == "cpu":
        return "cpu"
    return f"cuda:{torch.cuda.current_device()} {torch.cuda.get_device_name()}"
