"""Semantic verification: a drafted token that the target did not draw stands all the same if a trained head finds it
acceptable, and the slower the link, the more it does. Here every draft state goes up at once. Not exact.

Liu et al. 2026 (WISV, arXiv 2604.17701), full-hidden upload; their abstract was at hand. Their letters: c_th = the
head's threshold. A mismatch is a token that differs from the edge's own draw at its position (`token_match`), whose
coins leave the epoch out: at c_th = 1 nothing but a match stands, and the output is token for token that of `edge_ar`.
What the head reads, and what it is taught, is ours (nodes/heads, docs/systems.md).
"""

from __future__ import annotations

from nodes.heads.judge import Judge
from nodes.methods import Method, Score
from nodes.sampling import sample
from transport.messages import Encoded, Floats, Proposal, Verdict

LINK = {"rtt_ms": 50, "rate_mbps": 10}


class Up(Proposal):
    hidden: Encoded  # [g, hidden_size] float16: the draft state each token was drawn from
    link: Floats  # [2] round-trip time in ms, rate in Mbit/s


class Down(Verdict):
    pass


class WISV(Method):
    Up, Down = Up, Down
    reads_hidden = True
    files = ("head",)

    def __init__(self, up, down, head: str = "shipped", c_th: float = 0.5, link=LINK):
        super().__init__(up, down)
        self.judge = Judge(head, c_th, link)

    @property
    def exact(self):
        return self.judge.strict

    def agreement(self):
        return self.judge.agreement()

    def meet(self, role, engine):
        self.judge.meet(role, engine)

    def guess(self, row, coins, position):
        return sample(row, coins.fixed("final", position))

    def propose(self, draft, remaining):
        return Up(tokens=draft.tokens, hidden=self.judge.encode(draft.hidden), link=self.judge.link_state(draft.link))

    def check(self, up):
        self.judge.check_link(up.link)
        self.judge.decode(up.hidden, len(up.tokens))

    def serve(self, up, base, coins):
        target = yield Score(up.tokens)
        draft_states = self.judge.decode(up.hidden, len(up.tokens))
        for i, drafted in enumerate(up.tokens):
            own = sample(target.row(i), coins.fixed("final", base + i))
            if own != drafted and not self.judge.accepts(draft_states[i], target.hidden(i + 1), up.link):
                return Down(n_accepted=i, tail=[own])
        n = len(up.tokens)
        return Down(n_accepted=n, tail=[sample(target.row(n), coins.fixed("final", base + n))])


METHOD = WISV
