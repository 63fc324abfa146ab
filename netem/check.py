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
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from netem.errors import LinkError
from netem.judge import (
    OFFERED_OVER_DECLARED,
    ONE_WAY,
    PROBE_FRAME_BITS,
    STREAM_FRAME_BITS,
    LinkReport,
    fills,
    judge_delays,
    judge_jitter,
    judge_loss,
    judge_rate,
    longest_ms,
    paced_bits,
    settling_s,
)
from netem.spec import DIRECTIONS, Direction, DirectionSpec, LinkSpec

__all__ = ["Endpoint", "Ends", "LinkReport", "check_link"]

RTT_PHASE_S, JITTER_PHASE_S, LOSS_PHASE_S, RATE_PHASE_S = 0.7, 3.0, 1.0, 0.4
SPARSE_MS = 5.0
BOTH_AT_ONCE_MBPS = 100.0  # beyond, two senders, two receivers and the router would compete for the processor
MOST_PROBES_PER_S = 5000  # what a Python process sends and a user-mode Linux router forwards without strain
FEWEST_LOSS_PROBES, FEWEST_WANTED = 200, 1000
LOSSES_TO_SEE = 200
FEWEST_STREAM_PACKETS = 45
FILL_ATTEMPTS = 3
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


def check_link(
    lab: Ends, spec: LinkSpec | None = None, one_clock: bool = True, loss_phase_s: float = LOSS_PHASE_S
) -> LinkReport:
    """Measure the lab's link against `spec` (default: the one it was opened with). Takes 2 to 4 seconds, more on a
    link of long delays, and for a rare loss where `loss_phase_s` gives it the time. Without `one_clock`, between two
    machines, a one-way delay cannot be told, and only the round trip is judged.

    Raises LinkError when nothing at all comes through, or when a probe process fails.
    """
    started_s = time.monotonic()
    report = LinkReport(declared=(spec or lab.spec).model_dump(), applied=lab.applied)
    spec = (spec or lab.spec).at_start()
    if shut := [which for which in DIRECTIONS if spec.direction(which).rate_mbps == 0]:
        report.skipped.append(f"everything: the trace of {' and '.join(shut)} begins with a rate of 0")
        return report
    measure_loss = partial(_measure_loss, phase_s=loss_phase_s)
    for name, measure in (("rtt", _measure_rtt), ("loss", measure_loss), ("rate", _measure_rate)):
        problems = _told(measure(lab, spec, report), one_clock)
        if problems:
            report.repeated.append(name)
            problems = _told(measure(lab, spec, report), one_clock)
        report.problems += problems
    if not one_clock:
        report.skipped.append("delay of each way: two machines have two clocks")
        for which in DIRECTIONS:
            report.observed.get(which, {}).pop("delay_ms", None)
            report.delays_ms.pop(which, None)
    report.skipped = list(dict.fromkeys(report.skipped))
    report.duration_s = round(time.monotonic() - started_s, 3)
    return report


def _told(problems: list[str], one_clock: bool) -> list[str]:
    return [problem for problem in problems if one_clock or not problem.startswith(ONE_WAY)]


def _measure_rtt(lab: Ends, spec: LinkSpec, report: LinkReport) -> list[str]:
    """Sparse probes. Jitter adds four standard errors to the tolerance."""
    interval_ms = max(_apart_ms(spec.direction(which)) for which in DIRECTIONS)
    phase_s = JITTER_PHASE_S if spec.up.jitter_ms or spec.down.jitter_ms else RTT_PHASE_S
    count = max(12, round(phase_s * 1e3 / interval_ms))
    heard = _ask(lab, count, interval_ms, _longest_ms(spec))
    if not heard.answers:
        loss = max(spec.up.mean_loss_pct, spec.down.mean_loss_pct)
        hint = f" (declared loss {loss:g} %)" if loss else ""
        raise LinkError(f"none of {count} probes came back{hint}: is the link cut?")
    delays_ms = {"rtt": heard.column_ms(2), "up": heard.column_ms(3), "down": heard.column_ms(4)}
    problems = judge_delays(spec, delays_ms, report)
    for which in DIRECTIONS:
        problems += judge_jitter(which, spec, delays_ms[which], report)
    return problems


def _measure_loss(lab: Ends, spec: LinkSpec, report: LinkReport, phase_s: float) -> list[str]:
    """Dense probes; what did not reach the edge was lost on the way up, what of its answers is missing,
    down.
    """
    per_s = min(MOST_PROBES_PER_S, *(_probes_per_s(spec.direction(which)) for which in DIRECTIONS))
    wanted = max(FEWEST_WANTED, *(_probes_for_loss(spec.direction(which)) for which in DIRECTIONS))
    count = int(min(wanted, per_s * phase_s))
    if count < FEWEST_LOSS_PROBES:
        report.skipped.append(f"loss: {count} probes in {phase_s:g} s are too few to tell (slow or short link)")
        return []
    heard = _ask(lab, count, max(1e3 / per_s, 1e3 * min(phase_s, LOSS_PHASE_S) / count), _longest_ms(spec))
    answered = heard.answered_numbers
    arrivals = {
        "up": (heard.sent, heard.arrived_numbers),
        "down": (len(answered), [answer[1] for answer in heard.answers]),
    }
    problems = []
    for which in DIRECTIONS:
        sent, numbers = arrivals[which]
        problems += judge_loss(which, spec, sent, numbers, report)
    return problems


def _measure_rate(lab: Ends, spec: LinkSpec, report: LinkReport) -> list[str]:
    rated = [which for which in DIRECTIONS if spec.direction(which).rate_mbps is not None]
    report.skipped += [f"rate {which}: none declared" for which in DIRECTIONS if which not in rated]
    total_mbps = sum(spec.direction(which).rate_mbps or 0.0 for which in rated)
    with ThreadPoolExecutor(1 if total_mbps > BOTH_AT_ONCE_MBPS else 2) as pool:
        measured = list(pool.map(lambda which: _fill(lab, which, spec.direction(which)), rated))
    problems = []
    for which, (arrivals_ns, offered_mbps) in zip(rated, measured):
        problems += judge_rate(which, spec, arrivals_ns, offered_mbps, report)
    return problems


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


def _ask(lab: Ends, count: int, interval_ms: float, longest_ms: float = 0.0) -> _Heard:
    with _answerer(lab.edge) as (port, finish):
        arguments = ["ask", lab.edge.address, port, count, round(interval_ms * 1e3), round(longest_ms * 1e3)]
        said = _run(lab.device, arguments, count * interval_ms + longest_ms)
        arrived = finish()
    return _Heard(said["sent"], said["answers"], arrived["numbers"])


def _fill(lab: Ends, which: Direction, side: DirectionSpec) -> tuple[list[int], float]:
    """A stream that fills the link; on a busy machine the sender may be held up, and gets other chances."""
    for _ in range(FILL_ATTEMPTS):
        arrivals_ns, offered_mbps = _stream(lab, which, side)
        if fills(side, offered_mbps):
            break
    return arrivals_ns, offered_mbps


def _stream(lab: Ends, which: Direction, side: DirectionSpec) -> tuple[list[int], float]:
    """Arrival times at the receiver, and the rate really offered."""
    sender, receiver = (lab.device, lab.edge) if which == "up" else (lab.edge, lab.device)
    rate_mbps, kept = side.rate_mbps or 0.0, _kept(side)
    count, pace_mbps = _to_stream(side)
    with _answerer(receiver) as (port, finish):
        arguments = ["stream", receiver.address, port, count, pace_mbps]
        said = _run(sender, arguments, 1e3 * count * STREAM_FRAME_BITS / (pace_mbps * 1e6))
        backlog_s = count * kept * STREAM_FRAME_BITS / (rate_mbps * 1e6) - said["seconds"]
        time.sleep(max(0.0, backlog_s) + longest_ms(side) / 1e3 + 0.1)
        arrived = finish()
    return arrived["arrivals_ns"], kept * count * STREAM_FRAME_BITS / max(said["seconds"], 1e-6) / 1e6


def _to_stream(side: DirectionSpec) -> tuple[int, float]:
    """Packets, and the pace (Mbit/s) at which they leave."""
    rate_mbps = side.rate_mbps or 0.0
    per_s = rate_mbps * 1e6 / STREAM_FRAME_BITS
    count = max(FEWEST_STREAM_PACKETS, per_s * RATE_PHASE_S) + per_s * settling_s(side)
    return round(count / _kept(side)), rate_mbps * OFFERED_OVER_DECLARED / _kept(side)


def _kept(side: DirectionSpec) -> float:
    """Share of packets that are not lost."""
    return max(0.1, 1 - side.mean_loss_pct / 100)


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


def _longest_ms(spec: LinkSpec) -> float:
    """That a round trip should take at most."""
    return sum(longest_ms(spec.direction(which)) for which in DIRECTIONS)


def _apart_ms(side: DirectionSpec) -> float:
    """So far that no probe waits for the one before: for its turn at a low rate, or because jitter, but for the far
    tails, let it catch up, since the link keeps their order."""
    reach_ms = (2 if side.distribution == "uniform" else 3) * side.jitter_ms
    return max(SPARSE_MS, reach_ms, 1e3 / _probes_per_s(side))


def _probes_per_s(side: DirectionSpec) -> float:
    """A pace that fills neither half the rate nor half the queue (netem's queue holds the packets in
    flight).
    """
    by_rate = 0.5 * side.rate_mbps * 1e6 / paced_bits(side, PROBE_FRAME_BITS) if side.rate_mbps else MOST_PROBES_PER_S
    in_flight_s = (side.delay_ms + side.jitter_ms) / 1e3
    return min(by_rate, 0.5 * side.limit_packets / in_flight_s if in_flight_s else MOST_PROBES_PER_S)


def _probes_for_loss(side: DirectionSpec) -> int:
    """So many that some LOSSES_TO_SEE events happen, an event being a burst where losses come in bursts."""
    bursty = side.gilbert or side.loss_states
    per_event = bursty.mean_burst if bursty else 1.0
    return round(LOSSES_TO_SEE * per_event / (side.mean_loss_pct / 100)) if side.mean_loss_pct else 0
