"""One system's connection to the edge, seen from the device: handshake, sessions, rounds, and getting over losses.

A round is idempotent: it is numbered, the edge keeps its replies, and a retry names how many of them arrived. A device
that meets an edge without its session (it was killed and restarted) learns so by `SessionLost` and opens it again with
the whole prefix in `carry`; coins belong to positions, so the tokens are those of an undisturbed run.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from nodes.link_meter import LinkMeter
from transport.clock import ClockSample
from transport.link import Arrival, DeviceLink
from transport.messages import (
    Closed,
    Error,
    Header,
    Hello,
    Kind,
    Open,
    Proposal,
    ReplyHeader,
    Verdict,
    Welcome,
)
from transport.wire import PROTOCOL, WireError, pack, unpack_body, unpack_header, wire_bytes


class EdgeError(RuntimeError):
    """The edge refused, failed or stayed silent; the message is the edge's own, or says how long was waited."""


class EdgeSilent(Exception):
    """The caller's patience is over, not ours: nothing came, the round may be given up or waited for again."""


class SessionLost(Exception):
    """The edge does not know this session: open it again, then repeat the round."""


@dataclass(slots=True)
class Answer:
    header: ReplyHeader
    verdict: Any
    received_ns: int
    wire_bytes: int


class Channel:
    """`retry_after_s` of silence sends the round again, a gap in a stream does so at once; `give_up_after_s` of silence
    raises EdgeError."""

    def __init__(
        self,
        link: DeviceLink,
        system: str,
        agreement: dict[str, Any],
        retry_after_s: float = 30.0,
        give_up_after_s: float = 180.0,
    ) -> None:
        self.link, self.system, self.agreement = link, system, agreement
        self.retry_after_s, self.give_up_after_s = retry_after_s, give_up_after_s
        self.edge_holds = 0  # tokens of this session the edge has
        self.counters: Counter[str] = Counter()
        self.meter = LinkMeter()
        self.edge: dict[str, Any] = {}  # what it says of itself
        self.handshake: ClockSample | None = None  # the two clocks, as the last one showed them
        self._early: deque[Arrival] = deque()
        self._contract = 0
        self._session = 0
        self._round = 0
        self._sent: tuple[Header, Proposal] | None = None
        self._have = 0
        self._retries = self._retried_bytes = 0  # that nobody has booked yet

    # Handshake --------------------------------------------------------------------------------------------------------

    def agree(self) -> None:
        """Both nodes hold the same contract, or EdgeError names every difference with both values."""
        hello = pack(Header(Kind.HELLO), Hello(PROTOCOL, self.system, self.agreement))
        sent_ns = self.link.send(hello)
        silent_since = time.monotonic()
        while True:
            arrival = self._next()
            if arrival is None or arrival.reconnected:
                self._give_up_after(silent_since)
                self.link.send(hello)
                continue
            with _readable():
                header = unpack_header(arrival.frames, ReplyHeader)
                if header.kind == Kind.WELCOME:
                    welcome = unpack_body(arrival.frames, Welcome)
                    self._contract, self.edge = welcome.number, welcome.node
                    self.handshake = ClockSample(sent_ns, header.arrived_ns, header.arrived_ns, arrival.arrived_ns)
                    self.meter.greeted((arrival.arrived_ns - sent_ns) / 1e6)
                    return
                if header.kind == Kind.ERROR and header.session == 0:
                    raise _refusal(unpack_body(arrival.frames, Error))
            self.counters["stale_replies"] += 1

    # Sessions ---------------------------------------------------------------------------------------------------------

    def open(self, opening: Open) -> int:
        """A new session; returns the bytes of our frames."""
        self._session += 1
        self._round = 0
        self.edge_holds = 0
        opening.contract = self._contract
        frames = pack(Header(Kind.OPEN, session=self._session), opening)
        self.link.send(frames)
        return wire_bytes(frames)

    def close_session(self) -> None:
        self.link.send(pack(Header(Kind.CLOSE, session=self._session), Closed()))

    # Rounds -----------------------------------------------------------------------------------------------------------

    def send(self, up: Proposal, tokens: list[int], epoch: int) -> tuple[int, int]:
        """Begin a round after `tokens`; returns (monotonic ns of the hand-over, bytes of our frames)."""
        self._round += 1
        self._have = 0
        header = Header(
            Kind.ROUND,
            session=self._session,
            round=self._round,
            epoch=epoch,
            base=self.edge_holds,
            carry=tokens[self.edge_holds :],
        )
        return self._transmit(header, up)

    def follow_up(self, up: Proposal) -> tuple[int, int]:
        """The next leg of the same round."""
        header = self._in_flight()[0]
        return self._transmit(
            Header(
                Kind.ROUND,
                session=self._session,
                round=self._round,
                leg=header.leg + 1,
                epoch=header.epoch,
                base=header.base,
                have=self._have,
            ),
            up,
        )

    def retried(self) -> tuple[int, int]:
        """How often `wait` sent the round again since this was last asked, and the bytes of those frames."""
        booked = self._retries, self._retried_bytes
        self._retries = self._retried_bytes = 0
        return booked

    def pending(self) -> bool:
        """Has something come in?"""
        if not self._early and (arrival := self.link.receive(0)) is not None:
            self._early.append(arrival)
        return bool(self._early)

    def wait(self, kind: type[Verdict], patience_s: float | None = None) -> Answer:
        """The next reply of this round. Raises SessionLost, or EdgeError with what the edge said; EdgeSilent after
        `patience_s` without it."""
        silent_since, shown = time.monotonic(), math.inf
        step_s = self.retry_after_s if patience_s is None else min(self.retry_after_s, patience_s)
        while True:
            arrival = self._next(step_s)
            if arrival is None or arrival.reconnected:
                if patience_s is not None and time.monotonic() - silent_since >= patience_s:
                    raise EdgeSilent
                self._retry(silent_since)
                continue
            with _readable():
                header = unpack_header(arrival.frames, ReplyHeader)
                about_open = header.kind == Kind.ERROR and header.round == 0
                if header.session != self._session or not (header.round == self._round or about_open):
                    self.counters["stale_replies"] += 1
                elif header.kind == Kind.ERROR:
                    error = unpack_body(arrival.frames, Error)
                    raise SessionLost(error.message) if error.code == "unknown_session" else _refusal(error)
                elif header.kind != Kind.REPLY or header.seq < self._have:
                    self.counters["stale_replies"] += 1
                elif header.seq > self._have:  # those before it were lost: asked for once in each sending that shows it
                    self.counters["stale_replies"] += 1
                    if header.seq <= shown:
                        self._retry(silent_since)
                    shown = header.seq
                else:
                    verdict = unpack_body(arrival.frames, kind)
                    self._have += 1
                    return Answer(header, verdict, arrival.arrived_ns, wire_bytes(arrival.frames))

    def _next(self, timeout_s: float | None = None) -> Arrival | None:
        return self._early.popleft() if self._early else self.link.receive(timeout_s or self.retry_after_s)

    def _transmit(self, header: Header, up: Proposal) -> tuple[int, int]:
        self._sent = (header, up)
        frames = pack(header, up)
        return self.link.send(frames), wire_bytes(frames)

    def _in_flight(self) -> tuple[Header, Proposal]:
        assert self._sent is not None, "no round was begun"
        return self._sent

    def _retry(self, silent_since: float) -> None:
        self._give_up_after(silent_since)
        header, up = self._in_flight()
        self.counters["retries"] += 1
        header.attempt += 1
        header.have = self._have
        self._retries += 1
        self._retried_bytes += self._transmit(header, up)[1]

    def _give_up_after(self, silent_since: float) -> None:
        if time.monotonic() - silent_since > self.give_up_after_s:
            raise EdgeError(f"the edge has been silent for {self.give_up_after_s:.0f} s (system {self.system})")


@contextmanager
def _readable() -> Iterator[None]:
    """What came in may be of another version, or of no edge at all."""
    try:
        yield
    except WireError as error:
        raise EdgeError(f"the edge answered with a frame this node cannot read: {error}") from error


def _refusal(error: Error) -> EdgeError:
    remedy = f" Remedy: {error.remedy}" if error.remedy else ""
    return EdgeError(f"edge: {error.message} [{error.code}].{remedy}")
