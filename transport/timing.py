"""How patient a socket has to be on a given link: the time-outs of ZeroMQ and TCP from the link's figures.

A heartbeat that is too eager kills a healthy connection: while a large message is being serialised onto a
slow link nothing else, no PONG either, gets through.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import zmq

SEGMENT_BYTES = 1448
INITIAL_WINDOW_BYTES = 10 * SEGMENT_BYTES
MIN_RTO_MS = 200.0  # Linux waits at least this long before it retransmits on a timer


@dataclass(frozen=True)
class LinkTiming:
    """What is known of the link, slowest direction; the defaults fit a local one."""

    rtt_ms: float = 1.0
    rate_mbps: float = 1000.0
    loss_pct: float = 0.0
    largest_message_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        if not (self.rtt_ms >= 0 and self.rate_mbps > 0 and 0 <= self.loss_pct < 100):
            raise ValueError(f"impossible link: {self}")

    @property
    def transfer_ms(self) -> float:
        """The largest message, one way: slow start, then the rate or what loss leaves (Mathis 1997)."""
        rate_bytes_per_ms = self.rate_mbps * 125
        if self.loss_pct:
            loss_limited = 1.22 * SEGMENT_BYTES / (max(self.rtt_ms, 1) * math.sqrt(self.loss_pct / 100))
            rate_bytes_per_ms = min(rate_bytes_per_ms, loss_limited)
        slow_start_rounds = math.log2(1 + self.largest_message_bytes / INITIAL_WINDOW_BYTES)
        return self.largest_message_bytes / rate_bytes_per_ms + slow_start_rounds * self.rtt_ms

    @property
    def patience_ms(self) -> float:
        """Silence that is still normal: the largest message, 4 round trips, 3 time-outs of TCP."""
        return self.transfer_ms + 4 * self.rtt_ms + 7 * max(MIN_RTO_MS, 2 * self.rtt_ms)

    @property
    def heartbeat_ms(self) -> int:
        return round(max(1000, self.patience_ms / 2))

    @property
    def linger_ms(self) -> int:
        """How long a closing socket may still send."""
        return round(min(5000, max(500, self.patience_ms)))

    @property
    def connect_timeout_s(self) -> float:
        """How long a device waits for its edge: a handshake is some 6 round trips, a lost SYN 1, then 3 s."""
        return (10_000 + 20 * self.rtt_ms) / 1000

    def socket_options(self) -> dict[int, int]:
        """For setsockopt, to be set before bind or connect: libzmq reads them when it makes a connection."""
        timeout_ms = round(max(3000, 2 * self.patience_ms))
        return {
            zmq.HEARTBEAT_IVL: self.heartbeat_ms,
            zmq.HEARTBEAT_TIMEOUT: timeout_ms,
            zmq.HEARTBEAT_TTL: min(6_553_500, self.heartbeat_ms + timeout_ms),
            zmq.HANDSHAKE_IVL: round(30_000 + 40 * self.rtt_ms),
            zmq.CONNECT_TIMEOUT: round(3000 + 4 * self.rtt_ms),
            zmq.TCP_MAXRT: round(max(10_000, 2 * timeout_ms)),
            zmq.RECONNECT_IVL: 100,
            zmq.RECONNECT_IVL_MAX: 1000,  # an edge that restarts should be found within a second
            zmq.LINGER: self.linger_ms,
        }
