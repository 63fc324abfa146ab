"""What both ends of the real link share: the hidden thread that owns the sockets, its queues, its counters.

The thread sleeps on the sockets' descriptors and on an eventfd by which `send` wakes it; what comes in is
stamped and put in a queue. Measured against zmq.Poller, an inproc PAIR and senders that share the socket
under a lock: none is faster than this, and so no socket is ever touched by two threads.
"""

from __future__ import annotations

import errno
import logging
import os
import queue
import select
import struct
import threading
import time
from collections import deque
from typing import Any

import zmq

from transport.link import Arrival, Frames, Inbox, LinkError
from transport.timing import LinkTiming

log = logging.getLogger(__name__)

# per peer and direction; a stale draft is worthless, but a streamed answer is many messages
QUEUED_MESSAGES = 128
INBOX_BYTES = 256 << 20  # beyond it the thread stops reading and TCP slows the senders down
CURVE_OVERHEAD_BYTES = 64
BURST = 256  # messages between two looks at what else is waiting
COUNTERS = (
    *("messages_in", "messages_out", "bytes_in", "bytes_out"),
    *("connects", "disconnects", "reconnects", "handshakes_failed", "auth_refused"),
    *("dropped_unroutable", "dropped_backlog", "dropped_oversize"),
)
EVENT = struct.Struct("=HI")
# plain integers: arithmetic on pyzmq's enumerations costs 1 to 2 µs an operation, which adds up to a third
EVENTS, RCVMORE, POLLIN, POLLOUT = map(int, (zmq.EVENTS, zmq.RCVMORE, zmq.POLLIN, zmq.POLLOUT))
NOBLOCK, NOBLOCK_MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK) | int(zmq.SNDMORE)
CONNECTION_EVENTS = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_ACCEPTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


class SocketThread:
    """One end, but for its particulars: when a send is possible, what a connection event means."""

    def __init__(self, kind: int, address: str, timing: LinkTiming, max_message_bytes: int) -> None:
        self.address = address
        self.counters: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self._max_message_bytes = max_message_bytes
        self._inbox = Inbox()  # of Arrival or, once, LinkError
        self._outbox: deque[Frames] = deque()
        self._put_bytes = self._taken_bytes = 0  # into the inbox, by the thread; out of it, by the reader
        self._connections: set[int] = set()
        self._failure: LinkError | None = None
        self._closing = False
        self._wake_lock = threading.Lock()
        self._context = zmq.Context()
        self._socket: Any = self._context.socket(kind)
        self._names_peer = kind == zmq.ROUTER  # its messages begin with the sender's routing id
        options = {
            zmq.SNDHWM: QUEUED_MESSAGES,
            zmq.RCVHWM: QUEUED_MESSAGES,
            zmq.MAXMSGSIZE: max_message_bytes + CURVE_OVERHEAD_BYTES,
            zmq.IPV6: int("[" in address),
            **timing.socket_options(),
        }
        for option, value in options.items():
            self._socket.setsockopt(option, value)
        self._monitor = self._socket.get_monitor_socket(CONNECTION_EVENTS)
        self._owned: list[zmq.Socket[bytes]] = [self._monitor, self._socket]
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"link {self.address}", daemon=True)
        self._thread.start()

    def receive(self, timeout_s: float | None = None) -> Arrival | None:
        """Next arrival, or None when `timeout_s` passed. For one thread. Raises LinkError."""
        try:
            item = self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(item, LinkError):
            self._inbox.put(item)
            raise item
        self._taken_bytes += sum(map(len, item.frames))
        return item

    def close(self) -> None:
        """Send what is queued, within the linger time, and leave no thread, socket or descriptor behind."""
        with self._wake_lock:
            self._closing = True
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)
        self._thread.join()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _post(self, message: Frames, payload: Frames) -> int:
        size = sum(map(len, payload))
        if size > self._max_message_bytes:
            limit = f"{self.address} takes {self._max_message_bytes}: raise max_message_bytes on both ends"
            raise LinkError(f"message of {size} bytes, {limit}")
        with self._wake_lock:  # the descriptor stays ours until close says otherwise
            if self._failure or self._closing:
                raise self._failure or LinkError(f"link {self.address} is closed")
            now_ns = time.monotonic_ns()
            self._outbox.append(message)
            os.eventfd_write(self._wake_fd, 1)
        return now_ns

    # What follows runs in the hidden thread.

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._wake_fd, select.POLLIN)
        data_fd = self._socket.fd
        for owned in self._owned:
            poller.register(int(owned.fd), select.POLLIN)
        try:
            # ZeroMQ's descriptors are edge-triggered: drain a socket before sleeping on its descriptor
            self._watch()
            while not self._closing and self._failure is None:
                drained = self._serve()
                for fd, _ in poller.poll(None if drained else 0 if self._inbox_has_room() else 5):
                    if fd == self._wake_fd:
                        os.eventfd_read(fd)
                    elif fd != data_fd:
                        self._watch()
            self._serve()
        except Exception as error:
            log.exception("link %s failed", self.address)
            self._fail(LinkError(f"link {self.address} failed: {error}"))
        finally:
            self._fail(LinkError(f"link {self.address} is closed"))
            self._release()

    def _release(self) -> None:
        with self._wake_lock:
            self._closing = True
            os.close(self._wake_fd)
            self._wake_fd = -1
        self._socket.disable_monitor()
        for owned in self._owned:
            owned.close()
        self._context.term()  # waits for the linger time at most

    def _fail(self, error: LinkError) -> None:
        if self._failure is None:
            self._failure = error
            self._inbox.put(error)

    def _serve(self) -> bool:
        """Send and receive; False if there may be more to do (a flood must not starve `_watch`)."""
        events = self._socket.get(EVENTS)  # waiting for EAGAIN costs 5 µs, this 1
        for _ in range(BURST):
            if self._outbox and self._can_send(events):
                self._transmit(self._outbox.popleft())
                events = self._socket.get(EVENTS)
            elif not events & POLLIN:
                return True
            elif self._inbox_has_room():
                arrival = self._take()
                events = self._socket.get(EVENTS)
                if arrival is not None:  # the last thing before sleeping: who waits for it also needs the GIL
                    self._inbox.put(arrival)
            else:
                return False
        return False

    def _inbox_has_room(self) -> bool:
        return self._put_bytes - self._taken_bytes < INBOX_BYTES

    def _can_send(self, events: int) -> bool:
        raise NotImplementedError

    def _transmit(self, message: Frames) -> None:
        """All of a message or nothing: one whose peer is gone, be it since the frame before, is counted."""
        send, last, gone = self._socket.send, len(message) - 1, False
        for number, frame in enumerate(message):
            try:
                send(frame, NOBLOCK_MORE if number < last else NOBLOCK)
            except zmq.ZMQError as error:
                if error.errno not in (errno.EHOSTUNREACH, errno.EAGAIN):
                    raise
                gone = True
                if number == 0:
                    break
                # In mid message libzmq takes back what it had, and swallows the frames that are left: give it those.
        if gone:
            self.counters["dropped_unroutable"] += 1
            return
        self.counters["messages_out"] += 1
        self.counters["bytes_out"] += sum(map(len, message))

    def _take(self) -> Arrival | None:
        now_ns = time.monotonic_ns()
        receive, more = self._socket.recv, self._socket.get
        frames = [receive(NOBLOCK)]
        while more(RCVMORE):
            frames.append(receive(NOBLOCK))
        peer = frames.pop(0) if self._names_peer else b""
        size = sum(map(len, frames))
        if size > self._max_message_bytes:
            self.counters["dropped_oversize"] += 1
            return None
        self.counters["messages_in"] += 1
        self.counters["bytes_in"] += size
        self._put_bytes += size
        return Arrival(peer, frames, now_ns)

    def _watch(self) -> None:
        while int(self._monitor.get(EVENTS)) & POLLIN:
            event, value = EVENT.unpack(self._monitor.recv_multipart(zmq.NOBLOCK)[0])
            if event in (zmq.EVENT_CONNECTED, zmq.EVENT_ACCEPTED):
                self._connections.add(value)
            elif event == zmq.EVENT_DISCONNECTED:
                self._connections.discard(value)
            self._on_event(event, value)

    def _on_event(self, event: int, value: int) -> None:
        raise NotImplementedError
