"""The hybrid language model: the draft's row and token go up, the edge keeps the token or draws another, and no token
is added for free.

Oh et al. 2024 (U-HLM, arXiv 2412.12687), HLM being its baseline without skipping. Their letters: x(t) = draft row, d =
drafted token, y(t) = target row; accept with min(1, y_d / x_d), else draw from the residual at the edge. One token a
round there (`stop: {policy: fixed, length: 1}`); any number works. Exact with any uplink codec, as `dsd` is; what makes
U-HLM inexact is the upload policy that skips.
"""

from __future__ import annotations

from nodes.methods import Method, Score, check_rows
from nodes.sampling import accepted_prefix, residual, sample
from transport.messages import Encoded, Proposal, Verdict


class Up(Proposal):
    rows: list[Encoded]  # [g] the draft distribution each token was drawn from


class Down(Verdict):
    pass


class HLM(Method):
    Up, Down = Up, Down
    exact = True
    adds = 0  # no bonus token

    def propose(self, draft, remaining):
        return Up(tokens=draft.tokens, rows=draft.encoded)

    def check(self, up):
        check_rows(up.tokens, up.rows)

    def serve(self, up, base, coins):
        draft = [self.up.decode(row) for row in up.rows]
        target = yield Score(up.tokens)
        draft_probs = [row[token] for row, token in zip(draft, up.tokens)]
        n = accepted_prefix(target.at(up.tokens), draft_probs, coins, base)
        if n == len(up.tokens):
            return Down(n_accepted=n, tail=[])
        return Down(n_accepted=n, tail=[sample(residual(target.row(n), draft[n]), coins("final", base + n))])


METHOD = HLM
