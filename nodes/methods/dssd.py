"""Distributed split speculative decoding: tokens and their draft probabilities go up, one target row comes down, and
only after a rejection; the device draws the replacement itself.

Ning, Zheng, Yang 2025 (arXiv 2507.12000). Their letters: gamma = draft length, q_i(x_i) = our probs, P_j = our target
row at the first rejection. The paper prints its accept test as r < min(1, q/p) with x drawn from Q; that test leaves
the output exactly as far from the target as the draft was, so here it is target / draft, as the paper's proof needs.
The replacement rides up in the next round's carry (its Alg. 2, last note). The edge accepts against its own row, the
device redraws from what it decodes: the same row under a lossless downlink codec, which keeps the target's law; another
under a lossy one, which does not and is not called exact.
"""

from __future__ import annotations

import numpy as np

from nodes.methods import Method, Score, check_probs
from nodes.sampling import accepted_prefix, residual, sample
from transport.messages import Encoded, Floats, Proposal, Verdict


class Up(Proposal):
    probs: Floats  # [g] draft probability of each drafted token


class Down(Verdict):
    target: Encoded | None = None  # target row at the first rejection


class DSSD(Method):
    Up, Down = Up, Down

    @property
    def exact(self):
        return self.down.lossless

    def propose(self, draft, remaining):
        return Up(tokens=draft.tokens, probs=np.array(draft.probs, dtype=np.float32))

    def check(self, up):
        check_probs(up.tokens, up.probs)

    def serve(self, up, base, coins):
        target = yield Score(up.tokens)  # rows 0..g
        n = accepted_prefix(target.at(up.tokens), up.probs, coins, base)
        if n == len(up.tokens):  # all accepted: one more for free
            return Down(n_accepted=n, tail=[sample(target.row(n), coins("final", base + n))])
        return Down(n_accepted=n, tail=[], target=self.down.encode(target.row(n)))

    def resolve(self, draft, verdict, coins):
        if verdict.target is None:
            return verdict.tail
        n = verdict.n_accepted
        row = residual(self.down.decode(verdict.target), draft.dists[n])
        return [sample(row, coins("final", draft.base + n))]


METHOD = DSSD
