"""What was measured beside what was declared: which differences are no accident. Nothing is run here.

Every judgement notes in the report what was observed and returns its complaints, each with what to change.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from netem import binomial
from netem.distributions import delay_quantile_ms, furthest_ms, middle_half_ms
from netem.errors import LinkError
from netem.probe import FRAME_OVERHEAD_BYTES, PROBE_BYTES, STREAM_BYTES
from netem.spec import DIRECTIONS, Direction, DirectionSpec, LinkSpec

PROBE_FRAME_BITS = (PROBE_BYTES + FRAME_OVERHEAD_BYTES) * 8
STREAM_FRAME_BITS = (STREAM_BYTES + FRAME_OVERHEAD_BYTES) * 8
PAYLOAD_SHARE = STREAM_BYTES / (STREAM_BYTES + FRAME_OVERHEAD_BYTES)
OFFERED_OVER_DECLARED = 1.5  # by a stream that is to fill the link
ONE_WAY = "delay"  # how a problem with one begins
FEWEST_JITTER_PROBES = 30


@dataclass
class LinkReport:
    """`observed` has rtt_ms {median min p95 probes} and, per direction, delay_ms, jitter_ms, loss_pct, rate_mbps and so
    on; `delays_ms` has every probe's round trip and one-way delays."""

    declared: dict[str, Any]
    applied: Mapping[str, Any]
    observed: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    delays_ms: dict[str, list[float]] = field(default_factory=dict)
    duration_s: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.problems

    def require(self) -> LinkReport:
        """Itself if the link is as declared. Raises LinkError with everything that is off."""
        if self.problems:
            raise LinkError("the link is not as declared:\n  " + "\n  ".join(self.problems))
        return self

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}


def judge_delays(spec: LinkSpec, delays_ms: Mapping[str, Sequence[float]], report: LinkReport) -> list[str]:
    """Medians of sparse probes, of the round trip and of each way. Jitter adds four standard errors to the
    tolerance."""
    up_ms, down_ms = (expected_delay_ms(spec.direction(which)) for which in DIRECTIONS)
    wanted = {"rtt": up_ms + down_ms, "up": up_ms, "down": down_ms}
    deviation_ms = sum(deviation_of_ms(spec.direction(which)) ** 2 for which in DIRECTIONS) ** 0.5
    tolerance_ms = spec.tolerance.rtt_ms + 4 * deviation_ms / len(delays_ms["rtt"]) ** 0.5
    slotted = [which for which in DIRECTIONS if spec.direction(which).slot]
    report.skipped += [f"delay {which}: slots hold packets back" for which in slotted]
    problems = []
    for what, want in wanted.items():
        report.delays_ms[what] = [round(value, 4) for value in delays_ms[what]]
        found = spread(delays_ms[what])
        if what == "rtt":
            report.observed["rtt_ms"] = found
        else:
            report.observed.setdefault(what, {})["delay_ms"] = found
        off_ms = found["median"] - want
        if abs(off_ms) > tolerance_ms and what not in slotted and not (slotted and what == "rtt"):
            name = "round trip" if what == "rtt" else f"{ONE_WAY} {what}"
            problems.append(
                f"{name}: declared {want:.2f} ms, observed {found['median']:.2f} ms, off by {off_ms:+.2f} ms"
                f" where {tolerance_ms:.2f} ms are tolerated: quieten the machine or raise tolerance.rtt_ms"
            )
    return problems


def judge_jitter(which: Direction, spec: LinkSpec, delays_ms: Sequence[float], report: LinkReport) -> list[str]:
    """The width of the middle half of the delays against that of the declared law, with three standard errors on top of
    the tolerance; a few late packets do not change it, as they would a standard deviation."""
    side = spec.direction(which)
    if not side.jitter_ms:
        return []
    declared_ms = middle_half_ms(side)
    unsaid = "jitter's correlation" if side.correlation_pct else "reordering" if side.reorder_pct else ""
    unsaid = unsaid or ("slots" if side.slot else "")
    if unsaid or declared_ms is None or len(delays_ms) < FEWEST_JITTER_PROBES:
        why = f"{unsaid} changes its spread" if unsaid else f"{len(delays_ms)} probes are too few"
        if declared_ms is None:
            why = f"tc's table of the {side.distribution} distribution is not found"
        report.skipped.append(f"jitter {which}: {why}")
        return []
    low, _, high = statistics.quantiles(delays_ms, n=4)
    observed_ms = side.jitter_ms * (high - low) / declared_ms
    report.observed.setdefault(which, {})["jitter_ms"] = observed_ms
    error_pct = 100 * 1.2 / len(delays_ms) ** 0.5  # of a quartile distance: 1 for a uniform law, 1.17 for a normal one
    tolerance_pct = spec.tolerance.jitter_pct + 3 * error_pct
    off_pct = 100 * (observed_ms / side.jitter_ms - 1)
    if abs(off_pct) <= tolerance_pct:
        return []
    return [
        f"jitter {which}: declared {side.jitter_ms:g} ms {side.distribution}, observed {observed_ms:.2f} ms, off by"
        f" {off_pct:+.0f} % where {tolerance_pct:.0f} % are tolerated: quieten the machine or raise"
        " tolerance.jitter_pct"
    ]


def judge_loss(which: Direction, spec: LinkSpec, sent: int, numbers: list[int], report: LinkReport) -> list[str]:
    """`numbers` are those of the probes that arrived, in order of arrival."""
    side, arrived = spec.direction(which), set(numbers)
    lost = sent - len(arrived)
    reordered = sum(1 for before, after in pairwise(numbers) if after < before)
    independent = independent_share(side)
    low, high = binomial.interval(
        round(lost * independent), max(1, round(sent * independent)), spec.tolerance.loss_confidence
    )
    report.observed.setdefault(which, {}).update(
        loss_pct=100 * lost / max(1, sent),
        loss_interval_pct=[100 * low, 100 * high],
        probes=sent,
        mean_burst=mean_burst(sent, arrived),
        reordered=reordered,
        duplicates=len(numbers) - len(arrived),
    )
    problems = []
    if side.corrupt_pct:
        report.skipped.append(f"loss {which}: corrupted packets are lost too, in a share that depends on their content")
    elif not low <= side.mean_loss_pct / 100 <= high:
        problems.append(
            f"loss {which}: declared {side.mean_loss_pct:g} %, observed {lost} of {sent} probes, whose"
            f" {100 * spec.tolerance.loss_confidence:g} % interval is {100 * low:.2f} to {100 * high:.2f} %:"
            f" raise link.{which}.queue_packets if the queue overflows, or quieten the machine"
        )
    if reordered and not side.reorder_pct and not side.duplicate_pct:
        problems.append(f"order {which}: {reordered} of {sent} probes overtook another, though none was declared to")
    return problems


def judge_rate(
    which: Direction, spec: LinkSpec, arrivals_ns: list[int], offered_mbps: float, report: LinkReport
) -> list[str]:
    side = spec.direction(which)
    if side.slot:
        report.skipped.append(f"rate {which}: slots hold packets back")
        return []
    declared_mbps = frames_rate_mbps(side)
    if not fills(side, offered_mbps):
        report.skipped.append(
            f"rate {which}: the prober could offer only {offered_mbps:.0f} Mbit/s, too little to fill it"
        )
        return []
    rate_mbps = arrival_rate_mbps(arrivals_ns, settling_s(side))
    report.observed.setdefault(which, {}).update(rate_mbps=rate_mbps, goodput_mbps=rate_mbps * PAYLOAD_SHARE)
    off_pct = 100 * (rate_mbps / declared_mbps - 1)
    if abs(off_pct) <= spec.tolerance.rate_pct:
        return []
    return [
        f"rate {which}: declared {declared_mbps:g} Mbit/s, observed {rate_mbps:.3g}, off by {off_pct:+.1f} %"
        f" where {spec.tolerance.rate_pct:g} % are tolerated: lower link.{which}.rate_mbps, quieten"
        " the machine or raise tolerance.rate_pct"
    ]


def expected_delay_ms(side: DirectionSpec) -> float:
    """The median, of a probe: an asymmetric jitter's is not `delay_ms`, and packets that overtake wait for nothing."""
    at_once = side.reorder_pct / 100 / (side.reorder_gap or 1)
    median_ms = delay_quantile_ms(side, (0.5 - at_once) / (1 - at_once)) if at_once < 0.5 else 0.0
    return (side.delay_ms if median_ms is None else median_ms) + serialising_ms(side)


def longest_ms(side: DirectionSpec) -> float:
    """That a probe should take at most; slots that send only so much at once may keep it longer."""
    return side.delay_ms + furthest_ms(side) + serialising_ms(side) + (side.slot.longest_ms if side.slot else 0.0)


def serialising_ms(side: DirectionSpec) -> float:
    """Of a sparse probe; the bucket of a rate that varies has been filled for it meanwhile."""
    if side.rate_mbps is None or side.has_bottleneck:
        return 0.0
    return paced_bits(side, PROBE_FRAME_BITS) / (side.rate_mbps * 1e3)


def paced_bits(side: DirectionSpec, frame_bits: int) -> int:
    """What netem's rate counts of a frame: with its overhead, in whole cells where there are any."""
    length = frame_bits // 8 + side.rate_overhead_bytes
    if side.rate_cell_bytes:
        length = -(-length // side.rate_cell_bytes) * (side.rate_cell_bytes + side.rate_cell_overhead_bytes)
    return 8 * length


def frames_rate_mbps(side: DirectionSpec) -> float:
    """Of full frames, at the declared rate, which counts overheads and cells too."""
    return (side.rate_mbps or 0.0) * STREAM_FRAME_BITS / paced_bits(side, STREAM_FRAME_BITS)


def fills(side: DirectionSpec, offered_mbps: float) -> bool:
    return offered_mbps >= 1.1 * frames_rate_mbps(side)


def deviation_of_ms(side: DirectionSpec) -> float:
    return side.jitter_ms / 3**0.5 if side.distribution == "uniform" else side.jitter_ms


def independent_share(side: DirectionSpec) -> float:
    """Bursts make probes tell less: how many independent ones each is worth, for a two-state chain."""
    bursty = side.gilbert or side.loss_states
    memory = bursty.memory if bursty else side.loss_correlation_pct / 100
    return max(0.01, (1 - memory) / (1 + memory)) if memory > 0 else 1.0


def mean_burst(sent: int, arrived: set[int]) -> float | None:
    """Mean number of probes lost in a row; None without a loss."""
    missing = [number for number in range(sent) if number not in arrived]
    bursts = sum(1 for number in missing if number - 1 in arrived or number == 0)
    return len(missing) / bursts if bursts else None


def settling_s(side: DirectionSpec) -> float:
    """From a stream's first arrival on, until more waits than jitter can make up for: then, since packets keep their
    order, the rate alone spaces them."""
    return furthest_ms(side) / 1e3 / (1 - 1 / OFFERED_OVER_DECLARED)


def arrival_rate_mbps(arrivals_ns: Sequence[int], settled_after_s: float) -> float:
    """Slope of packets over time by least squares, once settled and past the first third (the queue is filling)."""
    begun_ns = min(arrivals_ns, default=0) + settled_after_s * 1e9
    settled = sorted(arrival for arrival in arrivals_ns if arrival >= begun_ns)
    late = settled[len(settled) // 3 :]
    if len(late) < 3:
        return 0.0
    times_s = [(arrival - late[0]) / 1e9 for arrival in late]
    slope = statistics.linear_regression(times_s, range(len(times_s))).slope
    return slope * STREAM_FRAME_BITS / 1e6


def spread(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median": statistics.median(ordered),
        "min": ordered[0],
        "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "std": statistics.pstdev(ordered),
        "probes": len(ordered),
    }
