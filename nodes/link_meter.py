"""The link as its own rounds show it: what an exchange spent on the network, against the bytes that crossed."""

from __future__ import annotations

from nodes.methods import LinkState
from nodes.policies.measured import Line

FORGETTING = 0.9  # some ten exchanges count
FASTEST_MBPS = 10_000.0  # what bytes that cost no measurable time are put down to


class LinkMeter:
    """A straight line through the exchanges so far, the older ones counting less: its height at no bytes is the
    round-trip time, its slope the inverse of the rate. Until two sizes were seen the rate is FASTEST_MBPS."""

    def __init__(self) -> None:
        self._line = Line(FORGETTING)
        self._handshake_ms = 1.0
        self._seen = 0

    def greeted(self, roundtrip_ms: float) -> None:
        """A handshake took so long: the round-trip time until there is a better figure."""
        self._handshake_ms = roundtrip_ms

    def add(self, crossed_bytes: int, network_ms: float) -> None:
        """One exchange, both ways; `network_ms` without the edge's residence."""
        self._seen += 1
        self._line.add(crossed_bytes, network_ms)

    @property
    def state(self) -> LinkState:
        if not self._seen:
            return LinkState(self._handshake_ms, FASTEST_MBPS)
        fixed_ms, ms_per_byte = self._line.fit()
        rate_mbps = 8e-3 / ms_per_byte if ms_per_byte else FASTEST_MBPS
        return LinkState(max(fixed_ms, 1e-3), min(max(rate_mbps, 1e-3), FASTEST_MBPS))
