"""Engines turn tokens into distributions. The same classes draft on the device and verify on the edge.

Logits never leave an engine: above it everything is a normalised, processed distribution, so a temperature or
a top-k cannot reach the draw and miss the accept test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nodes.sampling import Row
from nodes.session import Session


class EngineError(RuntimeError):
    """An engine that cannot be made or cannot serve; the message names the model and the remedy."""


class SessionRefused(EngineError):
    """One session of a batch cannot be fed (too long, unknown token, nothing to feed); the others have not
    been touched, so the same forward without `session` succeeds."""

    def __init__(self, session: Session, message: str) -> None:
        super().__init__(message)
        self.session = session


class EngineLost(EngineError):
    """The engine is gone for good, and every session with it: its node ends, and is started again if it may be."""


class Dists(Protocol):
    """[T, V] rows, each a processed distribution; may live on an accelerator, rows leave one by one."""

    def __len__(self) -> int: ...

    def row(self, i: int) -> Row:
        """[V] float32."""
        ...

    def at(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """[len(tokens)] probability of tokens[i] in row i, for the first len(tokens) rows."""
        ...

    def hidden(self, i: int) -> NDArray[np.float32]:
        """[hidden_size] the model's last hidden state, that row i was made from."""
        ...


class Tokenizer(Protocol):
    def encode(self, text: str) -> list[int]: ...

    def decode(self, tokens: Sequence[int]) -> str: ...


class Engine(Protocol):
    name: str  # as in the configuration, for instance "bundled:draft"
    vocab_size: int  # width of a row
    named_tokens: int  # the ids below are tokens; those beyond pad a row, with probability zero in every one
    hidden_size: int  # of a hidden state
    vocab_hash: str  # of the tokenizer: equal on both nodes or the handshake refuses
    eos_tokens: frozenset[int]
    max_tokens: int  # longest session (prompt and output) the model takes
    tokenizer: Tokenizer
    labels: frozenset[str]  # what a table must say beside its numbers: "paced", "toy"

    def forward(self, sessions: Sequence[Session], rows: Sequence[int]) -> list[Dists]:
        """Feed each session's tokens[fed:], all in one forward however long each is; returns for session i
        the distributions after its last rows[i] tokens, and leaves fed == len(tokens). rows[i] <= tokens fed
        now.

        Raises SessionRefused before anything is fed."""
        ...

    def release(self, session: Session) -> None:
        """The session is over: drop its cache."""
        ...

    def describe(self) -> dict[str, Any]:
        """For the manifest: model, revision or hash, dtype, device, threads, pace and their sources."""
        ...
