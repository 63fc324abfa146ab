"""One direction's shape -> tc commands. Pure, like plan.py, of which this is the part about queueing disciplines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from netem.impairments import SlotSpec
from netem.spec import MTU_BYTES, Direction, DirectionSpec

Place = Literal["here", "device", "router", "edge"]
HANDLE = "d55d:"  # our netem's handle, so that it can be told from anybody else's
BUCKET, GATE = "d55e:", "d55f:"  # of the bottleneck of a rate that varies, see bottleneck
FRAME_BYTES = MTU_BYTES + 14
BURST_S = 3e-3  # what a late timer has to make up for: with 1 ms a busy router sent 4.5 % too little, so 0.9 %
SHORTEST_HOLD_S = 1e-3  # so short a time has its rate halved, which is the most that is taken off
PORTS: dict[Direction, str] = {
    "up": "to_edge",
    "down": "to_device",
}  # router port whose egress is this direction
NEVER_LIMITS = "100gbit"  # see netem_argv


@dataclass(frozen=True)
class Step:
    """One command and where it runs."""

    place: Place
    argv: tuple[str, ...]


def number(value: float) -> str:
    """A decimal as `tc` reads it: no exponent, no trailing zeros, six decimals."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def netem_argv(spec: DirectionSpec, before: DirectionSpec | None = None) -> list[str]:
    """netem's arguments for one direction, zeros left out (some versions of tc refuse them).

    `before` is what is in force when a live queue is changed: netem keeps an old rate, duplication or
    corruption unless told otherwise, so these are then neutralised explicitly.

    A declared jitter must not reorder (TCP would take it for loss), but netem sorts packets by their time
    of sending. It keeps their order once a rate is set, each packet being timed after the one before; so a
    direction with jitter and neither rate nor reordering gets a rate so high that it never limits. (An
    inner pfifo, as the manual page advises, does not help: the sorting is netem's own.)
    """
    argv = ["limit", str(spec.limit_packets)]
    if spec.delay_ms:
        argv += ["delay", f"{number(spec.delay_ms)}ms"]
        if spec.jitter_ms:
            argv += [f"{number(spec.jitter_ms)}ms"]
            argv += [f"{number(spec.correlation_pct)}%"] if spec.correlation_pct else []
            argv += ["distribution", spec.distribution] if spec.distribution != "uniform" else []
    argv += _loss_argv(spec)
    for word, value, correlation in (
        ("reorder", spec.reorder_pct, spec.reorder_correlation_pct),
        ("duplicate", spec.duplicate_pct, spec.duplicate_correlation_pct),
        ("corrupt", spec.corrupt_pct, spec.corrupt_correlation_pct),
    ):
        if value or (before is not None and getattr(before, f"{word}_pct")):
            argv += [word, f"{number(value)}%"] + ([f"{number(correlation)}%"] if correlation else [])
            argv += ["gap", str(spec.reorder_gap)] if word == "reorder" and spec.reorder_gap else []
    argv += _rate_argv(spec, before)
    argv += _slot_argv(spec.slot) if spec.slot else []
    argv += ["seed", str(spec.seed)] if spec.seed is not None else []
    return argv


def _loss_argv(spec: DirectionSpec) -> list[str]:
    if spec.gilbert:
        chances = list(spec.gilbert.netem_pct.values())
        chances = chances if spec.gilbert.bad_loss_pct < 100 or spec.gilbert.good_loss_pct else chances[:2]
        argv = ["loss", "gemodel", *(f"{number(chance)}%" for chance in chances)]
    elif spec.loss_states:
        argv = ["loss", "state", *(f"{number(chance)}%" for chance in spec.loss_states.netem_pct.values())]
    elif spec.loss_pct:
        argv = ["loss", "random", f"{number(spec.loss_pct)}%"]
        argv += [f"{number(spec.loss_correlation_pct)}%"] if spec.loss_correlation_pct else []
    else:
        return []
    return [*argv, "ecn"] if spec.ecn else argv


def _rate_argv(spec: DirectionSpec, before: DirectionSpec | None) -> list[str]:
    if spec.rate_mbps and not spec.has_bottleneck:
        overheads = [spec.rate_overhead_bytes, spec.rate_cell_bytes, spec.rate_cell_overhead_bytes]
        while overheads and not overheads[-1]:
            overheads.pop()
        return ["rate", f"{number(spec.rate_mbps)}mbit", *map(str, overheads)]
    if has_rate(spec) or (before is not None and has_rate(before)):
        return ["rate", NEVER_LIMITS]
    return []


def _slot_argv(slot: SlotSpec) -> list[str]:
    if slot.distribution == "uniform":  # of which tc has no table: between two bounds it is netem's own
        argv = [f"{number(bound_ms)}ms" for bound_ms in slot.bounds_ms]
    else:
        argv = ["distribution", slot.distribution, f"{number(slot.mean_ms or 0)}ms", f"{number(slot.jitter_ms)}ms"]
    argv += ["packets", str(slot.packets)] if slot.packets else []
    argv += ["bytes", str(slot.bytes)] if slot.bytes else []
    return ["slot", *argv]


def has_rate(spec: DirectionSpec) -> bool:
    """Whether netem_argv gave this direction a rate, declared or only to keep order while delays differ."""
    delays_differ = spec.jitter_ms or (spec.trace and "delay_ms" in spec.trace.trace.keys)
    return bool((spec.rate_mbps and not spec.has_bottleneck) or (delays_differ and not spec.reorder_pct))


def shape(which: Direction, spec: DirectionSpec) -> list[Step]:
    """Put netem on the router port of one direction; nothing for a direction that is not shaped."""
    if not spec.is_shaped:
        return []
    argv = ["tc", "qdisc", "add", "dev", PORTS[which], "root", "handle", HANDLE, "netem", *netem_argv(spec)]
    return [Step("router", tuple(argv)), *(bottleneck(which, "add", spec) if spec.has_bottleneck else [])]


def bottleneck(
    which: Direction, verb: Literal["add", "change"], spec: DirectionSpec, hold_s: float = math.inf
) -> list[Step]:
    """A rate that varies: netem, then a token bucket, then a gate before which what waits is queued.

    A rate of 0 shuts the gate. Opening it, which ends every change, also wakes the bucket: left alone it would sleep
    until its next packet was due at the rate of before. A change fills the bucket; what that gives away is taken off
    the rate again over `hold_s`, the time until the next one; a rate that stays is left whole.
    """
    if not spec.rate_mbps and verb == "change":
        return [Step("router", _gate(which, verb, "block"))]
    queue_bytes = spec.bottleneck_packets * FRAME_BYTES
    bucket = ["tc", "qdisc", verb, "dev", PORTS[which], "parent", f"{HANDLE}1", "handle", BUCKET, "tbf"]
    bucket += ["rate", f"{bucket_bps(spec, hold_s)}bit", "burst", str(_burst_bytes(spec))]
    steps = [(*bucket, "limit", str(queue_bytes))]
    steps += [_gate(which, verb, "limit", str(queue_bytes))] if verb == "add" else []
    steps += [_gate(which, "change", "release_indefinite" if spec.rate_mbps else "block")]
    return [Step("router", argv) for argv in steps]


def bucket_bps(spec: DirectionSpec, hold_s: float) -> int:
    """The bucket's rate over a time that begins with it full."""
    rate_bps = (spec.rate_mbps or 0.0) * 1e6
    half_a_frame = FRAME_BYTES / 2  # is what a busy one holds
    given_bps = (_burst_bytes(spec) - half_a_frame) * 8 / max(SHORTEST_HOLD_S, hold_s)
    return max(8, round(max(rate_bps - given_bps, rate_bps / 2)))


def _burst_bytes(spec: DirectionSpec) -> int:
    return max(FRAME_BYTES, math.ceil((spec.rate_mbps or 0.0) * 1e6 / 8 * BURST_S))


def _gate(which: Direction, verb: str, *words: str) -> tuple[str, ...]:
    return ("tc", "qdisc", verb, "dev", PORTS[which], "parent", f"{BUCKET}1", "handle", GATE, "plug", *words)


def retune(which: Direction, before: DirectionSpec, after: DirectionSpec, hold_s: float | None) -> list[Step]:
    """From one point of a direction's trace to another; nothing that waits or is in flight is lost. `hold_s` is that of
    the rate, None where it goes on as it is."""
    steps = []
    if (before.delay_ms, before.loss_pct) != (after.delay_ms, after.loss_pct):
        on_port = ["dev", PORTS[which], "root", "handle", HANDLE, "netem"]
        steps += [Step("router", ("tc", "qdisc", "change", *on_port, *netem_argv(after, before)))]
    if after.has_bottleneck and hold_s is not None:
        steps += bottleneck(which, "change", after, hold_s)
    return steps


def reshape(which: Direction, before: DirectionSpec, after: DirectionSpec) -> list[Step]:
    """From one shape to another on a live link.

    `change` keeps the packets in flight; only what it cannot do (a first or last shape, and what netem keeps unless
    told otherwise in words it does not have) replaces the queue and loses them.
    """
    on_port = ["dev", PORTS[which], "root"]
    if not before.is_shaped:
        return shape(which, after)
    if not after.is_shaped:
        return [Step("router", ("tc", "qdisc", "del", *on_port))]
    if _sticks(before) != _sticks(after):
        return [Step("router", ("tc", "qdisc", "del", *on_port)), *shape(which, after)]
    argv = ["tc", "qdisc", "change", *on_port, "handle", HANDLE, "netem", *netem_argv(after, before)]
    return [Step("router", tuple(argv)), *(bottleneck(which, "change", after) if after.has_bottleneck else [])]


def _sticks(spec: DirectionSpec) -> tuple[object, ...]:
    """What a `change` cannot take back."""
    correlations = (spec.correlation_pct, spec.loss_correlation_pct, spec.reorder_correlation_pct)
    more = (spec.duplicate_correlation_pct, spec.corrupt_correlation_pct, spec.reorder_gap)
    overheads = (spec.rate_overhead_bytes, spec.rate_cell_bytes, spec.rate_cell_overhead_bytes)
    return (spec.distribution, spec.ecn, spec.slot, spec.seed, spec.trace, *correlations, *more, *overheads)
