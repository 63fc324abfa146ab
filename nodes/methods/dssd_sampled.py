"""DSSD with draws in place of the row: after a rejection the edge sends K independent draws from its row, each with
its probability, and the device thins them by its own row.

Ours. A draw x ~ target is taken with probability max(0, 1 - draft(x) / target(x)); the first one taken is distributed
as norm(max(0, target - draft)), by rejection sampling, so the law is the target's whatever K. When all K fail the
device asks for twice as many, and after three such tries for the row itself. Some 250 bytes at K = 32, where DSSD's row
takes 4 V (600 kB at V = 151,936).
"""

from __future__ import annotations

import numpy as np

from nodes.methods import Method, MethodError, Reply, Score, check_probs
from nodes.sampling import accepted_prefix, residual, sample, sample_many
from transport.messages import Count, Encoded, Floats, Proposal, Token, Verdict

TRIES = 3  # after these many batches of draws, the row


class Up(Proposal):
    probs: Floats  # [g] draft probability of each drafted token; empty in a follow-up
    more: Count = 0  # follow-up: this many draws (0: the row)


class Down(Verdict):
    draws: list[Token] = []  # [K] from the target row at the first rejection
    target_probs: Floats | None = None  # [K] their probabilities
    target: Encoded | None = None  # the row, when the draws kept failing


class DSSDSampled(Method):
    Up, Down = Up, Down

    def __init__(self, up, down, draws: int = 32):
        super().__init__(up, down)
        if not 1 <= draws <= 4096:
            raise MethodError(f"dssd_sampled: draws must be 1 to 4096, not {draws}")
        self.draws = draws

    @property
    def exact(self):
        return self.down.lossless  # the row of last resort

    def propose(self, draft, remaining):
        return Up(tokens=draft.tokens, probs=np.array(draft.probs, dtype=np.float32))

    def check(self, up):
        check_probs(up.tokens, up.probs)
        if up.more > self.draws << TRIES:
            raise MethodError(f"asked for {up.more} draws, at most {self.draws << TRIES}")

    def serve(self, up, base, coins):
        target = yield Score(up.tokens)
        n = accepted_prefix(target.at(up.tokens), up.probs, coins, base)
        row = target.row(n)
        if n == len(up.tokens):
            return Down(n_accepted=n, tail=[sample(row, coins("final", base + n))])
        drawn, wanted = 0, self.draws
        while wanted:
            tosses = [coins("draw", base + n, drawn + k) for k in range(wanted)]
            draws = sample_many(row, tosses)
            drawn += wanted
            down = Down(n_accepted=n, tail=[], draws=draws, target_probs=row[draws])
            wanted = (yield Reply(down, follow_up=True)).more
        return Down(n_accepted=n, tail=[], target=self.down.encode(row))

    def resolve(self, draft, verdict, coins):
        if verdict.tail:
            return verdict.tail
        n, tried = verdict.n_accepted, 0
        position, draft_row = draft.base + n, draft.dists[n]
        for attempt in range(1, TRIES + 1):
            for k, (token, target_prob) in enumerate(zip(verdict.draws, verdict.target_probs)):
                if coins("thin", position, tried + k) < 1 - float(draft_row[token]) / float(target_prob):
                    return [token]
            tried += len(verdict.draws)
            more = self.draws << attempt if attempt < TRIES else 0
            verdict = yield Up(tokens=[], probs=np.empty(0, dtype=np.float32), more=more)
        return [sample(residual(self.down.decode(verdict.target), draft_row), coins("final", position))]


METHOD = DSSDSampled
