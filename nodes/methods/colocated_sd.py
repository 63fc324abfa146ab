"""Speculative decoding with both models at the edge: the prompt goes up, each round's tokens stream down.

Leviathan et al. 2023 (arXiv 2211.17192), Alg. 1. The strongest baseline where the edge has room for the draft model:
it pays no round trip per round ("Speculation at a distance", arXiv 2606.25091). Coins are those of `dsd`, so with one
pair of models its tokens are those of `dsd` and `dssd`.
"""

from __future__ import annotations

from nodes.methods import Method, Reply, Score, Speculate
from nodes.sampling import accepted_prefix, residual, sample
from transport.messages import Count, Proposal, Verdict


class Up(Proposal):
    limit: Count  # tokens still to make


class Down(Verdict):
    drafted: Count  # by the edge's own draft model; n_accepted of them stand, already inside `tail`


class ColocatedSD(Method):
    Up, Down = Up, Down
    exact = True
    drafts = False
    streams = True
    edge_drafts = True

    def propose(self, draft, remaining):
        return Up(tokens=[], limit=remaining)

    def serve(self, up, base, coins):
        left = up.limit
        while True:
            draft = yield Speculate(coins, limit=left - 1)
            target = yield Score(draft.tokens)
            n = accepted_prefix(target.at(draft.tokens), draft.probs, coins, base)
            row = target.row(n)
            if n < len(draft.tokens):
                row = residual(row, draft.dists[n])
            tail = [*draft.tokens[:n], sample(row, coins("final", base + n))]
            down = Down(n_accepted=n, tail=tail, drafted=len(draft.tokens))
            base, left = base + len(tail), left - len(tail)
            if left == 0:
                return down
            yield Reply(down)
            if n < len(draft.tokens):
                coins = coins.at_epoch(coins.epoch + 1)


METHOD = ColocatedSD
