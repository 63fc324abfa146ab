"""The edge alone: the prompt goes up once, and every token comes down the moment it is made.

The baseline that papers measure without a network; here it streams over the same link as everybody else.
"""

from __future__ import annotations

from nodes.methods import Method, Reply, Score
from nodes.sampling import sample
from transport.messages import Count, Proposal, Verdict


class Up(Proposal):
    limit: Count  # tokens still to make


class Down(Verdict):
    pass


class EdgeAR(Method):
    Up, Down = Up, Down
    exact = True
    drafts = False
    streams = True

    def propose(self, draft, remaining):
        return Up(tokens=[], limit=remaining)

    def serve(self, up, base, coins):
        for position in range(base, base + up.limit):
            target = yield Score([])
            down = Down(n_accepted=0, tail=[sample(target.row(0), coins.fixed("final", position))])
            if position == base + up.limit - 1:
                return down
            yield Reply(down)


METHOD = EdgeAR
