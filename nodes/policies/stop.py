"""When the device stops drafting. A policy sees the draft so far, so the tokens beyond are never conditioned on:
stopping on what is already drawn keeps the target's law."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nodes.methods import Draft
from nodes.policies import PolicyError, make_policy


class Fixed:
    """`length` tokens a round."""

    def __init__(self, length: int = 4) -> None:
        if not 1 <= length <= 256:
            raise PolicyError(f"stop: length must be 1 to 256, not {length}")
        self.max_length = length

    def more(self, draft: Draft) -> bool:
        return len(draft.tokens) < self.max_length


class Confidence:
    """Until a token was drawn with a probability below `threshold`, at most `max_length` (SLED, arXiv 2506.09397)."""

    def __init__(self, threshold: float = 0.5, max_length: int = 8) -> None:
        if not 0 <= threshold <= 1:
            raise PolicyError(f"stop: threshold is a probability, not {threshold}")
        if not 1 <= max_length <= 256:
            raise PolicyError(f"stop: max_length must be 1 to 256, not {max_length}")
        self.threshold, self.max_length = threshold, max_length

    def more(self, draft: Draft) -> bool:
        if not draft.tokens:
            return True
        return draft.probs[-1] >= self.threshold and len(draft.tokens) < self.max_length


POLICIES = {"fixed": Fixed, "confidence": Confidence}


def make_stop(spec: Mapping[str, Any] | str) -> Fixed | Confidence:
    return make_policy("stop", POLICIES, spec)
