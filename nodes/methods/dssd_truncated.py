"""DSSD that accepts against what it sends: every target row is cut by the downlink codec before it is used.

Ours, to set PicoSpec right (Zhang et al. 2026, arXiv 2603.19133): there the edge accepts against its whole row and
sends the K first entries after a rejection, so acceptance and redraw belong to different targets.
Here acceptance, redraw and bonus all use the row that the device will decode. The output then has, exactly, the law of
the *cut* target: top-K sampling, if the codec is topk. That is the target's own law only where the codec loses nothing,
for instance under sampling that keeps no more than K tokens anyway, and only a lossless codec is called exact. Their
letters: P_j = target row at the first rejection, K = entries sent.
"""

from __future__ import annotations

import numpy as np

from nodes.methods import Method, Score, check_probs
from nodes.sampling import accepted_prefix, residual, sample
from transport.messages import Encoded, Floats, Proposal, Verdict


class Up(Proposal):
    probs: Floats  # [g] draft probability of each drafted token


class Down(Verdict):
    target: Encoded | None = None  # cut target row at the first rejection


class DSSDTruncated(Method):
    Up, Down = Up, Down

    @property
    def exact(self):
        return self.down.lossless

    def propose(self, draft, remaining):
        return Up(tokens=draft.tokens, probs=np.array(draft.probs, dtype=np.float32))

    def check(self, up):
        check_probs(up.tokens, up.probs)

    def serve(self, up, base, coins):
        target = yield Score(up.tokens)
        for i, token in enumerate(up.tokens):
            encoded = self.down.encode(target.row(i))
            row = self.down.decode(encoded)
            if not accepted_prefix([row[token]], [up.probs[i]], coins, base + i):
                return Down(n_accepted=i, tail=[], target=encoded)
        n = len(up.tokens)
        row = self.down.decode(self.down.encode(target.row(n)))
        return Down(n_accepted=n, tail=[sample(row, coins("final", base + n))])

    def resolve(self, draft, verdict, coins):
        if verdict.target is None:
            return verdict.tail
        n = verdict.n_accepted
        row = residual(self.down.decode(verdict.target), draft.dists[n])
        return [sample(row, coins("final", draft.base + n))]


METHOD = DSSDTruncated
