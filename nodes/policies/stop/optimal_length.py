"""The draft length that makes the most tokens a millisecond, in closed form (TK-SLT: Zheng & Yang 2025, arXiv
2509.04576, "ODLD" and "AS2", as a public re-implementation has them; the paper's own text was not at hand).

Their letters: alpha = acceptance, gamma = draft length, L = cost of a drafted token over the cost of a round without
any, S(gamma) = (1 - alpha^(gamma+1)) / ((1 - alpha)(1 + gamma L)) = gain over drafting nothing. They charge a round one
target pass and put the link into L; here a round's fixed part is all of it that was measured not to grow with gamma,
round-trip time included, so L = (draft + link + verify, each per token) / (fixed part of a round). Where no length
gains anything the edge makes the next token alone (length 0): their "use the LLM alone", one round trip a token.
"""

from __future__ import annotations

import math

from nodes.policies.measured import Adaptive, expected_tokens


class OptimalLength(Adaptive):
    def __init__(self, max_length: int = 16, forgetting: float = 0.98) -> None:
        super().__init__(max_length, forgetting)

    def best(self) -> int:
        fixed_ms, token_ms = self.rounds.rest_ms
        cost = (self.rounds.draft_ms + token_ms) / max(fixed_ms, 1e-6)
        alpha = self.rounds.acceptance
        length = min(best_length(alpha, cost), self.max_length)
        return length if gain(length, alpha, cost) > 1 else 0


def gain(length: int, alpha: float, cost: float) -> float:
    """S(gamma)."""
    return expected_tokens(alpha, length) / (1 + length * cost)


def best_length(alpha: float, cost: float) -> int:
    """gamma* >= 1: S has one maximum, at gamma0 = (W_-1(-alpha^(1/L - 1) / e) + 1) / ln(alpha) - 1/L."""
    alpha, cost = min(max(alpha, 1e-6), 1 - 1e-6), max(cost, 1e-6)
    if cost >= 1:
        return 1
    decay = -math.log(alpha)
    peak = (minus_lambert((1 / cost - 1) * decay) - 1) / decay - 1 / cost
    if peak < 1:
        return 1
    low = math.floor(peak)
    return low if gain(low, alpha, cost) >= gain(low + 1, alpha, cost) else low + 1


def minus_lambert(u: float) -> float:
    """-W_-1(-exp(-u - 1)) for u >= 0: the y >= 1 with y - ln(y) = u + 1, by Newton's iteration. Logarithms throughout:
    exp(-u) is 0 long before the answer is out of range."""
    y = 1 + math.sqrt(2 * u) + u
    for _ in range(50):
        step = (y - math.log(y) - u - 1) * y / (y - 1) if y > 1 else 0.0
        y = max(1.0, y - step)
        if abs(step) <= 1e-13 * y:
            break
    return y


POLICY = OptimalLength
