"""The real link: ROUTER at the edge, DEALER at the device, CURVE between them. Knows no message format."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import deque

import zmq
import zmq.utils.z85

from transport.keys import ALLOW_FILE, DeviceKeys, EdgeKeys
from transport.link import Arrival, Frames, LinkError
from transport.socket_thread import POLLOUT, SocketThread
from transport.tcp_info import TcpInfo, sample
from transport.timing import LinkTiming

__all__ = ["LinkTiming", "ZmqDeviceLink", "ZmqEdgeLink"]

log = logging.getLogger(__name__)

DEFAULT_MAX_MESSAGE_BYTES = 64 << 20
BACKLOG_MESSAGES = 1024  # a device's, while its edge is away
MAX_REFUSALS = 3  # handshakes in a row that the other end broke off before we call it a refusal
ZAP_ENDPOINT = "inproc://zeromq.zap.01"


class ZmqEdgeLink(SocketThread):
    """The edge's end. `endpoint` is the bound address (port 0 or `*` in `bind` takes a free one).

    `keys=None` is plain, unauthenticated ZeroMQ. Raises LinkError if the address cannot be bound.
    """

    def __init__(
        self,
        bind: str,
        *,
        keys: EdgeKeys | None,
        timing: LinkTiming | None = None,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    ) -> None:
        _check_address("edge cannot listen at", bind)
        super().__init__(zmq.ROUTER, bind, timing or LinkTiming(), max_message_bytes)
        self._socket.router_mandatory = 1  # an unknown peer is an error we count, not a silent drop
        self._socket.router_handover = 1  # a device that comes back under its id replaces its dead connection
        self._allowed = keys.allowed if keys else frozenset()
        self._zap: zmq.Socket[bytes] | None = None
        try:
            if keys:
                self._zap = self._context.socket(zmq.REP)
                self._zap.linger = 0
                self._zap.bind(ZAP_ENDPOINT)
                self._owned.append(self._zap)
                self._socket.curve_server = True
                self._socket.curve_publickey, self._socket.curve_secretkey = keys.public, keys.secret
            self._socket.bind(bind)
        except zmq.ZMQError as error:
            self._release()
            raise LinkError(f"edge cannot listen at {bind}: {_bind_remedy(error)}") from error
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._start()

    def send(self, peer: bytes, frames: Frames) -> int:
        """Hand a message for `peer` to the thread, from any thread; returns the ns of the hand-over.

        A peer that is gone or does not read counts as `dropped_unroutable`: it will ask again. Raises
        LinkError.
        """
        return self._post([peer, *frames], frames)

    def tcp_info(self) -> list[TcpInfo]:
        """One sample per device connection; the remote port tells them apart."""
        return [info for fd in list(self._connections) if (info := sample(fd)) is not None]

    def _can_send(self, events: int) -> bool:
        return True  # per peer, so only trying tells

    def _watch(self) -> None:
        super()._watch()
        while self._zap is not None and int(self._zap.get(zmq.EVENTS)) & zmq.POLLIN:
            self._authenticate(self._zap, self._zap.recv_multipart(zmq.NOBLOCK))

    def _authenticate(self, zap: zmq.Socket[bytes], frames: Frames) -> None:
        """Answer libzmq's question (ZAP 1.0, rfc.zeromq.org/spec/27) whether this key may connect."""
        version, request_id, _domain, address, _identity, mechanism, *credentials = frames
        key = zmq.utils.z85.encode(credentials[0]) if mechanism == b"CURVE" else b""
        if key in self._allowed:
            zap.send_multipart([version, request_id, b"200", b"OK", key, b""])
            return
        self.counters["auth_refused"] += 1
        log.warning("%s refused key %s from %s", self.address, key.decode(), address.decode(errors="replace"))
        zap.send_multipart([version, request_id, b"400", b"key not in the allow-list", b"", b""])

    def _on_event(self, event: int, value: int) -> None:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.counters["connects"] += 1
        elif event == zmq.EVENT_DISCONNECTED:
            self.counters["disconnects"] += 1
        elif event != zmq.EVENT_ACCEPTED:
            self.counters["handshakes_failed"] += 1


class ZmqDeviceLink(SocketThread):
    """The device's end, connected when the constructor returns; `identity` is its routing id.

    After a lost connection has come back, `receive` yields an Arrival with `reconnected` set: what was in
    flight may be gone. `connect_timeout_s=None` takes the time from `timing`; 0 does not wait. Raises
    LinkError naming address and remedy, here or from `receive`, when no edge answers or it refuses the key.
    """

    def __init__(
        self,
        connect: str,
        *,
        keys: DeviceKeys | None,
        identity: bytes,
        timing: LinkTiming | None = None,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        connect_timeout_s: float | None = None,
    ) -> None:
        timing = timing or LinkTiming()
        _check_address("device cannot connect to", connect)
        super().__init__(zmq.DEALER, connect, timing, max_message_bytes)
        self._outbox = deque(maxlen=BACKLOG_MESSAGES)
        self._keys_source = keys.source if keys else None
        self.connected = False
        self._settled = threading.Event()  # connected for the first time, or failed
        self._refusals = 0
        self._trouble = "is it started, are address and port right, does a firewall drop it?"
        try:
            self._socket.routing_id = identity
            self._socket.immediate = 1  # nothing is queued for a connection that is not there
            if keys:
                self._socket.curve_serverkey = keys.edge_public
                self._socket.curve_publickey, self._socket.curve_secretkey = keys.public, keys.secret
            self._socket.connect(connect)
        except zmq.ZMQError as error:
            self._release()
            text = f"device cannot connect to {connect}: {error}; expected tcp://HOST:PORT"
            raise LinkError(text) from error
        self._start()
        self._wait(timing.connect_timeout_s if connect_timeout_s is None else connect_timeout_s)

    def send(self, frames: Frames) -> int:
        """Hand a message to the thread, from any thread; returns the monotonic ns of the hand-over.

        While the edge is away messages wait for it; of more than 1024 the oldest are dropped. One that was being
        handed over as the connection broke counts as `dropped_unroutable`. Raises LinkError.
        """
        self.counters["dropped_backlog"] += len(self._outbox) == BACKLOG_MESSAGES
        return self._post(frames, frames)

    def tcp_info(self) -> TcpInfo | None:
        """A sample of the connection, None while there is none."""
        return next((info for fd in list(self._connections) if (info := sample(fd)) is not None), None)

    def _wait(self, timeout_s: float) -> None:
        if timeout_s and not self._settled.wait(timeout_s):
            text = f"no edge answers at {self.address} within {timeout_s:g} s: {self._trouble}"
            self._fail(LinkError(text))
        if self._failure:
            self.close()
            raise self._failure

    # What follows runs in the hidden thread.

    def _fail(self, error: LinkError) -> None:
        super()._fail(error)
        self._settled.set()

    def _can_send(self, events: int) -> bool:
        return bool(events & POLLOUT)

    def _on_event(self, event: int, value: int) -> None:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.counters["connects"] += 1
            self._refusals = 0
            self.connected = True
            if self._settled.is_set():
                self.counters["reconnects"] += 1
                self._inbox.put(Arrival(b"", [], time.monotonic_ns(), reconnected=True))
            self._settled.set()
        elif event == zmq.EVENT_DISCONNECTED:
            self.counters["disconnects"] += self.connected
            self.connected = False
        elif event != zmq.EVENT_CONNECTED:
            self._on_refusal(event, value)

    def _on_refusal(self, event: int, value: int) -> None:
        self.counters["handshakes_failed"] += 1
        self._refusals += 1
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self.counters["auth_refused"] += 1
            reason = f"{self._keys_source} not welcome: add the public key to the edge's {ALLOW_FILE}"
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:  # libzmq does not try again after this one
            ours = "CURVE" if self._keys_source else "plain"
            reason = f"this device speaks {ours}, the edge does not: give both ends keys, or none to both"
        else:
            hint = "does it want keys, or is it no edge at all?"
            if self._keys_source:
                hint = f"{self._keys_source} trust another edge's key: copy this edge's edge.pub"
            self._trouble = reason = f"it breaks off the handshake; {hint}"
            if self._refusals < MAX_REFUSALS:
                return
        self._fail(LinkError(f"edge {self.address} refuses this device: {reason}"))


def _check_address(what: str, address: str) -> None:
    """libzmq takes a port modulo 65536 and tells nobody; other schemes (ipc://) it checks well."""
    port = address.rpartition(":")[2]
    valid = port == "*" or (port.isdecimal() and int(port) < 65536)
    if address.startswith("tcp://") and not valid:
        raise LinkError(f"{what} {address}: {port!r} is no port; expected tcp://HOST:PORT, PORT up to 65535")


def _bind_remedy(error: zmq.ZMQError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; stop who holds it (ss -ltnp shows) or choose another"
    if error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV):
        return "this machine has no such address (ip -br addr shows what it has)"
    return f"{error}; expected tcp://ADDRESS:PORT"
