"""What the rounds so far say about the next one: acceptance, the cost of a drafted token, the cost of a round."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nodes.methods import Draft
from nodes.policies import number_within
from nodes.policies.stop import Stop, checked_length
from nodes.records import RoundRecord

FIRST = (4, 1, 8, 2)  # lengths of the first rounds: a line through one length has no slope
PROBE = 8  # every so many rounds a neighbouring length, for the same reason
QUICKER = 4  # times are forgotten sooner than acceptance: they vary less, and a link can change at once


class Line:
    """Least squares of y = fixed + slope x length, slope >= 0; each new point makes the older ones count less."""

    def __init__(self, forgetting: float) -> None:
        self.forgetting = forgetting
        self._sums: NDArray[np.float64] = np.zeros(5)

    def add(self, n: int, y: float) -> None:
        self._sums = self.forgetting * self._sums + [1, n, n * n, y, n * y]

    def fit(self) -> tuple[float, float]:
        """(fixed, slope)"""
        weight, n, nn, y, ny = self._sums
        spread = nn - n * n / weight
        slope = max(0.0, (ny - n * y / weight) / spread) if spread > 1e-9 * weight else 0.0
        return float(max(0.0, (y - slope * n) / weight)), float(slope)


class Rounds:
    """Sums over the settled rounds that asked the edge; a round that was sent twice tells of a loss, not of a cost."""

    def __init__(self, forgetting: float) -> None:
        self.forgetting, self.seen = number_within("stop", "forgetting", forgetting, 0.5, 1), 0
        self._accepted = self._tested = self._draft_ms = self._drafted = 0.0
        fast = forgetting**QUICKER
        self._rest, self._verify, self._bytes = Line(fast), Line(fast), Line(fast)

    def add(self, record: RoundRecord) -> bool:
        """False: this round is not counted."""
        if not record.sent_ns or record.attempt:
            return False
        self.seen += 1
        n, keep = record.n_drafted, self.forgetting
        self._accepted = keep * self._accepted + record.n_accepted
        self._tested = keep * self._tested + min(record.n_accepted + 1, n)
        self._draft_ms = keep * self._draft_ms + (record.draft_ms if n else 0.0)
        self._drafted = keep * self._drafted + n
        self._rest.add(n, (record.end_ns - record.start_ns) / 1e6 - record.draft_ms)
        self._verify.add(n, record.verify_ms)
        self._bytes.add(n, record.up_wire_bytes + record.down_wire_bytes)
        return True

    @property
    def acceptance(self) -> float:
        """alpha: accepted of those tested; one of each is counted beforehand."""
        return (self._accepted + 1) / (self._tested + 2)

    @property
    def draft_ms(self) -> float:
        """Of a drafted token, on the critical path: what look-ahead hides costs nothing."""
        return self._draft_ms / self._drafted if self._drafted else 0.0

    @property
    def rest_ms(self) -> tuple[float, float]:
        """All of a round but the drafting: (fixed, for each drafted token)."""
        return self._rest.fit()

    @property
    def verify_ms(self) -> tuple[float, float]:
        return self._verify.fit()

    @property
    def wire_bytes(self) -> tuple[float, float]:
        """Both ways."""
        return self._bytes.fit()


class Adaptive(Stop):
    """Drafts as many tokens as `best()` says the rounds so far ask for."""

    adapts = True

    def __init__(self, max_length: int, forgetting: float) -> None:
        self.max_length = checked_length(max_length)
        self.rounds = Rounds(forgetting)
        self.length = min(FIRST[0], max_length)

    def best(self) -> int:
        raise NotImplementedError

    def more(self, draft: Draft) -> bool:
        return len(draft.tokens) < self.length

    def observe(self, record: RoundRecord) -> None:
        if not self.rounds.add(record):
            return
        seen = self.rounds.seen
        if seen < len(FIRST):
            length = FIRST[seen]
        else:
            length = self.best()
            if seen % PROBE == 0:
                length += 1 if length == 0 or seen // PROBE % 2 else -1
        self.length = max(0, min(length, self.max_length))


def expected_tokens(acceptance: float, length: int) -> float:
    """Of a round, the one that follows included (Leviathan et al. 2023, eq. 1)."""
    return float(sum(acceptance**i for i in range(length + 1)))
