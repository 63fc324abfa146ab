"""Distributed speculative decoding: the whole draft distribution goes up, the edge does all the sampling.

Zhao, Jing, Lu, Wen 2024 (ICCC), as described by Ning et al. 2025 (arXiv 2507.12000, §2). Their letters: gamma = draft
length, Q_i = our draft rows, P_i = our target rows. Exact with any uplink codec, because the drafter samples from the
decoded row, which is the one the edge divides by.
"""

from __future__ import annotations

from nodes.methods import Method, Score, check_rows
from nodes.sampling import accepted_prefix, residual, sample
from transport.messages import Encoded, Proposal, Verdict


class Up(Proposal):
    rows: list[Encoded]  # [g] the draft distribution each token was drawn from


class Down(Verdict):
    pass


class DSD(Method):
    Up, Down = Up, Down
    exact = True

    def propose(self, draft, remaining):
        return Up(tokens=draft.tokens, rows=draft.encoded)

    def check(self, up):
        check_rows(up.tokens, up.rows)

    def serve(self, up, base, coins):
        draft = [self.up.decode(row) for row in up.rows]
        target = yield Score(up.tokens)
        draft_probs = [row[token] for row, token in zip(draft, up.tokens)]
        n = accepted_prefix(target.at(up.tokens), draft_probs, coins, base)
        row = target.row(n)
        if n < len(up.tokens):
            row = residual(row, draft[n])
        return Down(n_accepted=n, tail=[sample(row, coins("final", base + n))])


METHOD = DSD
