"""The draft length that minimises delay plus weighted energy, per token, as measured (after Zhao et al. 2024, "DSD").

Their full text was not at hand, only that gamma trades delay against power with both directions of the link counted;
so the objective is our reading: (gamma T_draft + T_verify + D_up/R_up + D_down/R_down + RTT + weight x energy) over
E[tokens]. The delay comes from the measured parts of the rounds so far, the energy from those and from declared watts:
the device drafting and waiting, the edge verifying, and the radio's joules for each byte. The defaults are assumptions
(an embedded board, one server GPU, Wi-Fi), to be replaced by what the probes say of the machines at hand. E[tokens] is
geometric in the measured acceptance.
"""

from __future__ import annotations

from nodes.policies import number_within
from nodes.policies.measured import Adaptive, expected_tokens


class DelayCost(Adaptive):
    """`weight_ms_per_j`: a joule saved is worth so many milliseconds; 0 minimises delay alone."""

    def __init__(
        self,
        max_length: int = 16,
        weight_ms_per_j: float = 10.0,
        draft_w: float = 10.0,
        wait_w: float = 4.0,
        verify_w: float = 250.0,
        radio_uj_per_byte: float = 1.0,
        forgetting: float = 0.98,
    ) -> None:
        super().__init__(max_length, forgetting)
        self.weight_ms_per_j = number_within("stop", "weight_ms_per_j", weight_ms_per_j, 0)
        self.radio_uj_per_byte = number_within("stop", "radio_uj_per_byte", radio_uj_per_byte, 0)
        self.draft_w = number_within("stop", "draft_w", draft_w, 0)
        self.wait_w = number_within("stop", "wait_w", wait_w, 0)
        self.verify_w = number_within("stop", "verify_w", verify_w, 0)

    def best(self) -> int:
        return min(range(self.max_length + 1), key=self.cost_ms)

    def cost_ms(self, length: int) -> float:
        """Delay and weighted energy of one token."""
        drafting_ms = length * self.rounds.draft_ms
        rest_ms = _at(self.rounds.rest_ms, length)
        energy_j = (
            drafting_ms * self.draft_w + rest_ms * self.wait_w + _at(self.rounds.verify_ms, length) * self.verify_w
        ) / 1e3 + _at(self.rounds.wire_bytes, length) * self.radio_uj_per_byte / 1e6
        round_ms = drafting_ms + rest_ms + self.weight_ms_per_j * energy_j
        return round_ms / expected_tokens(self.rounds.acceptance, length)


def _at(line: tuple[float, float], length: int) -> float:
    return line[0] + line[1] * length


POLICY = DelayCost
