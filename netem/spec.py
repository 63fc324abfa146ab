"""What a link is. Everything declared here is either applied exactly or refused; nothing is rounded or
ignored.

`up` is device -> edge, `down` is edge -> device. Times are one-way milliseconds, rates are 10^6 bit/s
counted as netem counts them (the whole Ethernet frame without its checksum: payload + 42 bytes for UDP over
IPv4).
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MTU_BYTES = 1500
DEFAULT_QUEUE_PACKETS = 1000  # what `tc` itself uses
UNLIMITED_RATE_MBPS = 1000.0  # assumed when sizing the queue of a direction that declares no rate

Direction = Literal["up", "down"]
DIRECTIONS: tuple[Direction, Direction] = ("up", "down")
SHORTHANDS = {  # top-level key -> (per-direction key, factor)
    "rtt_ms": ("delay_ms", 0.5),
    "rate_mbps": ("rate_mbps", 1.0),
    "loss_pct": ("loss_pct", 1.0),
    "jitter_ms": ("jitter_ms", 1.0),
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class GilbertSpec(_Strict):
    """Losses that come in bursts (Gilbert's two states), given by what one can see: mean loss and mean
    burst.
    """

    mean_loss_pct: float = Field(gt=0, lt=100)
    mean_burst: float = Field(ge=1, description="mean number of packets lost in a row")

    @property
    def leave_pct(self) -> float:
        """Chance per packet of leaving the bad state (netem's r)."""
        return 100.0 / self.mean_burst

    @property
    def enter_pct(self) -> float:
        """Chance per packet of entering the bad state (netem's p)."""
        return self.leave_pct * self.mean_loss_pct / (100.0 - self.mean_loss_pct)

    @model_validator(mode="after")
    def _reachable(self) -> GilbertSpec:
        shortest = self.mean_loss_pct / (100 - self.mean_loss_pct)
        if self.mean_burst < shortest:
            raise ValueError(
                f"gilbert: a mean loss of {self.mean_loss_pct:g} % cannot come in bursts of"
                f" {self.mean_burst:g} packets: raise mean_burst to at least {shortest:.3g}"
            )
        return self


class DirectionSpec(_Strict):
    """One direction of the link. Absent means: not impaired in this respect."""

    rate_mbps: float | None = Field(default=None, description="None: as fast as this machine forwards")
    delay_ms: float = Field(default=0.0, ge=0, le=60_000)
    jitter_ms: float = Field(default=0.0, ge=0)
    distribution: Literal["uniform", "normal", "pareto", "paretonormal"] = "uniform"
    correlation_pct: float = Field(default=0.0, ge=0, le=100, description="of a packet's jitter with the one before")
    loss_pct: float = Field(default=0.0, ge=0, le=100)
    loss_correlation_pct: float = Field(default=0.0, ge=0, le=100)
    gilbert: GilbertSpec | None = None
    reorder_pct: float = Field(default=0.0, ge=0, le=100, description="share sent at once, ahead of those delayed")
    reorder_correlation_pct: float = Field(default=0.0, ge=0, le=100)
    duplicate_pct: float = Field(default=0.0, ge=0, le=100)
    corrupt_pct: float = Field(default=0.0, ge=0, le=100)
    queue_packets: int | None = Field(default=None, ge=1, description="None: computed, see `limit_packets`")

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
        if self.loss_pct and self.gilbert:
            raise ValueError("loss_pct and gilbert both describe loss: keep one (gilbert.mean_loss_pct is the mean)")
        for key, needs in (
            ("reorder_pct", "delay_ms"),
            ("correlation_pct", "jitter_ms"),
            ("loss_correlation_pct", "loss_pct"),
            ("reorder_correlation_pct", "reorder_pct"),
        ):
            if getattr(self, key) and not getattr(self, needs):
                raise ValueError(f"{key} ({getattr(self, key):g}) does nothing without {needs}: give both or neither")
        if self.distribution != "uniform" and not self.jitter_ms:
            raise ValueError(f"distribution '{self.distribution}' does nothing without jitter_ms: give both or neither")
        return self

    @property
    def mean_loss_pct(self) -> float:
        return self.gilbert.mean_loss_pct if self.gilbert else self.loss_pct

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
            )
        )

    @property
    def limit_packets(self) -> int:
        """Queue length handed to netem, packets in flight included.

        1.5 x rate x (delay + jitter) / MTU, and never below tc's own 1000: netem counts the packets it is
        delaying, so a shorter queue would lose packets nobody declared. Without a rate 1000 Mbit/s is taken.
        """
        if self.queue_packets is not None:
            return self.queue_packets
        rate_mbps = self.rate_mbps or UNLIMITED_RATE_MBPS
        in_flight_bytes = rate_mbps * 1e6 / 8 * (self.delay_ms + self.jitter_ms) / 1e3
        return max(DEFAULT_QUEUE_PACKETS, math.ceil(1.5 * in_flight_bytes / MTU_BYTES))


class TcpSpec(_Strict):
    """TCP as both hosts of the lab see it, pinned inside their namespaces and recorded from read-back."""

    congestion: str | None = Field(default=None, pattern=r"^[a-z0-9_]+$", description="None: cubic if there is one")
    slow_start_after_idle: bool = True  # Linux' own default
    initcwnd: int | None = Field(default=None, ge=1, le=1000, description="packets; None: Linux' own default, 10")
    rmem_bytes: int | None = Field(default=None, ge=4096, description="largest receive buffer")
    wmem_bytes: int | None = Field(default=None, ge=4096, description="largest send buffer")


class ToleranceSpec(_Strict):
    """How far the measured link may be from the declared one before a run is refused."""

    rtt_ms: float = Field(default=1.0, gt=0)
    rate_pct: float = Field(default=5.0, gt=0, le=100)
    loss_confidence: float = Field(default=0.99, ge=0.5, lt=1)


class LinkSpec(_Strict):
    """A link: two directions, TCP settings, where to build it, how exact it has to be.

    `rtt_ms` is split in half; `rate_mbps`, `loss_pct` and `jitter_ms` at the top hold for both directions.
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

    @property
    def is_shaped(self) -> bool:
        return self.up.is_shaped or self.down.is_shaped

    @property
    def base_rtt_ms(self) -> float:
        """Declared round trip of an infinitely small packet, without jitter."""
        return self.up.delay_ms + self.down.delay_ms

    def direction(self, which: Direction) -> DirectionSpec:
        return self.up if which == "up" else self.down


def _fold_shorthands(data: dict[str, Any]) -> dict[str, Any]:
    """The same mapping with top-level shorthands moved into `up` and `down`; both given is an error."""
    folded = {key: value for key, value in data.items() if key not in SHORTHANDS}
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


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on top of `base`; a kind of loss, or an absence of jitter, replaces what it contradicts."""
    merged = dict(base)
    if over.get("gilbert"):
        merged.pop("loss_pct", None)
    if over.get("loss_pct") is not None:
        merged.pop("gilbert", None)
    if over.get("jitter_ms") == 0:
        merged.pop("distribution", None)
    for key, value in over.items():
        value = value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both and key != "gilbert" else value
    return merged
