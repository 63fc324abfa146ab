"""Until a token was drawn with a probability below `threshold`, at most `max_length` (SLED, arXiv 2506.09397, its c_th;
Hao et al. 2024, their p_t)."""

from __future__ import annotations

from nodes.methods import Draft
from nodes.policies import number_within
from nodes.policies.stop import Stop, checked_length


class Confidence(Stop):
    def __init__(self, threshold: float = 0.5, max_length: int = 8) -> None:
        self.threshold = number_within("stop", "threshold", threshold, 0, 1)
        self.max_length = checked_length(max_length)

    def more(self, draft: Draft) -> bool:
        if not draft.tokens:
            return True
        return draft.probs[-1] >= self.threshold and len(draft.tokens) < self.max_length


POLICY = Confidence
