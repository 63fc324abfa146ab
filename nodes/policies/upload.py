"""Is this draft worth sending? A policy that skips leaves tokens the target never saw, and makes a system inexact.

A policy sees the draft with its rows: processed probabilities, never logits. What it skips is final at once, and its
ids ride up in the next round's carry, where they are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from nodes.methods import Draft
from nodes.policies import PolicyError, make_policy, number_within
from nodes.sampling import Coins, Row, sample


class Upload:
    exact: ClassVar[bool]

    def worth(self, draft: Draft, coins: Coins) -> bool:
        """An empty draft always is: there is nothing in it to keep, so only the edge brings the request on."""
        return not draft.tokens or self.asks(draft, coins)

    def asks(self, draft: Draft, coins: Coins) -> bool:
        """About these tokens, at least one."""
        raise NotImplementedError


class Always(Upload):
    """Every draft is verified."""

    exact = True

    def asks(self, draft: Draft, coins: Coins) -> bool:
        return True


class Uncertainty(Upload):
    """Skip a draft whose every token the draft model is sure of (U-HLM, Oh et al. 2024, arXiv 2412.12687).

    `samples` temperatures theta are drawn evenly from (0, 2] (their K = 20), one token from each perturbed row, and u
    is the share that differs from the drafted token; sent if some u > `threshold` (their u_th: 0.43 "risk-prone", 0.073
    "risk-averse"). Perturbing a row p by theta is p^(1/theta), normalised: no further forward. On top of a sampling
    temperature theta multiplies it; greedy rows cannot be perturbed, u is 0 and all is skipped.
    """

    exact = False

    def __init__(self, threshold: float = 0.08, samples: int = 20) -> None:
        self.threshold = number_within("upload", "threshold", threshold, 0, 1)
        if not isinstance(samples, int) or not 1 <= samples <= 1000:
            raise PolicyError(f"upload: samples must be 1 to 1000, not {samples!r}")
        self.samples = samples

    def asks(self, draft: Draft, coins: Coins) -> bool:
        return any(
            uncertainty(row, token, coins, draft.base + i, self.samples) > self.threshold
            for i, (row, token) in enumerate(zip(draft.dists, draft.tokens))
        )


class Hard(Upload):
    """Send a draft whose last token had a probability below `threshold`, keep any other (Hao et al. 2024, their p_t).
    Beside `stop: {policy: confidence}` of the same threshold that is the run that ended on a hard token."""

    exact = False

    def __init__(self, threshold: float = 0.8) -> None:
        self.threshold = number_within("upload", "threshold", threshold, 0, 1)

    def asks(self, draft: Draft, coins: Coins) -> bool:
        return draft.probs[-1] < self.threshold


def uncertainty(row: Row, token: int, coins: Coins, position: int, samples: int) -> float:
    """u: the share of tokens drawn at other temperatures that differ from `token`."""
    support = np.flatnonzero(row)
    logs = np.log(row[support], dtype=np.float64)
    logs -= logs.max()
    differ = 0
    for i in range(samples):
        theta = 2 * (1 - coins("theta", position, i))
        differ += int(support[sample(np.exp(logs / theta), coins("perturb", position, i))]) != token
    return differ / samples


POLICIES = {"always": Always, "uncertainty": Uncertainty, "hard": Hard}


def make_upload(spec: Mapping[str, Any] | str) -> Upload:
    """Raises PolicyError."""
    return make_policy("upload", POLICIES, spec)
