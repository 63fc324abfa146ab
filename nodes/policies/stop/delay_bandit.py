"""The draft length as a bandit's arm: the one with the least optimistic latency per token (after "delay-adaptive
speculation", arXiv 2606.20591, its UCB-SpecStop).

Only their abstract was at hand: an upper-confidence bandit over draft lengths on measured per-token latency, lengths
that grow with the delay, acceptance that need not be geometric. So the details are ours. A round tells about all
shorter arms too: the share of rounds whose i-th token stood is kept for every i, and its upper confidence bound, which
may not rise with i, says how many tokens an arm could make. An arm's time is its own mean, drawn towards a straight
line through all arms while it was tried little. Older rounds count less, so a link that changes is followed.
"""

from __future__ import annotations

import numpy as np

from nodes.methods import Draft
from nodes.policies import number_within
from nodes.policies.measured import FIRST, Rounds
from nodes.policies.stop import Stop, checked_length
from nodes.records import RoundRecord

PRIOR = 4.0  # rounds that the straight line counts for in an arm's time


class DelayBandit(Stop):
    """Arms 1 to `max_length`; `optimism` scales the confidence bounds, 0 trusts every mean."""

    adapts = True

    def __init__(self, max_length: int = 16, optimism: float = 0.01, forgetting: float = 0.99) -> None:
        self.max_length = checked_length(max_length)
        self.optimism = number_within("stop", "optimism", optimism, 0)
        self.rounds = Rounds(forgetting)
        self.length = min(FIRST[0], max_length)
        self._reached, self._stood = np.zeros(max_length), np.zeros(max_length)  # rounds with an i-th token; it stood
        self._tried, self._spent_ms = np.zeros(max_length), np.zeros(max_length)  # of the arm itself

    def more(self, draft: Draft) -> bool:
        return len(draft.tokens) < self.length

    def observe(self, record: RoundRecord) -> None:
        if not 1 <= record.n_drafted <= self.max_length or not self.rounds.add(record):
            return
        for sums in (self._reached, self._stood, self._tried, self._spent_ms):
            sums *= self.rounds.forgetting
        self._reached[: record.n_drafted] += 1
        self._stood[: record.n_accepted] += 1
        self._tried[record.n_drafted - 1] += 1
        self._spent_ms[record.n_drafted - 1] += (record.end_ns - record.start_ns) / 1e6
        self.length = int(np.argmin(self.latency_ms())) + 1

    def latency_ms(self) -> np.ndarray:
        """[max_length] of a token, by arm, as low as it can reasonably be believed."""
        weight = self._tried.sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            survival = self._stood / self._reached + np.sqrt(self.optimism * np.log1p(weight) / self._reached)
        survival[self._reached < 1e-3] = 1.0
        tokens = 1 + np.cumsum(np.minimum.accumulate(np.minimum(survival, 1.0)))
        fixed_ms, token_ms = self.rounds.rest_ms
        line_ms = fixed_ms + (self.rounds.draft_ms + token_ms) * np.arange(1, self.max_length + 1)
        return (self._spent_ms + PRIOR * line_ms) / (self._tried + PRIOR) / tokens


POLICY = DelayBandit
