"""What every link between the nodes offers. `zmq_link` is the real one, `inproc` the one for tests and toys.

Frames are opaque here: `wire` makes and reads them. Each end has one hidden thread that owns the socket and
stamps arrivals, so a busy compute loop never books its own slowness as network time.
"""

from __future__ import annotations

import queue
import sys
from dataclasses import dataclass
from typing import Any, Protocol

from transport.tcp_info import TcpInfo

Frames = list[bytes]
# Python 3.10's SimpleQueue waits for ever when a short time-out has passed before it begins to wait.
Inbox: Any = queue.SimpleQueue if sys.version_info >= (3, 11) else queue.Queue


class LinkError(RuntimeError):
    """The link cannot be made or was lost; the message names the end, the address and the remedy."""


@dataclass(slots=True)
class Arrival:
    """A message; `arrived_ns` on this host's monotonic clock, `peer` is the sender's routing id.

    `reconnected` (device side, frames empty): the connection was lost and is back, so whatever was in flight
    may be gone and should be sent again.
    """

    peer: bytes
    frames: Frames
    arrived_ns: int
    reconnected: bool = False


class DeviceLink(Protocol):
    def send(self, frames: Frames) -> int:
        """Hand a message to the socket's thread; returns the monotonic ns of the hand-over."""
        ...

    def receive(self, timeout_s: float | None = None) -> Arrival | None:
        """Next arrival, or None when `timeout_s` passed."""
        ...

    def tcp_info(self) -> TcpInfo | None:
        """The kernel's view of the connection, from any thread; None while there is none."""
        ...

    def close(self) -> None: ...


class EdgeLink(Protocol):
    def send(self, peer: bytes, frames: Frames) -> int: ...

    def receive(self, timeout_s: float | None = None) -> Arrival | None: ...

    def close(self) -> None: ...
