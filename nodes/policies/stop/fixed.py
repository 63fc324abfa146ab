"""`length` tokens a round."""

from __future__ import annotations

from nodes.methods import Draft
from nodes.policies.stop import Stop, checked_length


class Fixed(Stop):
    def __init__(self, length: int = 4) -> None:
        self.max_length = checked_length(length, "length")

    def more(self, draft: Draft) -> bool:
        return len(draft.tokens) < self.max_length


POLICY = Fixed
