"""A conversation on one node: its tokens, and how many of them the engine's cache holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nodes.sampling import Sampling


class Session:
    """`cache` belongs to the engine and is valid for `tokens[:fed]`; nobody else looks inside."""

    __slots__ = ("cache", "fed", "sampling", "tokens")

    def __init__(self, sampling: Sampling, tokens: Sequence[int] = ()) -> None:
        self.sampling = sampling
        self.tokens: list[int] = list(tokens)
        self.fed = 0
        self.cache: Any = None

    def become(self, tokens: Sequence[int]) -> None:
        """These are the tokens now. The only rollback there is: acceptance, rejection, bonus and failed guess alike.

        Keeps the longest common prefix of what is cached, less one token, so that the next forward has one to feed.
        """
        common = min(self.fed, len(tokens))
        if self.tokens[:common] != list(tokens[:common]):
            common = next(i for i in range(common) if self.tokens[i] != tokens[i])
        self.tokens = list(tokens)
        self.fed = max(0, min(common, len(tokens) - 1))

    def rewind(self, rows: int) -> None:
        """The next forward shall feed at least the last `rows` tokens: their distributions are wanted again."""
        self.fed = max(0, min(self.fed, len(self.tokens) - rows))
