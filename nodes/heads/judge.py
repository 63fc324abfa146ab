"""A head with a threshold: what the two protocols of WISV share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nodes.engine import Engine
from nodes.heads import SHIPPED, Floats, Head, HeadError, Role, read_head, shipped_head
from transport.messages import Encoded


class Judge:
    """Accepts a token that the head finds acceptable with more than `c_th`: at 1 it accepts none, at 0 all of them.

    `head` is a file, or `shipped`: the one that ships for the models. `link` is what the head is told of the link:
    `measured`, or declared as {rtt_ms, rate_mbps}.
    """

    def __init__(self, head: str, c_th: float, link: str | Mapping[str, float]) -> None:
        if isinstance(c_th, bool) or not isinstance(c_th, int | float) or not 0 <= c_th <= 1:
            raise HeadError(f"c_th must be a probability, from 0 to 1, not {c_th!r}")
        if link != "measured" and not _is_link(link):
            raise HeadError(f'link must be "measured" or {{rtt_ms: MS, rate_mbps: MBPS}}, both above 0, not {link!r}')
        self.where, self.c_th, self.link = head, c_th, link
        self._head = None if head == SHIPPED else read_head(Path(head))

    @property
    def head(self) -> Head:
        if self._head is None:
            raise HeadError("the head that ships depends on the models, and none was met")
        return self._head

    @property
    def strict(self) -> bool:
        """Accepts nothing, whatever the head says."""
        return self.c_th == 1

    def agreement(self) -> dict[str, str]:
        """Both nodes read the same file."""
        return {} if self.where == SHIPPED else {"head": self.head.id}

    def meet(self, role: Role, engine: Engine) -> None:
        """Find the head that ships for this engine, or see that the one that was named is for it. Raises HeadError."""
        self._head = shipped_head(role, engine) if self.where == SHIPPED else self.head.check(role, engine)

    def accepts(self, draft: Floats, target: Floats, link: Floats) -> bool:
        return self.head.probability(draft, target, link) > self.c_th

    # What travels -----------------------------------------------------------------------------------------------------

    def link_state(self, measured: tuple[float, float] | None) -> Floats:
        """[2] round-trip time in ms and rate in Mbit/s, as declared or else as measured."""
        if isinstance(self.link, Mapping):
            return np.array([self.link["rtt_ms"], self.link["rate_mbps"]], dtype=np.float32)
        if measured is None:
            raise HeadError("the link was not measured: declare it, link: {rtt_ms: 50, rate_mbps: 10}")
        return np.array(measured, dtype=np.float32)

    def encode(self, states: Sequence[Floats]) -> Encoded:
        """[n, hidden] as float16."""
        return Encoded(np.array(states, dtype="<f2").tobytes())

    def decode(self, encoded: Encoded, n: int) -> Floats:
        """[n, hidden]. Raises HeadError where these are not n finite states."""
        size = self.head.card.draft.hidden_size
        if encoded.nbytes != 2 * size * n:
            raise HeadError(f"{encoded.nbytes} bytes are not {n} hidden states of {size} numbers, 2 bytes each")
        states = np.frombuffer(encoded.data, dtype="<f2").reshape(n, size).astype(np.float32)
        if not np.isfinite(states).all():
            raise HeadError("a hidden state is not finite")
        return states

    @staticmethod
    def check_link(link: Floats) -> None:
        if len(link) != 2 or not (link > 0).all():
            raise HeadError(f"{link.tolist()} are not a round-trip time and a rate")


def _is_link(link: Any) -> bool:
    keys = {"rtt_ms", "rate_mbps"}
    return (
        isinstance(link, Mapping)
        and set(link) == keys
        and all(
            isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
            for value in link.values()
        )
    )
