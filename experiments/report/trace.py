"""trace.json: the run as Chrome trace events, to be opened in Perfetto or chrome://tracing.

One process per node, one lane per phase, an arrow per message, power and clock frequencies as counters. Microseconds
since the first span.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from experiments.report.palette import PARTS
from experiments.report.timeline import power_step_ms
from experiments.spans import Span, describe, shared_clock, spans_of
from experiments.store import RunFolder, replacing
from nodes.probes.energy import counters, power_w
from nodes.records import RoundRecord

PIDS = {"device": 1, "edge": 2}
REQUESTS_LANE = 1
LANES = {part: lane for lane, part in enumerate(PARTS, REQUESTS_LANE + 1)}
Event = dict[str, Any]


def write_trace(folder: RunFolder) -> Path:
    """Write the run's trace.json, warm-up included, and return its path."""
    path = folder.path / "trace.json"
    encoder = msgspec.json.Encoder()
    with replacing(path) as temporary, temporary.open("wb") as out:
        out.write(b'{"displayTimeUnit": "ms", "traceEvents": [\n')
        out.write(b",\n".join(encoder.encode(event) for event in _events(folder)))
        out.write(b"\n]}\n")
    return path


def _events(folder: RunFolder) -> Iterator[Event]:
    one_clock = shared_clock(folder)
    spans = list(spans_of(folder.rounds().records, one_clock))
    requests = folder.requests().records
    zero_ns = min([*(span.t0_ns for span in spans), *(request.start_ns for request in requests)], default=0)

    def us(t_ns: int) -> float:
        return (t_ns - zero_ns) / 1e3

    yield from _names(spans, one_clock)
    for request in requests:
        yield {
            "ph": "X", "name": request.system, "cat": "request", "pid": PIDS["device"], "tid": REQUESTS_LANE,
            "ts": us(request.start_ns), "dur": (request.end_ns - request.start_ns) / 1e3,
            "args": {"request": request.request_id, "tokens": request.output_tokens, "warmup": request.warmup,
                     "finish": request.finish_reason, "retries": request.retries, "error": request.error},
        }  # fmt: skip
    told: RoundRecord | None = None
    for span in spans:
        record = span.record
        details = {} if record is told else describe(record)
        yield {
            "ph": "X", "name": PARTS[span.part][0], "cat": span.node, "pid": PIDS[span.node], "tid": LANES[span.part],
            "ts": us(span.t0_ns), "dur": (span.t1_ns - span.t0_ns) / 1e3,
            "args": {"request": record.request_id, "round": record.round, **details},
        }  # fmt: skip
        told = record  # a round's first span says all there is to say about it: traces grow large
    for number, (name, tail, head) in enumerate(_messages(spans)):
        flow = {"name": name, "cat": "message", "id": number}
        yield {**flow, "ph": "s", "pid": PIDS[tail.node], "tid": LANES[tail.part], "ts": us(tail.t0_ns)}
        yield {**flow, "ph": "f", "bp": "e", "pid": PIDS[head.node], "tid": LANES[head.part], "ts": us(head.t0_ns)}
    yield from _power(folder, zero_ns, one_clock)
    yield from _frequency(folder, zero_ns, one_clock)


def _names(spans: list[Span], one_clock: bool) -> Iterator[Event]:
    """Process and lane names, in the order in which they are to be shown."""
    for node, pid in PIDS.items():
        placed = "" if node == "device" or one_clock else " (another clock: placed in the middle of the round trip)"
        yield {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": node + placed}}
        yield {"ph": "M", "name": "process_sort_index", "pid": pid, "args": {"sort_index": pid}}
        used = {LANES[span.part]: PARTS[span.part][0] for span in spans if span.node == node}
        if node == "device":
            used[REQUESTS_LANE] = "requests"
        for lane, label in sorted(used.items()):
            yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": lane, "args": {"name": label}}
            yield {"ph": "M", "name": "thread_sort_index", "pid": pid, "tid": lane, "args": {"sort_index": lane}}


def _messages(spans: list[Span]) -> Iterator[tuple[str, Span, Span]]:
    """(name, the span it leaves from, the span it arrives in): up from the sending, down to the settling."""
    by_round: dict[tuple[str, int], list[Span]] = {}
    for span in spans:
        by_round.setdefault((span.record.request_id, span.record.round), []).append(span)
    for mine in by_round.values():
        up = next((span for span in mine if span.part == "network_up"), None)
        at_edge = [span for span in mine if span.node == "edge"]
        settling = next((span for span in mine if span.part == "resolve"), None)
        if up and at_edge:
            yield "up", up, at_edge[0]
        if at_edge and settling:
            yield "down", at_edge[-1], settling


def _power(folder: RunFolder, zero_ns: int, one_clock: bool) -> Iterator[Event]:
    """Mean watts per step; of another machine's edge there is no saying when, so it is left out."""
    counted = counters(folder.samples())
    for node in PIDS if one_clock else ["device"]:
        t_ns, watts = power_w(counted, node, power_step_ms(counted))
        for t, w in zip(t_ns.tolist(), watts.tolist()):
            if not np.isnan(w) and t >= zero_ns:
                yield {"ph": "C", "name": "power (W)", "pid": PIDS[node], "ts": (t - zero_ns) / 1e3, "args": {"W": w}}


def _frequency(folder: RunFolder, zero_ns: int, one_clock: bool) -> Iterator[Event]:
    """Of processors and graphics units, as sampled: every channel in hertz. One value before the first span is kept,
    because what was so then is so until it changes."""
    before: dict[tuple[str, str], float] = {}
    for sample in folder.samples():
        if sample.unit != "hz" or sample.node not in (PIDS if one_clock else ["device"]):
            continue
        track, mhz = (sample.node, sample.channel), sample.value / 1e6
        if sample.t_ns < zero_ns:
            before[track] = mhz
            continue
        if track in before:
            yield _mhz(*track, 0.0, before.pop(track))
        yield _mhz(*track, (sample.t_ns - zero_ns) / 1e3, mhz)


def _mhz(node: str, channel: str, ts: float, mhz: float) -> Event:
    return {"ph": "C", "name": f"{channel} (MHz)", "pid": PIDS[node], "ts": ts, "args": {"MHz": mhz}}
