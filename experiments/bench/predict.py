"""How long a message takes on a link, from the link's figures alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

SEGMENT_BYTES = 1448  # payload of a full TCP segment, time stamps on
HEADERS_BYTES = 66  # Ethernet, IPv4, TCP with time stamps: netem's rate counts them
INITIAL_WINDOW = 10  # segments, and again after idling where slow_start_after_idle is on


@dataclass(frozen=True)
class Wire:
    """A link of `rtt_ms` there and back and `rate_mbps` each way."""

    rtt_ms: float
    rate_mbps: float

    def transfer_ms(self, message_bytes: int) -> float:
        """bytes / rate, headers included."""
        segments = math.ceil(message_bytes / SEGMENT_BYTES)
        return (message_bytes + segments * HEADERS_BYTES) * 8 / (self.rate_mbps * 1e3)

    def slow_start_ms(self, message_bytes: int) -> tuple[int, float]:
        """Flights that end before their first acknowledgement is back, and how long the link stands idle for it: the
        window starts small and doubles every round trip until it fills the link."""
        left, window, flights, idle_ms = math.ceil(message_bytes / SEGMENT_BYTES), INITIAL_WINDOW, 0, 0.0
        while left > window and (busy_ms := self.transfer_ms(window * SEGMENT_BYTES)) < self.rtt_ms:
            left, window, flights, idle_ms = left - window, 2 * window, flights + 1, idle_ms + self.rtt_ms - busy_ms
        return flights, idle_ms
