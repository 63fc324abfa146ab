"""A FAKE link: the two ends in one process, joined by queues, for tests and toys. No socket, no time, no key.

It can be told to misbehave (`Faults`), which the real link only does when the network does.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from transport.link import Arrival, Frames, Inbox, LinkError

COUNTERS = (
    *("messages_in", "messages_out", "bytes_in", "bytes_out"),
    *("disconnects", "reconnects", "dropped_unroutable", "dropped_fault"),
)


@dataclass(frozen=True)
class Faults:
    """What one end does to the messages it sends; a count of 0 is never. Deterministic under `seed`."""

    drop_every: int = 0
    drop_probability: float = 0.0
    duplicate_every: int = 0
    seed: int = 0

    def copies(self) -> Callable[[], int]:
        """A function that says how often the next message arrives: 0, 1 or 2 times."""
        chance, sent = random.Random(self.seed), 0

        def next_copies() -> int:
            nonlocal sent
            sent += 1
            unlucky = chance.random() < self.drop_probability
            if unlucky or (self.drop_every and sent % self.drop_every == 0):
                return 0
            return 2 if self.duplicate_every and sent % self.duplicate_every == 0 else 1

        return next_copies


_edges: dict[str, InprocEdgeLink] = {}
_devices: dict[str, dict[bytes, InprocDeviceLink]] = {}
_lock = threading.RLock()  # who is at which address


class _InprocLink:
    def __init__(self, address: str, faults: Faults | None) -> None:
        self.address = address
        self.counters: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self._inbox = Inbox()  # of Arrival or, once, LinkError
        self._copies = (faults or Faults()).copies()
        self._closed = False

    def receive(self, timeout_s: float | None = None) -> Arrival | None:
        """Next arrival, or None when `timeout_s` passed. Raises LinkError after close."""
        try:
            item = self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(item, LinkError):
            self._inbox.put(item)
            raise item
        return item

    def tcp_info(self) -> None:
        return None

    def close(self) -> None:
        self._closed = True
        self._inbox.put(LinkError(f"link {self.address} is closed"))

    def _deliver(self, to: _InprocLink, peer: bytes, frames: Frames) -> None:
        copies = self._copies()
        self.counters["dropped_fault"] += copies == 0
        self.counters["messages_out"] += 1
        self.counters["bytes_out"] += sum(map(len, frames))
        for _ in range(copies):
            to.counters["messages_in"] += 1
            to.counters["bytes_in"] += sum(map(len, frames))
            to._inbox.put(Arrival(peer, list(frames), time.monotonic_ns()))

    def _check_open(self) -> None:
        if self._closed:
            raise LinkError(f"link {self.address} is closed")


class InprocEdgeLink(_InprocLink):
    """The edge's end at a name of your choice. Raises LinkError if the name is taken."""

    def __init__(self, bind: str, *, faults: Faults | None = None) -> None:
        super().__init__(bind, faults)
        self.endpoint = bind
        with _lock:
            if bind in _edges:
                raise LinkError(f"edge cannot listen at {bind}: an edge of this process has that name")
            _edges[bind] = self
            for device in _devices.get(bind, {}).values():
                device._reconnect(self)

    def send(self, peer: bytes, frames: Frames) -> int:
        """As `link.EdgeLink`: an unknown peer is counted, not an error."""
        self._check_open()
        now_ns = time.monotonic_ns()
        with _lock:
            device = _devices.get(self.address, {}).get(peer)
            if device is None:
                self.counters["dropped_unroutable"] += 1
            else:
                self._deliver(device, b"", frames)
        return now_ns

    def close(self) -> None:
        with _lock:
            if _edges.get(self.address) is self:
                del _edges[self.address]
        super().close()


class InprocDeviceLink(_InprocLink):
    """The device's end. Raises LinkError if no edge has that name yet; if the edge goes later, it waits."""

    def __init__(self, connect: str, *, identity: bytes, faults: Faults | None = None) -> None:
        super().__init__(connect, faults)
        self.identity = identity
        self._waiting: list[Frames] = []
        with _lock:
            if connect not in _edges:
                raise LinkError(f"no edge answers at {connect}: make its InprocEdgeLink first")
            _devices.setdefault(connect, {})[identity] = self

    @property
    def connected(self) -> bool:
        return self.address in _edges

    def send(self, frames: Frames) -> int:
        """As `link.DeviceLink`: while there is no edge, messages wait for it."""
        self._check_open()
        now_ns = time.monotonic_ns()
        with _lock:
            edge = _edges.get(self.address)
            if edge is None:
                self._waiting.append(frames)
            else:
                self._deliver(edge, self.identity, frames)
        return now_ns

    def disconnect(self) -> None:
        """Inject a lost connection: what is on its way to this device is gone, then it is back."""
        with _lock:
            while not self._inbox.empty():
                self._inbox.get()
            if self.address in _edges:
                self._reconnect(_edges[self.address])

    def close(self) -> None:
        with _lock:
            if _devices.get(self.address, {}).get(self.identity) is self:
                del _devices[self.address][self.identity]
        super().close()

    def _reconnect(self, edge: InprocEdgeLink) -> None:
        self.counters["disconnects"] += 1
        self.counters["reconnects"] += 1
        self._inbox.put(Arrival(b"", [], time.monotonic_ns(), reconnected=True))
        waiting, self._waiting = self._waiting, []
        for frames in waiting:
            self._deliver(edge, self.identity, frames)
