"""Sample and match: the edge draws its own token at every position and keeps the draft's while they agree.

The exchange of SpecEdge (KAIST 2025, arXiv 2505.17052) on a chain: tokens both ways, no probability on the wire. The
draws are independent of the draft, so acceptance is sum(draft x target): poor at temperature 1, good when sampling is
sharp. The coins leave the epoch out, so the output is token for token that of `edge_ar` with the same seed.
"""

from __future__ import annotations

from nodes.methods import Method, Score
from nodes.sampling import sample
from transport.messages import Proposal, Verdict


class Up(Proposal):
    pass


class Down(Verdict):
    pass


class TokenMatch(Method):
    Up, Down = Up, Down
    exact = True
    takes_any_draft = True

    def guess(self, row, coins, position):
        return sample(row, coins.fixed("final", position))

    def propose(self, draft, remaining):
        return Up(tokens=draft.tokens)

    def serve(self, up, base, coins):
        target = yield Score(up.tokens)
        n = 0
        token = sample(target.row(0), coins.fixed("final", base))
        while n < len(up.tokens) and token == up.tokens[n]:
            n += 1
            token = sample(target.row(n), coins.fixed("final", base + n))
        return Down(n_accepted=n, tail=[token])


METHOD = TokenMatch
