"""HLM with a shortened row: the token is drawn from the whole row, then only its most probable entries go up and the
edge takes the rest of the mass to be spread evenly. Not exact: what is divided by is not what was drawn from.

Oh et al. 2025 (CU-HLM, arXiv 2505.11788). Their letters: x = draft row, k = entries sent. Their k is the smallest whose
tail lies within a bound of an even one, in total variation, the bound growing with the uncertainty; that bound was seen
only in part, so here k is the smallest that leaves at most `tolerance` of the mass to the tail. `up` is the row that is
drawn from and is never sent, so it has to be lossless; with `method: hlm, up: uniform_tail` the same bytes are exact,
because the token is drawn from what is sent.
"""

from __future__ import annotations

from nodes.methods import Method, MethodError, Score, check_rows
from nodes.sampling import accepted_prefix, residual, sample
from transport.codecs import make_codec
from transport.messages import Encoded, Proposal, Verdict


class Up(Proposal):
    rows: list[Encoded]  # [g] shortened


class Down(Verdict):
    pass


class CUHLM(Method):
    Up, Down = Up, Down
    exact = False
    adds = 0

    def __init__(self, up, down, tolerance: float = 0.1):
        super().__init__(up, down)
        if not up.lossless:
            raise MethodError("cu_hlm draws from the whole row: its up codec has to be lossless")
        self.short = make_codec("uniform_tail", up.vocab_size, up.named_tokens, tolerance=tolerance)

    def propose(self, draft, remaining):
        return Up(tokens=draft.tokens, rows=[self.short.encode(row) for row in draft.dists])

    def check(self, up):
        check_rows(up.tokens, up.rows)

    def serve(self, up, base, coins):
        draft = [self.short.decode(row) for row in up.rows]
        target = yield Score(up.tokens)
        draft_probs = [row[token] for row, token in zip(draft, up.tokens)]
        n = accepted_prefix(target.at(up.tokens), draft_probs, coins, base)
        if n == len(up.tokens):
            return Down(n_accepted=n, tail=[])
        return Down(n_accepted=n, tail=[sample(residual(target.row(n), draft[n]), coins("final", base + n))])


METHOD = CUHLM
