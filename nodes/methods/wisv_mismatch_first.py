"""Semantic verification in two exchanges: token ids go up first, the edge names the positions where it would have drawn
another token, and only for those the draft states follow. The tokens are those of `wisv`. Not exact.

Liu et al. 2026 (WISV, arXiv 2604.17701), mismatch-first selective-hidden upload; their abstract was at hand. Their
letters: c_th = the head's threshold. A round without a mismatch is one exchange. All mismatches are named at once,
those behind one that the head will turn down too: asking for the first alone would cost a round trip each.
"""

from __future__ import annotations

import numpy as np

from nodes.heads.judge import Judge
from nodes.methods import Method, Reply, Score
from nodes.sampling import sample
from transport.messages import Count, Encoded, Floats, Proposal, Verdict

LINK = {"rtt_ms": 50, "rate_mbps": 10}
NOTHING = np.empty(0, dtype=np.float32)


class Up(Proposal):
    link: Floats  # [2] round-trip time in ms, rate in Mbit/s; empty in a follow-up
    hidden: Encoded | None = None  # follow-up: [mismatches, hidden_size] float16, the draft states asked for


class Down(Verdict):
    mismatches: list[Count] = []  # places in the draft; empty in a last verdict


class WISVMismatchFirst(Method):
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
        return Up(tokens=draft.tokens, link=self.judge.link_state(draft.link))

    def check(self, up):
        if up.hidden is None:
            self.judge.check_link(up.link)

    def serve(self, up, base, coins):
        target = yield Score(up.tokens)
        n = len(up.tokens)
        own = [sample(target.row(i), coins.fixed("final", base + i)) for i in range(n + 1)]
        mismatches = [i for i, drafted in enumerate(up.tokens) if own[i] != drafted]
        if mismatches:
            asked = Down(n_accepted=mismatches[0], tail=[], mismatches=mismatches)
            follow_up = yield Reply(asked, follow_up=True)
            draft_states = self.judge.decode(follow_up.hidden or Encoded(b""), len(mismatches))
            for i, draft_state in zip(mismatches, draft_states):
                if not self.judge.accepts(draft_state, target.hidden(i + 1), up.link):
                    n = i
                    break
        return Down(n_accepted=n, tail=[own[n]])

    def resolve(self, draft, verdict, coins):
        if verdict.mismatches:
            states = [draft.hidden[i] for i in verdict.mismatches]
            verdict = yield Up(tokens=[], link=NOTHING, hidden=self.judge.encode(states))
        return verdict.tail


METHOD = WISVMismatchFirst
