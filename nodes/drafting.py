"""Drafting: one token at a time, encoded before it is drawn.

A row is encoded, decoded again, and the token is drawn from what came out: the very numbers the verifier will divide
by. So a lossy uplink codec costs acceptance, never exactness.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from nodes.engine import Dists, Engine
from nodes.methods import Draft, Method
from nodes.policies.stop import Stop
from nodes.sampling import Coins, Row
from nodes.session import Session


class Drafter:
    """A draft engine with a method's way of drawing and a policy for when to stop."""

    def __init__(self, engine: Engine, method: Method, stop: Stop) -> None:
        self.engine, self.method, self.stop = engine, method, stop
        self.deciding_ns = 0  # what the policy has taken so far
        self._least = 0 if method.adds else 1  # a round has to bring a token

    def draft(self, session: Session, prefix: list[int], coins: Coins, limit: int) -> Draft:
        """At most `limit` tokens after `prefix`, less if the policy or an end-of-sequence token says so."""
        draft = Draft(len(prefix), [], [], [], [])
        self.extend(session, prefix, draft, coins, limit)
        return draft

    def extend(
        self,
        session: Session,
        prefix: list[int],
        draft: Draft,
        coins: Coins,
        limit: int,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Draft on until the policy stops, or until `interrupted()`: then False, and a later call goes on from there
        with the same tokens as if nothing had happened."""
        while len(draft.tokens) < limit and (len(draft.tokens) < self._least or self._more(draft)):
            if draft.tokens and draft.tokens[-1] in self.engine.eos_tokens:
                break
            if interrupted():
                return False
            dists = self._after(session, [*prefix, *draft.tokens])
            row = dists.row(0)
            encoded = self.method.up.encode(row)
            if not self.method.up.lossless:
                row = self.method.up.decode(encoded)
            token = self.method.draw(row, coins, draft.base + len(draft.tokens))
            draft.tokens.append(token)
            draft.probs.append(float(row[token]))
            draft.dists.append(row)
            draft.encoded.append(encoded)
            if self.method.reads_hidden:
                draft.hidden.append(dists.hidden(0))
        return True

    def row_after(self, session: Session, tokens: list[int]) -> Row:
        """[V] the draft distribution that follows these tokens."""
        return self._after(session, tokens).row(0)

    def _more(self, draft: Draft) -> bool:
        began_ns = time.monotonic_ns()
        more = self.stop.more(draft)
        self.deciding_ns += time.monotonic_ns() - began_ns
        return more

    def _after(self, session: Session, tokens: list[int]) -> Dists:
        session.become(tokens)
        return self.engine.forward([session], [1])[0]
