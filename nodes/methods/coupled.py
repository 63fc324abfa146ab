"""Coupled decoding: both ends draw by Gumbel-max with the same counter-based noise, so they mostly name the same token
and no distribution ever crosses. Token ids up; a count and one token down.

Ours, on the coupling of Daliri, Musco, Suresh 2024 (arXiv 2408.07978): Pr[match] >= (1 - TV) / (1 + TV). Every token
is the target's own draw with the noise of (seed, conversation, position), so the output is identical to target-only
Gumbel decoding with that seed, whatever the draft, the draft length, the link or the crash.
"""

from __future__ import annotations

from nodes.methods import Method, Score
from nodes.sampling import race
from transport.messages import Proposal, Verdict


class Up(Proposal):
    pass


class Down(Verdict):
    pass


class Coupled(Method):
    Up, Down = Up, Down
    exact = True
    takes_any_draft = True

    def draw(self, row, coins, position):
        return race(row, coins.noise(position, len(row)))

    guess = draw

    def propose(self, draft, remaining):
        return Up(tokens=draft.tokens)

    def serve(self, up, base, coins):
        target = yield Score(up.tokens)
        for i, drafted in enumerate(up.tokens):
            row = target.row(i)
            token = race(row, coins.noise(base + i, len(row)))
            if token != drafted:
                return Down(n_accepted=i, tail=[token])
        n = len(up.tokens)
        row = target.row(n)
        return Down(n_accepted=n, tail=[race(row, coins.noise(base + n, len(row)))])


METHOD = Coupled
