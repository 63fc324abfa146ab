"""What a link is. Everything declared here is either applied exactly or refused; nothing is rounded or
ignored.

`up` is device -> edge, `down` is edge -> device. Times are one-way milliseconds, rates are 10^6 bit/s
counted as netem counts them (the whole Ethernet frame without its checksum: payload + 42 bytes for UDP over
IPv4).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from netem.impairments import GilbertSpec, LossStatesSpec, SlotSpec, Strict
from netem.traces.spec import OutageSpec, TraceSpec
from netem.traces.trace import Point

MTU_BYTES = 1500
DEFAULT_QUEUE_PACKETS = 1000  # what `tc` itself uses
UNLIMITED_RATE_MBPS = 1000.0  # assumed when sizing the queue of a direction that declares no rate

Direction = Literal["up", "down"]
DIRECTIONS: tuple[Direction, Direction] = ("up", "down")
LOSS_KINDS = ("loss_pct", "gilbert", "loss_states")
WHOLE = ("gilbert", "loss_states", "slot", "trace")  # of a profile: replaced, never mixed
SHORTHANDS = {  # top-level key -> (per-direction key, factor)
    "rtt_ms": ("delay_ms", 0.5),
    "rate_mbps": ("rate_mbps", 1.0),
    "loss_pct": ("loss_pct", 1.0),
    "jitter_ms": ("jitter_ms", 1.0),
}


class DirectionSpec(Strict):
    """One direction of the link. Absent means: not impaired in this respect."""

    rate_mbps: float | None = Field(default=None, description="None: as fast as this machine forwards")
    delay_ms: float = Field(default=0.0, ge=0, le=60_000)
    jitter_ms: float = Field(default=0.0, ge=0)
    distribution: Literal["uniform", "normal", "pareto", "paretonormal"] = "uniform"
    correlation_pct: float = Field(default=0.0, ge=0, le=100, description="of a packet's jitter with the one before")
    loss_pct: float = Field(default=0.0, ge=0, le=100)
    loss_correlation_pct: float = Field(default=0.0, ge=0, le=100)
    gilbert: GilbertSpec | None = None
    loss_states: LossStatesSpec | None = None
    ecn: bool = Field(default=False, description="what would be lost is marked instead, where the sender asked")
    reorder_pct: float = Field(default=0.0, ge=0, le=100, description="share sent at once, ahead of those delayed")
    reorder_correlation_pct: float = Field(default=0.0, ge=0, le=100)
    reorder_gap: int | None = Field(default=None, ge=1, description="only every so many packets")
    duplicate_pct: float = Field(default=0.0, ge=0, le=100)
    duplicate_correlation_pct: float = Field(default=0.0, ge=0, le=100)
    corrupt_pct: float = Field(default=0.0, ge=0, le=100)
    corrupt_correlation_pct: float = Field(default=0.0, ge=0, le=100)
    rate_overhead_bytes: int = Field(default=0, ge=-1000, le=1000, description="added to each packet's length")
    rate_cell_bytes: int = Field(default=0, ge=0, le=10_000, description="packets fill cells, as on ATM")
    rate_cell_overhead_bytes: int = Field(default=0, ge=-1000, le=1000)
    slot: SlotSpec | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**64, description="the same packets are hit again (Linux 6.6)")
    queue_packets: int | None = Field(default=None, ge=1, description="None: computed, see `limit_packets`")
    trace: TraceSpec | None = Field(default=None, description="rate, delay or loss over time, from a file")

    @field_validator("rate_mbps")
    @classmethod
    def _rate_is_possible(cls, value: float | None) -> float | None:
        if value is not None and value <= 0:
            raise ValueError(
                f"rate_mbps is {value:g}, which lets nothing through: give a rate above 0, or leave it out"
                " for a link that is not limited"
            )
        return value

    @model_validator(mode="after")
    def _parts_fit_together(self) -> DirectionSpec:
        if self.jitter_ms > self.delay_ms:
            raise ValueError(
                f"jitter_ms ({self.jitter_ms:g}) is larger than delay_ms ({self.delay_ms:g}), so some packets"
                " would arrive before they were sent: raise delay_ms or lower jitter_ms"
            )
        if len(kinds := [kind for kind in LOSS_KINDS if getattr(self, kind)]) > 1:
            raise ValueError(f"{' and '.join(kinds)} both describe loss: keep one (mean_loss_pct is the mean)")
        if self.trace is not None:
            self._leaves_room_for(self.trace)
        varied = self.trace.trace.keys if self.trace else ()
        for key, needs in (
            ("reorder_pct", "delay_ms"),
            ("correlation_pct", "jitter_ms"),
            ("loss_correlation_pct", "loss_pct"),
            ("reorder_correlation_pct", "reorder_pct"),
            ("reorder_gap", "reorder_pct"),
            ("duplicate_correlation_pct", "duplicate_pct"),
            ("corrupt_correlation_pct", "corrupt_pct"),
            ("rate_overhead_bytes", "rate_mbps"),
            ("rate_cell_bytes", "rate_mbps"),
            ("rate_cell_overhead_bytes", "rate_cell_bytes"),
        ):
            if getattr(self, key) and not getattr(self, needs) and needs not in varied:
                raise ValueError(f"{key} ({getattr(self, key):g}) does nothing without {needs}: give both or neither")
        if self.ecn and not self.mean_loss_pct and "loss_pct" not in varied:
            raise ValueError("ecn marks what would be lost, and nothing is: declare a loss, or leave ecn out")
        if self.seed is not None and not self._draws:
            raise ValueError("seed does nothing where nothing is drawn: declare jitter or loss, or leave it out")
        if self.distribution != "uniform" and not self.jitter_ms:
            raise ValueError(f"distribution '{self.distribution}' does nothing without jitter_ms: give both or neither")
        return self

    def _leaves_room_for(self, trace: TraceSpec) -> None:
        keys = trace.trace.keys
        for key in keys:
            if key in self.model_fields_set and getattr(self, key):
                raise ValueError(f"{key} ({getattr(self, key):g}) is given, and trace {trace.file} varies it: keep one")
        if "loss_pct" in keys and (self.gilbert or self.loss_states):
            raise ValueError(f"trace {trace.file} varies the loss, so gilbert and loss_states cannot stand beside it")
        if "delay_ms" in keys and self.reorder_pct and not min(trace.trace.column("delay_ms")):
            raise ValueError(
                f"reorder_pct ({self.reorder_pct:g}) sends packets ahead of those delayed, and the delay of trace"
                f" {trace.file} falls to 0: raise its least delay, or leave reorder_pct out"
            )
        if "delay_ms" in keys and self.jitter_ms > min(trace.trace.column("delay_ms")):
            raise ValueError(f"jitter_ms ({self.jitter_ms:g}) is larger than the least delay of trace {trace.file}")
        if "rate_mbps" in keys and (self.rate_overhead_bytes or self.rate_cell_bytes or self.slot):
            raise ValueError(f"trace {trace.file} varies the rate: overheads, cells and slots cannot stand beside it")

    @property
    def _draws(self) -> bool:
        return any(
            (self.jitter_ms, self.mean_loss_pct, self.reorder_pct, self.duplicate_pct, self.corrupt_pct, self.trace)
        )

    @property
    def mean_loss_pct(self) -> float:
        bursty = self.gilbert or self.loss_states
        return bursty.mean_loss_pct if bursty else self.loss_pct

    @property
    def is_shaped(self) -> bool:
        return any(
            (
                self.rate_mbps,
                self.delay_ms,
                self.mean_loss_pct,
                self.reorder_pct,
                self.duplicate_pct,
                self.corrupt_pct,
                self.queue_packets,
                self.slot,
                self.trace,
            )
        )

    def at(self, point: Point) -> DirectionSpec:
        """This direction as it is while that point of its trace holds; `trace` stays, for it says how to build it."""
        return self.model_copy(update=point.values)

    def at_start(self) -> DirectionSpec:
        """As it is before its trace begins to play."""
        return self.at(self.trace.start) if self.trace else self

    @property
    def has_bottleneck(self) -> bool:
        """Whether the rate varies. netem gives each packet its time when it comes, so a queue would go on leaving at
        the rate of the past; such a rate is a token bucket behind netem, which sends what waits at the rate of now."""
        return self.trace is not None and "rate_mbps" in self.trace.trace.keys

    @property
    def slowest_mbps(self) -> float | None:
        """For time-outs: the least rate of a trace, but no less than a tenth of its mean; None without a rate."""
        if not (self.trace and self.has_bottleneck):
            return self.rate_mbps
        trace = self.trace.trace
        least = min(rate for rate in trace.column("rate_mbps") if rate > 0)
        return max(least, trace.mean("rate_mbps") / 10)

    @property
    def longest_delay_ms(self) -> float:
        """But for jitter."""
        traced = self.trace is not None and "delay_ms" in self.trace.trace.keys
        return self.trace.trace.most["delay_ms"] if self.trace and traced else self.delay_ms

    @property
    def long_term_loss_pct(self) -> float:
        """The mean over a trace."""
        traced = self.trace is not None and "loss_pct" in self.trace.trace.keys
        return self.trace.trace.mean("loss_pct") if self.trace and traced else self.mean_loss_pct

    @property
    def limit_packets(self) -> int:
        """Queue length handed to netem, packets in flight included.

        1.5 x rate x (delay + jitter) / MTU, and never below tc's own 1000: netem counts the packets it is
        delaying, so a shorter queue would lose packets nobody declared. Without a rate 1000 Mbit/s is taken. The queue
        of a bottleneck behind it is counted too.
        """
        rate_mbps = self.rate_mbps or UNLIMITED_RATE_MBPS
        if self.trace and self.has_bottleneck:
            rate_mbps = self.trace.trace.most["rate_mbps"]
        elif self.queue_packets is not None:
            return self.queue_packets
        waits_ms = self.longest_delay_ms + self.jitter_ms + (self.slot.longest_ms if self.slot else 0.0)
        in_flight_bytes = rate_mbps * 1e6 / 8 * waits_ms / 1e3
        in_flight = max(DEFAULT_QUEUE_PACKETS, math.ceil(1.5 * in_flight_bytes / MTU_BYTES))
        return in_flight + self.bottleneck_packets

    @property
    def bottleneck_packets(self) -> int:
        """Queue in front of a rate that varies; 0 where none does."""
        return (self.queue_packets or DEFAULT_QUEUE_PACKETS) if self.has_bottleneck else 0


class TcpSpec(Strict):
    """TCP as both hosts of the lab see it, pinned inside their namespaces and recorded from read-back."""

    congestion: str | None = Field(default=None, pattern=r"^[a-z0-9_]+$", description="None: cubic if there is one")
    slow_start_after_idle: bool = True  # these are Linux's own defaults, whatever this machine's owner has set
    initcwnd: int = Field(default=10, ge=1, le=1000, description="packets")
    rmem_bytes: int = Field(default=6 << 20, ge=4096, description="largest receive buffer")
    wmem_bytes: int = Field(default=4 << 20, ge=4096, description="largest send buffer")
    ecn: bool = Field(default=False, description="connections ask for congestion marks; else they only grant them")


class ToleranceSpec(Strict):
    """How far the measured link may be from the declared one before a run is refused."""

    rtt_ms: float = Field(default=1.0, gt=0)
    rate_pct: float = Field(default=5.0, gt=0, le=100)
    jitter_pct: float = Field(default=25.0, gt=0, description="of its spread; three standard errors are added")
    loss_confidence: float = Field(default=0.99, ge=0.5, lt=1)


class LinkSpec(Strict):
    """A link: two directions, TCP settings, where to build it, how exact it has to be.

    `rtt_ms` is split in half; `rate_mbps`, `loss_pct`, `jitter_ms` and `trace` at the top hold for both directions.
    These shorthands are folded into `up` and `down` when the spec is read, so a dumped spec reads back as
    itself.
    """

    profile: str | None = Field(
        default=None, description="a named profile or the path of a YAML file, as the starting point"
    )
    rtt_ms: float | None = Field(default=None, exclude=True, ge=0)
    rate_mbps: float | None = Field(default=None, exclude=True)
    loss_pct: float | None = Field(default=None, exclude=True)
    jitter_ms: float | None = Field(default=None, exclude=True)
    trace: TraceSpec | None = Field(default=None, exclude=True, description="of both directions")
    outages: list[OutageSpec] = Field(default=[], description="when the link is cut, and for how long")
    clock: Literal["system", "request", "run"] = Field(
        default="system",
        description="what the time of traces and outages counts: each system's own requests, one after another, so that"
        " all meet the same course; each request from its start; or the run, from its first counted request",
    )
    up: DirectionSpec = DirectionSpec()
    down: DirectionSpec = DirectionSpec()
    tcp: TcpSpec = TcpSpec()
    backend: Literal["auto", "loopback", "netns", "uml"] = "auto"
    tolerance: ToleranceSpec = ToleranceSpec()

    @model_validator(mode="before")
    @classmethod
    def _fold(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        from netem.profiles import (
            load_profile,
        )  # profiles imports nothing of us; late only to read files on demand

        folded = _fold_shorthands(data)
        if folded.get("profile") is not None:
            base = _fold_shorthands(load_profile(str(folded["profile"]))["link"])
            folded = _merge(base, folded)
        return folded

    @model_validator(mode="after")
    def _outages_do_not_overlap(self) -> LinkSpec:
        for which in DIRECTIONS:
            mine = sorted((o.at_s, o.for_s) for o in self.outages if which in o.directions)
            for (at_s, for_s), (next_s, _) in pairwise(mine):
                if at_s + for_s >= next_s:
                    raise ValueError(
                        f"outages: the one at {at_s:g} s lasts until {at_s + for_s:g} s, when {which} is cut again at"
                        f" {next_s:g} s: make one of the two"
                    )
        return self

    @property
    def is_shaped(self) -> bool:
        return self.up.is_shaped or self.down.is_shaped

    @property
    def needs_lab(self) -> bool:
        """Whether it takes namespaces of its own: a shape, an outage, or TCP settings."""
        return self.is_shaped or bool(self.outages) or self.tcp != TcpSpec()

    @property
    def changes_while_it_runs(self) -> bool:
        return bool(self.outages or self.up.trace or self.down.trace)

    def at_start(self) -> LinkSpec:
        """As it is before its traces begin to play: what is built, and what the check measures."""
        return self.model_copy(update={which: self.direction(which).at_start() for which in DIRECTIONS})

    @property
    def base_rtt_ms(self) -> float:
        """Declared round trip of an infinitely small packet, without jitter."""
        return self.up.delay_ms + self.down.delay_ms

    def direction(self, which: Direction) -> DirectionSpec:
        return self.up if which == "up" else self.down


def _fold_shorthands(data: dict[str, Any]) -> dict[str, Any]:
    """The same mapping with top-level shorthands moved into `up` and `down`; both given is an error."""
    folded = {key: value for key, value in data.items() if key not in SHORTHANDS}
    folded = _fold_trace(folded)
    for short, (key, factor) in SHORTHANDS.items():
        value = data.get(short)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{short} must be a number, not {value!r}")
        for which in DIRECTIONS:
            side = folded.get(which) or {}
            side = side.model_dump(exclude_unset=True) if isinstance(side, BaseModel) else side
            if not isinstance(side, dict):
                break  # the field's own validation will say what is wrong with it
            if key in side:
                raise ValueError(
                    f"{short} ({value:g}) and {which}.{key} ({side[key]}) both set the"
                    f" {key.split('_')[0]}: keep {short} for a symmetric link, or give up.{key}"
                    f" and down.{key}"
                )
            folded[which] = {**side, key: value * factor}
    return folded


def _fold_trace(data: dict[str, Any]) -> dict[str, Any]:
    """A `trace` at the top is one of each direction; each takes its own columns of a file unless `side` says other."""
    folded = {key: value for key, value in data.items() if key != "trace"}
    for which in DIRECTIONS:
        side = folded.get(which) or {}
        side = side.model_dump(exclude_unset=True) if isinstance(side, BaseModel) else side
        if not isinstance(side, dict):
            continue
        if data.get("trace") is not None and side.get("trace") is not None:
            raise ValueError(f"trace and {which}.trace both vary {which}: keep trace for both, or give each its own")
        trace = side.get("trace") or data.get("trace")
        trace = {"file": trace} if isinstance(trace, str) else trace
        if isinstance(trace, dict):
            folded[which] = {**side, "trace": {"side": which, **trace}}
    return folded


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on top of `base`; a kind of loss, or an absence of jitter, replaces what it contradicts."""
    merged = dict(base)
    if any(over.get(kind) is not None for kind in LOSS_KINDS):
        merged = {key: value for key, value in merged.items() if key not in LOSS_KINDS}
    if over.get("jitter_ms") == 0:
        merged.pop("distribution", None)
    for key, value in over.items():
        value = value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both and key not in WHOLE else value
    return merged
