"""A small engine that takes the time and sends the bytes of a large one.

Its tokens and probabilities are the inner engine's; rows are padded with zero-probability entries to the
width of the model it stands for, and a forward lasts as long as the `Pace` says. Everything it touches is
labelled `paced`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.busy import BusyTime
from nodes.engine import Dists, Engine, EngineError
from nodes.engine.profiles import Pace
from nodes.sampling import Row
from nodes.session import Session


class PaddedDists:
    """Another engine's rows, [T, vocab_size], padded when one is asked for."""

    __slots__ = ("_inner", "_vocab_size")

    def __init__(self, inner: Dists, vocab_size: int) -> None:
        self._inner = inner
        self._vocab_size = vocab_size

    def __len__(self) -> int:
        return len(self._inner)

    def row(self, i: int) -> Row:
        row = self._inner.row(i)
        padded = np.zeros(self._vocab_size, dtype=np.float32)
        padded[: len(row)] = row
        return padded

    def at(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        return self._inner.at(tokens)

    def hidden(self, i: int) -> NDArray[np.float32]:
        return self._inner.hidden(i)


class PacedEngine:
    """Wraps any engine. A forward that the inner engine takes longer for than the pace allows is an overrun:
    counted, timed, and in `describe()`, since such a run did not take the time it claims."""

    def __init__(self, inner: Engine, pace: Pace) -> None:
        self.vocab_size = pace.vocab_size or inner.vocab_size
        if self.vocab_size < inner.vocab_size:
            raise EngineError(
                f"pace {pace.name}: its vocabulary of {self.vocab_size} is smaller than "
                f"the {inner.vocab_size} of {inner.name}, which cannot be padded to it; "
                "choose a smaller engine or a larger vocab_size"
            )
        self.inner, self.pace = inner, pace
        self.name = inner.name
        self.named_tokens, self.hidden_size = inner.named_tokens, inner.hidden_size
        self.vocab_hash = hashlib.sha256(f"{inner.vocab_hash} padded to {self.vocab_size}".encode()).hexdigest()
        self.eos_tokens = inner.eos_tokens
        self.max_tokens = inner.max_tokens
        self.tokenizer = inner.tokenizer
        self.labels = inner.labels | {"paced"}
        self.forwards = 0
        self.overruns = 0
        self.overrun_s = 0.0  # by how much, all overruns together
        self.busy = BusyTime()  # for whoever models the power of the large machine, in this process or another

    @property
    def busy_s(self) -> float:
        """Seconds spent in forwards so far, the running one included."""
        return self.busy.seconds()

    def forward(self, sessions: Sequence[Session], rows: Sequence[int]) -> list[Dists]:
        """One duration for the whole batch: forward_ms once, plus per_token_ms for every token fed to any
        session."""
        news = [(len(session.tokens) - session.fed, session.fed == 0) for session in sessions]
        n_prompt = sum(n for n, is_prompt in news if is_prompt)
        n_tokens = sum(n for n, is_prompt in news if not is_prompt)
        began_s = time.monotonic()
        self.busy.begin()
        try:
            dists = self.inner.forward(sessions, rows)
            self._wait(began_s + self.pace.duration_s(n_tokens, n_prompt))
        finally:
            self.busy.end()
        self.forwards += 1
        return [PaddedDists(part, self.vocab_size) for part in dists]

    def release(self, session: Session) -> None:
        self.inner.release(session)

    def describe(self) -> dict[str, Any]:
        return {
            **self.inner.describe(),
            "vocab_size": self.vocab_size,
            "pace": self.pace.describe(),
            "forwards": self.forwards,
            "overruns": self.overruns,
            "overrun_s": round(self.overrun_s, 6),
        }

    def _wait(self, until_s: float) -> None:
        remaining_s = until_s - time.monotonic()
        if remaining_s < 0:
            self.overruns += 1
            self.overrun_s -= remaining_s
        else:
            time.sleep(remaining_s)
