"""DSSD with the accept test exactly as its paper prints it: r < min(1, q/p), for a token drawn from q. Not exact.

Ning, Zheng, Yang 2025 (arXiv 2507.12000 v2), body text, footnote 3, Alg. 1 and Alg. 2 all print the ratio this way
round; `dssd` has it the other way, as the proof needs. It is here to show what the inversion does: wherever draft >=
target every such token stands and the residual is zero, so the output there is the draft's, and the output's total
variation from the target is exactly the draft's own - the large model buys nothing - while acceptance looks better
than it should. Their letters: q_i(x_i) = draft probability, P_j = target row at the first rejection.
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


class DSSDAsPrinted(Method):
    Up, Down = Up, Down
    exact = False

    def propose(self, draft, remaining):
        return Up(tokens=draft.tokens, probs=np.array(draft.probs, dtype=np.float32))

    def check(self, up):
        check_probs(up.tokens, up.probs)

    def serve(self, up, base, coins):
        target = yield Score(up.tokens)
        n = accepted_prefix(up.probs, target.at(up.tokens), coins, base)  # draft / target: the inversion
        if n == len(up.tokens):
            return Down(n_accepted=n, tail=[sample(target.row(n), coins("final", base + n))])
        return Down(n_accepted=n, tail=[], target=self.down.encode(target.row(n)))

    def resolve(self, draft, verdict, coins):
        if verdict.target is None:
            return verdict.tail
        n = verdict.n_accepted
        row = residual(self.down.decode(verdict.target), draft.dists[n])
        return [sample(row, coins("final", draft.base + n))]


METHOD = DSSDAsPrinted
