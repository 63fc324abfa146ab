"""Is the link what it was declared to be? Measured with our own packets, before a run is allowed to believe
it.

    report = check_link(lab)      # LinkReport: declared, applied, observed, problems, skipped
    report.require()              # raises LinkError if it is off

Three measurements, each repeated once if it fails, so that neither a busy moment nor the one-in-a-hundred
surprise that a 99 % interval allows refuses an honest link: round trip (sparse probes), loss (dense probes,
as many as the time allows), rate (a stream half as fast again as declared, its arrivals timed).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Protocol

from netem import binomial
from netem.errors import LinkError
from netem.probe import FRAME_OVERHEAD_BYTES, PROBE_BYTES, STREAM_BYTES
from netem.spec import DIRECTIONS, Direction, DirectionSpec, LinkSpec

PROBE_FRAME_BITS = (PROBE_BYTES + FRAME_OVERHEAD_BYTES) * 8
STREAM_FRAME_BITS = (STREAM_BYTES + FRAME_OVERHEAD_BYTES) * 8
RTT_PHASE_S, LOSS_PHASE_S, RATE_PHASE_S = 0.7, 1.0, 0.4
BOTH_AT_ONCE_MBPS = 100.0  # beyond, two senders, two receivers and the router would compete for the processor
MOST_PROBES_PER_S = 5000  # what a Python process sends and a user-mode Linux router forwards without strain
FEWEST_LOSS_PROBES = 200
FEWEST_STREAM_PACKETS = 45
OFFERED_OVER_DECLARED = 1.5
ONE_WAY = "delay"  # how a problem with one begins
START_S = 20.0  # for a probe process on a busy machine


class Endpoint(Protocol):
    """One end of the link: how a command gets there, and the one that runs probe.py there."""

    @property
    def name(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def prober(self) -> Sequence[str]: ...
    def wrap(self, argv: Sequence[str]) -> list[str]: ...


class Ends(Protocol):
    """A lab, or two machines."""

    @property
    def device(self) -> Endpoint: ...
    @property
    def edge(self) -> Endpoint: ...
    @property
    def spec(self) -> LinkSpec: ...
    @property
    def applied(self) -> Mapping[str, Any]: ...


@dataclass
class LinkReport:
    """`observed` has rtt_ms {median min p95 probes} and, per direction, delay_ms, loss_pct, rate_mbps and
    so on.
    """

    declared: dict[str, Any]
    applied: Mapping[str, Any]
    observed: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
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


def check_link(lab: Ends, spec: LinkSpec | None = None, one_clock: bool = True) -> LinkReport:
    """Measure the lab's link against `spec` (default: the one it was opened with). Takes 2 to 4 seconds. Without
    `one_clock`, between two machines, a one-way delay cannot be told, and only the round trip is judged.

    Raises LinkError when nothing at all comes through, or when a probe process fails.
    """
    spec = spec or lab.spec
    started_s = time.monotonic()
    report = LinkReport(declared=spec.model_dump(), applied=lab.applied)
    for name, measure in (("rtt", _measure_rtt), ("loss", _measure_loss), ("rate", _measure_rate)):
        problems = _told(measure(lab, spec, report), one_clock)
        if problems:
            report.repeated.append(name)
            problems = _told(measure(lab, spec, report), one_clock)
        report.problems += problems
    if not one_clock:
        report.skipped.append("delay of each way: two machines have two clocks")
        for which in DIRECTIONS:
            report.observed.get(which, {}).pop("delay_ms", None)
    report.skipped = list(dict.fromkeys(report.skipped))
    report.duration_s = round(time.monotonic() - started_s, 3)
    return report


def _told(problems: list[str], one_clock: bool) -> list[str]:
    return [problem for problem in problems if one_clock or not problem.startswith(ONE_WAY)]


def _measure_rtt(lab: Ends, spec: LinkSpec, report: LinkReport) -> list[str]:
    """Sparse probes: so far apart that jitter does not let one catch up with another, since the link keeps
    their order and would hold the second back. Jitter adds four standard errors to the tolerance."""
    interval_ms = max(5.0, *(_reach_ms(spec.direction(which)) for which in DIRECTIONS))
    count = max(12, round(RTT_PHASE_S * 1e3 / interval_ms))
    heard = _ask(lab, count, interval_ms)
    if not heard.answers:
        loss = max(spec.up.mean_loss_pct, spec.down.mean_loss_pct)
        hint = f" (declared loss {loss:g} %)" if loss else ""
        raise LinkError(f"none of {count} probes came back{hint}: is the link cut?")
    expected = {which: _expected_delay_ms(spec.direction(which)) for which in DIRECTIONS}
    deviation_ms = sum(_deviation_ms(spec.direction(which)) ** 2 for which in DIRECTIONS) ** 0.5
    tolerance_ms = spec.tolerance.rtt_ms + 4 * deviation_ms / len(heard.answers) ** 0.5
    times = {"rtt": heard.column_ms(2), "up": heard.column_ms(3), "down": heard.column_ms(4)}
    problems = []
    wanted = {"rtt": expected["up"] + expected["down"], "up": expected["up"], "down": expected["down"]}
    for what, want in wanted.items():
        found = _spread(times[what])
        if what == "rtt":
            report.observed["rtt_ms"] = found
        else:
            report.observed.setdefault(what, {})["delay_ms"] = found
        off_ms = found["median"] - want
        if abs(off_ms) > tolerance_ms:
            name = "round trip" if what == "rtt" else f"{ONE_WAY} {what}"
            problems.append(
                f"{name}: declared {want:.2f} ms, observed {found['median']:.2f} ms, off by {off_ms:+.2f} ms"
                f" where {tolerance_ms:.2f} ms are tolerated: quieten the machine or raise tolerance.rtt_ms"
            )
    return problems


def _measure_loss(lab: Ends, spec: LinkSpec, report: LinkReport) -> list[str]:
    """Dense probes; what did not reach the edge was lost on the way up, what of its answers is missing,
    down.
    """
    per_s = min(MOST_PROBES_PER_S, *(_probes_per_s(spec.direction(which)) for which in DIRECTIONS))
    smallest = min((spec.direction(which).mean_loss_pct for which in DIRECTIONS if _loses(spec, which)), default=0.0)
    wanted = 1000 if not smallest else max(1000, round(80 / (smallest / 100)))
    count = int(min(wanted, per_s * LOSS_PHASE_S))
    if count < FEWEST_LOSS_PROBES:
        report.skipped.append(f"loss: {count} probes in {LOSS_PHASE_S:g} s are too few to tell (slow or short link)")
        return []
    heard = _ask(lab, count, 1e3 * LOSS_PHASE_S / count)
    answered = heard.answered_numbers
    arrivals = {
        "up": (heard.sent, heard.arrived_numbers),
        "down": (len(answered), [answer[1] for answer in heard.answers]),
    }
    problems = []
    for which in DIRECTIONS:
        sent, numbers = arrivals[which]
        problems += _judge_loss(which, spec, sent, numbers, report)
    return problems


def _judge_loss(which: Direction, spec: LinkSpec, sent: int, numbers: list[int], report: LinkReport) -> list[str]:
    side, arrived = spec.direction(which), set(numbers)
    lost = sent - len(arrived)
    reordered = sum(1 for before, after in pairwise(numbers) if after < before)
    independent = _independent_share(side)
    low, high = binomial.interval(
        round(lost * independent), max(1, round(sent * independent)), spec.tolerance.loss_confidence
    )
    report.observed.setdefault(which, {}).update(
        loss_pct=100 * lost / max(1, sent),
        loss_interval_pct=[100 * low, 100 * high],
        probes=sent,
        mean_burst=_mean_burst(sent, arrived),
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


def _measure_rate(lab: Ends, spec: LinkSpec, report: LinkReport) -> list[str]:
    rated = [which for which in DIRECTIONS if spec.direction(which).rate_mbps is not None]
    report.skipped += [f"rate {which}: none declared" for which in DIRECTIONS if which not in rated]
    total_mbps = sum(spec.direction(which).rate_mbps or 0.0 for which in rated)
    with ThreadPoolExecutor(1 if total_mbps > BOTH_AT_ONCE_MBPS else 2) as pool:
        measured = list(pool.map(lambda which: _stream(lab, which, spec.direction(which)), rated))
    problems = []
    for which, (arrivals_ns, offered_mbps) in zip(rated, measured):
        problems += _judge_rate(which, spec, arrivals_ns, offered_mbps, report)
    return problems


def _judge_rate(
    which: Direction, spec: LinkSpec, arrivals_ns: list[int], offered_mbps: float, report: LinkReport
) -> list[str]:
    declared_mbps = spec.direction(which).rate_mbps or 0.0
    if offered_mbps < 1.1 * declared_mbps:
        report.skipped.append(
            f"rate {which}: the prober could offer only {offered_mbps:.0f} Mbit/s, too little to fill it"
        )
        return []
    rate_mbps = _arrival_rate_mbps(arrivals_ns)
    report.observed.setdefault(which, {})["rate_mbps"] = rate_mbps
    off_pct = 100 * (rate_mbps / declared_mbps - 1)
    if abs(off_pct) <= spec.tolerance.rate_pct:
        return []
    return [
        f"rate {which}: declared {declared_mbps:g} Mbit/s, observed {rate_mbps:.3g}, off by {off_pct:+.1f} %"
        f" where {spec.tolerance.rate_pct:g} % are tolerated: lower link.{which}.rate_mbps, quieten"
        " the machine or raise tolerance.rate_pct"
    ]


@dataclass
class _Heard:
    """What a series of probes told: the asker's answers and the answerer's own count."""

    sent: int
    answers: list[list[int]]  # number, answer's number, round trip, up, down (ns)
    arrived_numbers: list[int]

    def column_ms(self, column: int) -> list[float]:
        return [answer[column] / 1e6 for answer in self.answers]

    @property
    def answered_numbers(self) -> list[int]:
        return self.arrived_numbers  # every arrival is answered, duplicates too


def _ask(lab: Ends, count: int, interval_ms: float) -> _Heard:
    with _answerer(lab.edge) as (port, finish):
        said = _run(lab.device, ["ask", lab.edge.address, port, count, round(interval_ms * 1e3)], count * interval_ms)
        arrived = finish()
    return _Heard(said["sent"], said["answers"], arrived["numbers"])


def _stream(lab: Ends, which: Direction, side: DirectionSpec) -> tuple[list[int], float]:
    """Arrival times at the receiver, and the rate really offered."""
    sender, receiver = (lab.device, lab.edge) if which == "up" else (lab.edge, lab.device)
    rate_mbps, kept = side.rate_mbps or 0.0, max(0.1, 1 - side.mean_loss_pct / 100)
    count = max(FEWEST_STREAM_PACKETS, round(rate_mbps * 1e6 * RATE_PHASE_S / STREAM_FRAME_BITS / kept))
    with _answerer(receiver) as (port, finish):
        arguments = ["stream", receiver.address, port, count, rate_mbps * OFFERED_OVER_DECLARED / kept]
        said = _run(sender, arguments, 1e4)
        backlog_s = count * kept * STREAM_FRAME_BITS / (rate_mbps * 1e6) - said["seconds"]
        time.sleep(max(0.0, backlog_s) + (side.delay_ms + side.jitter_ms) / 1e3 + 0.1)
        arrived = finish()
    return arrived["arrivals_ns"], kept * count * STREAM_FRAME_BITS / max(said["seconds"], 1e-6) / 1e6


def _command(host: Endpoint, arguments: Sequence[object]) -> list[str]:
    return host.wrap([*host.prober, *(str(word) for word in arguments)])


def _run(host: Endpoint, arguments: Sequence[object], expected_ms: float) -> dict[str, Any]:
    limit_s = START_S + 3 * expected_ms / 1e3
    try:
        done = subprocess.run(_command(host, arguments), capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise LinkError(f"the probe on the {host.name} host did not end within {limit_s:.0f} s") from None
    if done.returncode != 0:
        raise LinkError(f"the probe on the {host.name} host failed: {done.stderr.strip()}")
    return dict(json.loads(done.stdout))


@contextmanager
def _answerer(host: Endpoint) -> Iterator[tuple[int, Any]]:
    process = subprocess.Popen(
        _command(host, ["answer", host.address]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def finish() -> dict[str, Any]:
        output, error = process.communicate(timeout=START_S)
        if process.returncode != 0:
            raise LinkError(f"the probe on the {host.name} host failed: {error.strip()}")
        return dict(json.loads(output))

    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        if not first:
            finish()
        yield json.loads(first)["port"], finish
    finally:
        process.kill()
        process.communicate()


def _expected_delay_ms(side: DirectionSpec) -> float:
    return side.delay_ms + (PROBE_FRAME_BITS / (side.rate_mbps * 1e3) if side.rate_mbps else 0.0)


def _deviation_ms(side: DirectionSpec) -> float:
    return side.jitter_ms / 3**0.5 if side.distribution == "uniform" else side.jitter_ms


def _reach_ms(side: DirectionSpec) -> float:
    """How much later than another a packet may become by jitter, but for the far tails."""
    return (2 if side.distribution == "uniform" else 3) * side.jitter_ms


def _probes_per_s(side: DirectionSpec) -> float:
    """A pace that fills neither half the rate nor half the queue (netem's queue holds the packets in
    flight).
    """
    by_rate = 0.5 * side.rate_mbps * 1e6 / PROBE_FRAME_BITS if side.rate_mbps else MOST_PROBES_PER_S
    in_flight_s = (side.delay_ms + side.jitter_ms) / 1e3
    return min(by_rate, 0.5 * side.limit_packets / in_flight_s if in_flight_s else MOST_PROBES_PER_S)


def _loses(spec: LinkSpec, which: Direction) -> bool:
    return spec.direction(which).mean_loss_pct > 0


def _independent_share(side: DirectionSpec) -> float:
    """Bursts make probes tell less: how many independent ones each is worth, for a two-state chain."""
    if side.gilbert:
        memory = 1 - (side.gilbert.enter_pct + side.gilbert.leave_pct) / 100
    else:
        memory = side.loss_correlation_pct / 100
    return max(0.01, (1 - memory) / (1 + memory)) if memory > 0 else 1.0


def _mean_burst(sent: int, arrived: set[int]) -> float | None:
    """Mean number of probes lost in a row; None without a loss."""
    missing = [number for number in range(sent) if number not in arrived]
    bursts = sum(1 for number in missing if number - 1 in arrived or number == 0)
    return len(missing) / bursts if bursts else None


def _arrival_rate_mbps(arrivals_ns: list[int]) -> float:
    """Slope of packets over time by least squares, past the first third (the queue is filling)."""
    late = sorted(arrivals_ns)[len(arrivals_ns) // 3 :]
    if len(late) < 3:
        return 0.0
    times_s = [(arrival - late[0]) / 1e9 for arrival in late]
    slope = statistics.linear_regression(times_s, range(len(times_s))).slope
    return slope * STREAM_FRAME_BITS / 1e6


def _spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median": statistics.median(ordered),
        "min": ordered[0],
        "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "std": statistics.pstdev(ordered),
        "probes": len(ordered),
    }
