"""The edge node: one target model, many devices. Read this first, with device.py.

    arrival ─► which session? ─► method.serve ─► batcher: one forward for all who wait ─► reply

Whatever comes in - garbage, a stale epoch, somebody else's session, a retry - is answered with a counted error or
dropped; it never stops the loop, never grows memory without bound, never touches another session.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nodes.batching import Batcher, Task
from nodes.composition import System
from nodes.drafting import Drafter
from nodes.engine import Engine, EngineLost, SessionRefused
from nodes.engine.weights import model_id
from nodes.finish import Finish
from nodes.methods import Draft, Method, MethodError
from nodes.policies.batch import make_batch
from nodes.policies.stop import make_stop
from nodes.runspec import RunSpec
from nodes.sampling import Coins
from nodes.session import Session
from transport.link import Arrival, EdgeLink, LinkError
from transport.messages import Error, Header, Hello, Kind, Open, ReplyHeader, Verdict, Welcome
from transport.wire import PROTOCOL, WireError, pack, unpack_body, unpack_header

log = logging.getLogger("dssd.edge")
MAX_LEGS = 64  # of a round: the reply to each is kept until the next round, as a stream's are, one a token at most


class ProtocolError(ValueError):
    """A message this edge will not serve: `code` as in transport.messages.Error, and what mends it."""

    def __init__(self, code: str, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.code, self.remedy = code, remedy


@dataclass
class Served:
    """A system this edge serves."""

    number: int
    system: System
    method: Method
    agreement: dict[str, Any]
    drafter: Drafter | None


@dataclass
class EdgeSession:
    peer: bytes
    number: int
    served: Served
    opening: Open
    session: Session
    finish: Finish
    draft_session: Session
    tokens: list[int] = field(default_factory=list)  # settled
    base: int = 0  # of them there were when the current round came in
    round: int = 0
    leg: int = 0
    epoch: int = 0
    task: Task | None = None
    replies: list[list[bytes]] = field(default_factory=list)  # of the current round, so that a retry can be answered


class EdgeNode:
    """Serves the systems of `spec` with `engine`; `draft_engine` for those that draft at the edge. `about` is what
    a device is told of this node when it is welcomed, besides its engine."""

    def __init__(
        self,
        spec: RunSpec,
        engine: Engine,
        link: EdgeLink,
        draft_engine: Engine | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        itself = {"engine": engine.name, "model": model_id(engine), "labels": sorted(engine.labels)}
        self.about = {**itself, "max_tokens": engine.max_tokens, **(about or {})}
        self.spec, self.engine, self.link, self.draft_engine = spec, engine, link, draft_engine
        self.batcher = Batcher(engine, make_batch(spec.edge.batch))
        self.counters: Counter[str] = Counter()
        self.sessions: OrderedDict[tuple[bytes, int], EdgeSession] = OrderedDict()  # least recently used first
        self._served = {system.name: self._serve(number, system) for number, system in enumerate(spec.systems, 1)}

    def serve(self, stopped: Callable[[], bool], poll_s: float = 0.2) -> None:
        """The loop, until `stopped()`."""
        while not stopped():
            due_ns = self.batcher.due_ns()
            wait_s = poll_s if due_ns is None else max(0.0, (due_ns - time.monotonic_ns()) / 1e9)
            arrival = self.link.receive(min(wait_s, poll_s))
            while arrival is not None:  # everybody who is already here joins the batch
                self.handle(arrival)
                arrival = self.link.receive(0)
            due_ns = self.batcher.due_ns()
            if due_ns is not None and due_ns <= time.monotonic_ns():
                self.batcher.fire()

    def handle(self, arrival: Arrival) -> None:
        """One message. Never raises for what a peer sent; EngineLost, after which there is nothing to serve with."""
        header = Header(Kind.ERROR)
        try:
            header = unpack_header(arrival.frames, Header)
            if header.kind == Kind.HELLO:
                self._hello(arrival, unpack_body(arrival.frames, Hello))
            elif header.kind == Kind.OPEN:
                self._open(arrival.peer, header, unpack_body(arrival.frames, Open))
            elif header.kind == Kind.ROUND:
                self._round(arrival, header)
            elif header.kind == Kind.CLOSE:
                self._close((arrival.peer, header.session))
            else:
                raise ProtocolError("protocol", f"a device does not send {header.kind.name}")
        except ProtocolError as error:
            self._refuse(arrival.peer, header, error.code, str(error), error.remedy)
        except (WireError, MethodError, ValueError) as error:
            self._refuse(arrival.peer, header, "protocol", str(error))
        except EngineLost:
            raise
        except Exception as error:  # nobody thought of this message
            log.exception("a message of kind %s failed", header.kind.name)
            self._refuse(arrival.peer, header, "protocol", str(error) or type(error).__name__, "see the edge's log")

    # Messages ---------------------------------------------------------------------------------------------------------

    def _hello(self, arrival: Arrival, hello: Hello) -> None:
        if hello.protocol != PROTOCOL:
            raise ProtocolError("refused", f"protocol {hello.protocol} on the device, {PROTOCOL} on the edge")
        served = self._served.get(hello.system)
        if served is None:
            known = ", ".join(sorted(self._served))
            raise ProtocolError("refused", f"this edge does not serve {hello.system!r}; it serves: {known}")
        if served.method.edge_drafts and served.drafter is None:
            raise ProtocolError(
                "refused", f"{hello.system} drafts at the edge, which has no draft model", "set edge.draft_engine"
            )
        differences = compare(hello.contract, served.agreement)
        if differences:
            raise ProtocolError(
                "refused",
                f"device and edge differ for {hello.system}: " + "; ".join(differences),
                "give both nodes the same configuration and models",
            )
        welcome = Welcome(served.number, self.about)
        self._send(arrival.peer, pack(ReplyHeader(Kind.WELCOME, arrived_ns=arrival.arrived_ns), welcome))

    def _open(self, peer: bytes, header: Header, opening: Open) -> None:
        served = next((s for s in self._served.values() if s.number == opening.contract), None)
        if served is None:
            raise ProtocolError("unknown_session", f"no contract {opening.contract} here: say hello first")
        if opening.prompt_tokens + opening.max_new_tokens > self.engine.max_tokens:
            raise ProtocolError(
                "refused",
                f"{opening.prompt_tokens} prompt and {opening.max_new_tokens} new tokens exceed the target's "
                f"{self.engine.max_tokens}",
                "shorten the prompt or max_new_tokens",
            )
        key = (peer, header.session)
        self._close(key)
        while len(self.sessions) >= self.spec.edge.max_sessions:
            self.counters["sessions_evicted"] += 1
            self._close(next(iter(self.sessions)))  # the longest idle; its device will open it again
        self.sessions[key] = EdgeSession(
            peer,
            header.session,
            served,
            opening,
            Session(self.spec.sampling),
            Finish(
                opening.prompt_tokens,
                opening.max_new_tokens,
                frozenset() if opening.ignore_eos else self.engine.eos_tokens,
                opening.stop,
                self.engine.tokenizer.decode,
            ),
            Session(self.spec.sampling),
        )
        self.counters["sessions_opened"] += 1

    def _round(self, arrival: Arrival, header: Header) -> None:
        at = self.sessions.get((arrival.peer, header.session))
        if at is None:
            raise ProtocolError("unknown_session", f"session {header.session} is not open here")
        self.sessions.move_to_end((at.peer, at.number))
        if header.round < at.round or header.epoch < at.epoch:
            self.counters["stale_dropped"] += 1
            return
        if header.round == at.round and header.leg <= at.leg:  # a retry: what was answered is answered again
            self.counters["retries_answered"] += 1
            for frames in at.replies[header.have :]:
                self._send(at.peer, frames)
            return
        up = unpack_body(arrival.frames, at.served.method.Up)
        self._check_tokens(header.base, [*header.carry, *up.tokens])
        at.served.method.check(up)
        if header.round == at.round:
            if at.task is None or not at.task.waiting or header.leg != at.leg + 1:
                raise ProtocolError("protocol", f"leg {header.leg} of round {header.round} was not asked for")
            if header.leg > MAX_LEGS:
                raise ProtocolError(
                    "protocol", f"leg {header.leg} of round {header.round}: there are {MAX_LEGS} at most"
                )
            at.leg = header.leg
            self.batcher.follow_up(at.task, up, arrival.arrived_ns)
            return
        self._end_round(at)
        if header.leg != 0:
            raise ProtocolError("unknown_session", f"round {header.round} begins with leg {header.leg}")
        if header.base == at.base:  # the answer to the last round was given up; this one takes its place
            at.tokens = at.tokens[: at.base]
        if header.base != len(at.tokens):
            raise ProtocolError(
                "unknown_session", f"the device thinks the edge holds {header.base} tokens, it holds {len(at.tokens)}"
            )
        if not at.tokens and not header.carry:
            raise ProtocolError("protocol", "a session begins with at least one token", "give a prompt")
        at.base, at.tokens = header.base, [*at.tokens, *header.carry]
        at.round, at.leg, at.epoch, at.replies = header.round, 0, header.epoch, []
        coins = Coins(self.spec.sampling.seed, at.opening.coins, header.epoch)
        at.task = Task(
            serving=at.served.method.serve(up, len(at.tokens), coins),
            session=at.session,
            settled=at.tokens,
            proposed=list(up.tokens),
            deliver=lambda task, down, last: self._deliver(at, task, down, last),
            speculate=lambda task, coins, limit: self._speculate(at, task, coins, limit),
            fail=lambda task, error: self._fail(at, task, error),
            arrived_ns=arrival.arrived_ns,
        )
        self.batcher.start(at.task)

    # What a task may do -----------------------------------------------------------------------------------------------

    def _deliver(self, at: EdgeSession, task: Task, down: Verdict, last: bool) -> bool:
        if at.task is not task:
            return False
        kept, finished = at.finish.cut(task.tokens, len(task.settled))
        at.tokens = task.tokens if finished is None else kept
        final = last or (finished is not None and at.served.method.streams)
        header = ReplyHeader(
            Kind.REPLY,
            session=at.number,
            round=at.round,
            seq=len(at.replies),
            final=final,
            arrived_ns=task.arrived_ns,
            residence_us=(time.monotonic_ns() - task.arrived_ns) // 1000,
            queue_us=task.queue_ns // 1000,
            compute_us=task.compute_ns // 1000,
            batch=task.batch,
            draft_us=task.draft_ns // 1000,
        )
        frames = pack(header, down)
        at.replies.append(frames)
        task.queue_ns = task.compute_ns = task.draft_ns = 0
        self._send(at.peer, frames)
        return finished is None

    def _speculate(self, at: EdgeSession, task: Task, coins: Coins, limit: int) -> Draft:
        assert at.served.drafter is not None, "agreed in the handshake"
        began_ns = time.monotonic_ns()
        draft = at.served.drafter.draft(at.draft_session, task.settled, coins, limit)
        took_ns = time.monotonic_ns() - began_ns
        task.compute_ns += took_ns
        task.draft_ns += took_ns
        return draft

    def _fail(self, at: EdgeSession, task: Task, error: Exception) -> None:
        if at.task is not task:
            return
        expected = isinstance(error, ValueError | SessionRefused)
        if not expected:
            log.exception("session %d of %s failed", at.number, at.served.system.name, exc_info=error)
        code = "protocol" if expected else "engine"
        header = Header(Kind.ROUND, session=at.number, round=at.round)
        self._refuse(at.peer, header, code, str(error) or type(error).__name__, "see the edge's log")
        self._close((at.peer, at.number))

    # Helpers ----------------------------------------------------------------------------------------------------------

    def _serve(self, number: int, system: System) -> Served:
        method = system.build_for(self.engine, "target")
        drafter = None
        if method.edge_drafts and self.draft_engine is not None:
            drafter = Drafter(self.draft_engine, method, make_stop(system.stop))
        return Served(number, system, method, self.spec.agreement(system, self.engine), drafter)

    def _check_tokens(self, base: int, tokens: list[int]) -> None:
        """`base`: tokens before these; what the edge holds beyond, a round that was given up, makes way."""
        if tokens and max(tokens) >= self.engine.vocab_size:
            raise ProtocolError("protocol", f"token {max(tokens)} is outside a vocabulary of {self.engine.vocab_size}")
        if base + len(tokens) > self.engine.max_tokens:
            raise ProtocolError("protocol", f"{base + len(tokens)} tokens exceed {self.engine.max_tokens}")

    def _end_round(self, at: EdgeSession) -> None:
        if at.task is not None:
            self.batcher.drop(at.task)
            at.task = None

    def _close(self, key: tuple[bytes, int]) -> None:
        at = self.sessions.pop(key, None)
        if at is None:
            return
        self._end_round(at)
        self.engine.release(at.session)
        if self.draft_engine is not None:
            self.draft_engine.release(at.draft_session)

    def _refuse(self, peer: bytes, header: Header, code: str, message: str, remedy: str = "") -> None:
        self.counters[f"error_{code}"] += 1
        log.warning("%s: %s", code, message)
        answered = ReplyHeader(Kind.ERROR, session=header.session, round=header.round)
        self._send(peer, pack(answered, Error(code, message, remedy)))

    def _send(self, peer: bytes, frames: list[bytes]) -> None:
        try:
            self.link.send(peer, frames)
        except LinkError as error:  # the peer is gone; if it comes back it will ask again
            self.counters["undeliverable"] += 1
            log.info("%s", error)


def compare(device: Any, edge: Any, path: str = "") -> list[str]:
    """Every leaf at which two agreements differ, with both values."""
    if isinstance(device, dict) and isinstance(edge, dict):
        keys = [*edge, *(key for key in device if key not in edge)]
        return [
            difference
            for key in keys
            for difference in compare(device.get(key), edge.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if device == edge else [f"{path}: device {device!r}, edge {edge!r}"]
