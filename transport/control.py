"""The control line: small named commands between nodes, beside the data link so neither waits for the other.

Telemetry, clock exchanges and orderly shutdown go here. One msgpack frame each way, over the links of
`zmq_link`, so keys, time-outs and error messages are theirs. Handlers run one at a time in the server's thread.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from transport.clock import SAME_CLOCK, ClockSample, Offset, clock_identity, estimate
from transport.keys import DeviceKeys, EdgeKeys
from transport.link import Arrival, LinkError
from transport.zmq_link import LinkTiming, ZmqDeviceLink, ZmqEdgeLink

log = logging.getLogger(__name__)

MAX_CONTROL_BYTES = 4 << 20
MAX_ERROR_CHARACTERS = 1000  # an error may quote what it was sent, so that it could be too long to send back
Handler = Callable[..., Any]  # keyword arguments in; anything msgpack can write out


class ControlError(RuntimeError):
    """A command was not answered, not known, or failed over there; the message says which and why."""


class Request(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    number: int
    command: str
    arguments: dict[str, Any] = {}


class Reply(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    number: int
    result: Any = None
    error: str = ""


class ControlServer:
    """Answers `ping`, `clock` and the caller's handlers. Raises LinkError if the address cannot be bound."""

    def __init__(
        self,
        bind: str,
        handlers: Mapping[str, Handler] | None = None,
        *,
        keys: EdgeKeys | None,
        timing: LinkTiming | None = None,
    ) -> None:
        self._handlers: dict[str, Handler] = {"ping": lambda: "pong", **(handlers or {})}
        self._link = ZmqEdgeLink(bind, keys=keys, timing=timing, max_message_bytes=MAX_CONTROL_BYTES)
        self.endpoint = self._link.endpoint
        self.counters = {"answered": 0, "failed": 0}
        self._thread = threading.Thread(target=self._run, name=f"control {self.endpoint}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering; a handler that is running is waited for. A handler may not call this."""
        self._link.close()
        self._thread.join()

    def __enter__(self) -> ControlServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        try:
            while True:
                arrival = self._link.receive()
                if arrival is not None:
                    self._link.send(arrival.peer, [self._answer(arrival)])
        except LinkError:
            log.debug("control line %s ended", self.endpoint)

    def _answer(self, arrival: Arrival) -> bytes:
        number = -1
        try:
            if len(arrival.frames) != 1:
                raise ControlError(f"a command is one frame, this was {len(arrival.frames)}")
            request = msgspec.msgpack.decode(arrival.frames[0], type=Request)
            number = request.number
            answer = msgspec.msgpack.encode(Reply(number, self._perform(request, arrival)))
            if len(answer) > MAX_CONTROL_BYTES:
                raise ControlError(f"answer of {len(answer)} bytes, at most {MAX_CONTROL_BYTES}: ask for less")
        except Exception as error:  # whatever a handler raises belongs to the caller; the line lives on
            self.counters["failed"] += 1
            told = f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARACTERS]
            return msgspec.msgpack.encode(Reply(number, error=told))
        self.counters["answered"] += 1
        return answer

    def _perform(self, request: Request, arrival: Arrival) -> Any:
        if request.command == "clock":
            return [arrival.arrived_ns, time.monotonic_ns(), clock_identity()]
        handler = self._handlers.get(request.command)
        if handler is None:
            known = ", ".join(sorted({*self._handlers, "clock"}))
            raise ControlError(f"unknown command {request.command!r}; there are: {known}")
        return handler(**request.arguments)


class ControlClient:
    """Calls commands on a ControlServer, one at a time, from any thread. Raises LinkError if nobody is there."""

    def __init__(
        self,
        connect: str,
        *,
        keys: DeviceKeys | None,
        identity: bytes,
        timing: LinkTiming | None = None,
        connect_timeout_s: float | None = None,
    ) -> None:
        self._link = ZmqDeviceLink(
            connect,
            keys=keys,
            identity=identity,
            timing=timing,
            max_message_bytes=MAX_CONTROL_BYTES,
            connect_timeout_s=connect_timeout_s,
        )
        self._numbers = itertools.count()
        self._turn = threading.Lock()

    def call(self, command: str, timeout_s: float = 10.0, **arguments: Any) -> Any:
        """The command's result. Raises ControlError (no answer in time, unknown, failed) or LinkError."""
        return self._exchange(command, timeout_s, arguments)[2]

    def clock_exchange(self, timeout_s: float = 10.0) -> tuple[ClockSample, str | None]:
        """One exchange of clock stamps, and the name of the other end's clock. Raises as `call` does."""
        sent_ns, received_ns, result = self._exchange("clock", timeout_s, {})
        remote_received_ns, remote_sent_ns, identity = result
        return ClockSample(sent_ns, remote_received_ns, remote_sent_ns, received_ns), identity

    def measure_offset(self, exchanges: int = 16, interval_s: float = 0.0) -> Offset:
        """The other end's clock against ours; exactly 0 where both run on one. Raises as `call` does."""
        samples = []
        for number in range(exchanges):
            if number:
                time.sleep(interval_s)
            sample, identity = self.clock_exchange()
            samples.append(sample)
        offset = estimate(samples)
        # cloned machines can share a boot id, so the measurement has a say
        one_clock = identity is not None and identity == clock_identity()
        return SAME_CLOCK if one_clock and abs(offset.offset_ns) <= offset.error_ns else offset

    def close(self) -> None:
        self._link.close()

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exchange(self, command: str, timeout_s: float, arguments: dict[str, Any]) -> tuple[int, int, Any]:
        with self._turn:
            number = next(self._numbers)
            frames = [msgspec.msgpack.encode(Request(number, command, arguments))]
            deadline = time.monotonic() + timeout_s
            sent_ns = self._link.send(frames)
            while (left_s := deadline - time.monotonic()) > 0:
                arrival = self._link.receive(left_s)
                if arrival is None:
                    break
                if arrival.reconnected:
                    if arrival.arrived_ns > sent_ns:
                        raise ControlError(f"{command}: lost the connection to {self._link.address}; ask again")
                    continue
                reply = msgspec.msgpack.decode(arrival.frames[0], type=Reply)
                if reply.error and reply.number in (number, -1):
                    raise ControlError(f"{command}: {reply.error}")
                if reply.number == number:
                    return sent_ns, arrival.arrived_ns, reply.result
            raise ControlError(f"{command}: no answer from {self._link.address} within {timeout_s:g} s")
