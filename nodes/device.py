"""The device node: one draft model, one user. Read this first, with edge.py.

prompt ─► route ─► schedule ─► draft ─► method.propose ─► the wire ─► method.resolve ─► tokens ─► records
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psutil

from nodes.channel import Channel
from nodes.composition import System
from nodes.conversation import Conversation, Watch
from nodes.drafting import Drafter
from nodes.engine import Engine, EngineError
from nodes.engine.weights import model_id
from nodes.finish import Finish
from nodes.methods import method_class
from nodes.policies.route import Route, make_route
from nodes.policies.stop import make_stop
from nodes.policies.upload import make_upload
from nodes.records import RecordWriter, RequestRecord, RoundRecord
from nodes.runspec import Prompt, RunSpec, conversation_id
from nodes.sampling import Coins
from nodes.schedules import load_schedule
from nodes.session import Session
from transport.clock import ClockSample
from transport.link import DeviceLink
from transport.messages import Open
from transport.tcp_info import TcpInfo

WARMUP_TOKENS = 8  # enough to load what is lazy and to open the congestion window; the rest would only take time


@dataclass(frozen=True)
class Job:
    """One request to be made: this prompt, by this system."""

    system: System
    prompt: Prompt
    repeat: int
    warmup: bool

    @property
    def request_id(self) -> str:
        return f"{self.system.name}/{self.prompt.id}/{'warmup' if self.warmup else self.repeat}"


def jobs(spec: RunSpec) -> Iterator[Job]:
    """Warm-up first; then prompt by prompt, all systems on each, starting with another system every time, so that a
    machine that drifts favours none."""
    for system in spec.systems:
        for i in range(spec.warmup):
            yield Job(system, spec.prompts[i % len(spec.prompts)], -1 - i, warmup=True)
    turn = 0
    for repeat in range(spec.repeats):
        for prompt in spec.prompts:
            for i in range(len(spec.systems)):
                yield Job(spec.systems[(turn + i) % len(spec.systems)], prompt, repeat, warmup=False)
            turn += 1


@dataclass(frozen=True)
class Way:
    """By which a request may be answered."""

    system: System
    drafter: Drafter
    channel: Channel | None  # None: nobody is asked


class DeviceNode:
    """Runs a spec's requests, one after another. `connect(system)` makes a link to the edge: every system has its own,
    so that none inherits another's congestion window. `interface` is the one to the edge, whose bytes are counted.
    `watch` sees every round of every request that counts, as it ends, and may end the request."""

    def __init__(
        self,
        spec: RunSpec,
        engine: Engine,
        connect: Callable[[System], DeviceLink],
        writer: RecordWriter,
        interface: str | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.spec, self.engine, self.writer, self.interface = spec, engine, writer, interface
        self.watch = watch
        self._connect = connect
        self._channels: dict[str, Channel] = {}
        self._routes: dict[str, tuple[Route, Way, Way]] = {}  # by system: who decides, its method, the device alone

    def run(
        self,
        on_request: Callable[[RequestRecord, int, int], None] = lambda record, done, total: None,
        on_begin: Callable[[Job], None] = lambda job: None,
    ) -> None:
        """All jobs; `on_begin(job)` before, `on_request(record, done, total)` after each. Raises EdgeError,
        EngineError."""
        self.agree()
        todo = list(jobs(self.spec))
        for done, job in enumerate(todo, 1):
            on_begin(job)
            on_request(self.serve(job), done, len(todo))

    def agree(self) -> None:
        """Every handshake first, and every prompt measured against the models: a refusal should cost no measurement."""
        for system in self.spec.systems:
            self._route(system)
        self._require_room()

    def edge(self) -> tuple[dict[str, Any], ClockSample | None]:
        """What the edge said of itself in the latest handshake, and what that showed of the clocks."""
        met = [channel for channel in self._channels.values() if channel.handshake]
        latest = max(met, key=lambda channel: channel.handshake.received_ns, default=None)  # type: ignore[union-attr]
        return (latest.edge, latest.handshake) if latest else ({}, None)

    def serve(self, job: Job) -> RequestRecord:
        """One request, from its prompt to its last token."""
        system = job.system
        route, by_method, alone = self._route(system)
        prompt = self.engine.tokenizer.encode(job.prompt.text)
        if not prompt:
            raise EngineError(f"prompt {job.prompt.id!r} has no tokens: give it some text")
        eos = frozenset() if self.spec.ignore_eos else self.engine.eos_tokens
        max_new_tokens = min(WARMUP_TOKENS, self.spec.max_new_tokens) if job.warmup else self.spec.max_new_tokens
        finish = Finish(len(prompt), max_new_tokens, eos, self.spec.stop, self.engine.tokenizer.decode)
        session = Session(self.spec.sampling, prompt)
        conversation = conversation_id(job.prompt.id, job.repeat)
        template = RoundRecord(system.name, job.request_id, job.repeat, job.warmup, 0, 0, 0, 0)
        coins = Coins(self.spec.sampling.seed, conversation)
        before = self._interface_bytes()
        start_ns = time.monotonic_ns()
        way = alone if route.keeps(self.engine, session, coins) else by_method
        route_ms = (time.monotonic_ns() - start_ns) / 1e6
        talk = Conversation(
            drafter=way.drafter,
            channel=way.channel,
            upload=make_upload(way.system.upload),
            session=session,
            finish=finish,
            coins=coins,
            start_ns=start_ns,
            opening=Open(0, conversation, max_new_tokens, len(prompt), self.spec.stop, self.spec.ignore_eos),
            template=template,
            record=self.writer.round,
            watch=None if job.warmup else self.watch,
        )
        error = ""
        try:
            load_schedule(way.system.schedule)(talk)
        except BaseException as failure:
            error = str(failure) or type(failure).__name__
            raise
        finally:
            end_ns = time.monotonic_ns()
            talk.close()
            self.engine.release(session)
            record = self._request_record(job, talk, len(prompt), start_ns, end_ns)
            record.error = error
            if route.decides:
                record.kept, record.route_ms = way is alone, route_ms
            after = self._interface_bytes()
            if before and after:
                record.link_up_bytes, record.link_down_bytes = after[0] - before[0], after[1] - before[1]
            self.writer.request(record)
        return record

    def counters(self) -> dict[str, dict[str, int]]:
        """By system: what its channel and its socket counted."""
        return {name: dict(channel.counters) for name, channel in self._channels.items()}

    def tcp_info(self) -> list[tuple[str, TcpInfo]]:
        """Each system's connection as the kernel sees it now, from any thread."""
        sampled = [(name, channel.link.tcp_info()) for name, channel in list(self._channels.items())]
        return [(name, info) for name, info in sampled if info is not None]

    def close(self) -> None:
        for channel in self._channels.values():
            channel.link.close()

    def _route(self, system: System) -> tuple[Route, Way, Way]:
        """The system's parts, made once; those that need the edge shake hands with it."""
        if system.name not in self._routes:
            alone = system.alone()
            route, by_method = make_route(system.route), Way(system, self._drafter(system), self._channel(system))
            if route.decides:
                route.meet(model_id(self.engine), self._channels[system.name].edge.get("model", "unknown"))
            self._routes[system.name] = route, by_method, Way(alone, self._drafter(alone), None)
        return self._routes[system.name]

    def _drafter(self, system: System) -> Drafter:
        return Drafter(self.engine, system.build_for(self.engine, "draft"), make_stop(system.stop))

    def _channel(self, system: System) -> Channel | None:
        """A line to the edge of its own, once both agree; None for what asks no edge."""
        if not method_class(system.method).edge:
            return None
        timing = self.spec.timing
        agreement = self.spec.agreement(system, self.engine)
        channel = Channel(self._connect(system), system.name, agreement, timing.retry_after_s, timing.give_up_after_s)
        self._channels[system.name] = channel
        channel.agree()
        return channel

    def _require_room(self) -> None:
        """Raises EngineError where the longest prompt and its output are more than a model takes that will see them."""
        encode, new = self.engine.tokenizer.encode, self.spec.max_new_tokens
        n, longest = max(((len(encode(prompt.text)), prompt.id) for prompt in self.spec.prompts), default=(0, ""))
        takes = [("edge", channel.edge.get("max_tokens", n + new)) for channel in self._channels.values()]
        if any(route.decides or way.drafter.method.drafts for route, way, _ in self._routes.values()):
            takes.append(("device", self.engine.max_tokens))
        for node, max_tokens in takes:
            if n + new > max_tokens:
                raise EngineError(
                    f"prompt {longest!r} has {n} tokens and {new} new ones may follow, but the {node}'s model takes "
                    f"{max_tokens} in all: shorten the prompt or workload.max_new_tokens"
                )

    def _interface_bytes(self) -> tuple[int, int] | None:
        if self.interface is None:
            return None
        counters = psutil.net_io_counters(pernic=True, nowrap=False)[self.interface]
        return counters.bytes_sent, counters.bytes_recv

    def _request_record(
        self, job: Job, talk: Conversation, prompt_tokens: int, start_ns: int, end_ns: int
    ) -> RequestRecord:
        token_ms = [(ns - start_ns) / 1e6 for ns in talk.token_ns]
        return RequestRecord(
            system=job.system.name,
            request_id=job.request_id,
            prompt_id=job.prompt.id,
            repeat=job.repeat,
            warmup=job.warmup,
            prompt_tokens=prompt_tokens,
            output_tokens=len(token_ms),
            tokens=talk.tokens[prompt_tokens:],
            text=talk.finish.text(talk.tokens)[0],
            finish_reason=talk.finish_reason or "error",
            start_ns=start_ns,
            end_ns=end_ns,
            ttft_ms=token_ms[0] if token_ms else 0.0,
            tpot_ms=(token_ms[-1] - token_ms[0]) / (len(token_ms) - 1) if len(token_ms) > 1 else None,
            e2e_ms=(end_ns - start_ns) / 1e6,
            token_ms=token_ms,
            rounds=talk.rounds,
            retries=talk.retries,
            resumed=talk.resumed,
            labels=sorted(self.engine.labels),
        )
