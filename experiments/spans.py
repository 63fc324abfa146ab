"""What each node was doing when, from the round records: the spans that timelines, traces and energy are made of.

A device's spans follow one another and add up to the round. An edge's are placed by its own clock where that is the
device's too; otherwise, and where a round had several legs, in the middle of the round trip.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from experiments.clocks import edge_clock
from experiments.store import RunFolder
from nodes.records import RoundRecord


class Span(NamedTuple):
    """Nanoseconds of the device's clock; `part` is a key of report/palette.PARTS."""

    node: str
    part: str
    t0_ns: int
    t1_ns: int
    record: RoundRecord


def shared_clock(folder: RunFolder) -> bool:
    """Whether both nodes' instants may be compared: one clock, or two that the run compared."""
    return edge_clock(folder.path) is not None


def spans_of(rounds: Iterable[RoundRecord], one_clock: bool) -> Iterator[Span]:
    """All spans of these rounds, which are in the order written."""
    streamed_ns: dict[str, int] = {}  # by request: where the edge's work for its last streamed reply ended
    for record in rounds:
        yield from _device_spans(record, one_clock)
        if record.received_ns:
            yield from _edge_spans(record, one_clock, streamed_ns)


def _device_spans(record: RoundRecord, one_clock: bool) -> Iterator[Span]:
    parts = _streamed_ms(record) if record.received_ns and not record.sent_ns else _exchanged_ms(record, one_clock)
    t_ns = float(record.start_ns)
    for part, ms in parts:
        if ms > 0:
            yield Span("device", part, round(t_ns), round(t_ns + ms * 1e6), record)
            t_ns += ms * 1e6
    if record.lookahead_ms > 0 and record.sent_ns:
        yield Span("device", "lookahead", record.sent_ns, record.sent_ns + round(record.lookahead_ms * 1e6), record)


def _exchanged_ms(record: RoundRecord, one_clock: bool) -> list[tuple[str, float]]:
    network_ms = max(record.network_ms, 0.0)
    up_ms = min(max((record.edge_arrived_ns - record.sent_ns) / 1e6, 0.0), network_ms)
    if record.legs > 1 or not one_clock:
        up_ms = network_ms / 2
    return [
        ("draft", record.draft_ms),
        ("encode", record.encode_ms),
        ("network_up", up_ms),
        ("edge", record.roundtrip_ms - network_ms),
        ("network_down", network_ms - up_ms),
        ("resolve", record.resolve_ms),
    ]


def _streamed_ms(record: RoundRecord) -> list[tuple[str, float]]:
    """Of a further reply of a stream, which may have come in while the one before was being settled."""
    waited_ms = min(max(record.received_ns, record.start_ns), record.end_ns) / 1e6 - record.start_ns / 1e6
    network_ms = min(max(record.network_ms, 0.0), waited_ms)
    return [
        ("edge", waited_ms - network_ms),
        ("network_down", network_ms),
        ("resolve", (record.end_ns - record.start_ns) / 1e6 - waited_ms),
    ]


def _edge_spans(record: RoundRecord, one_clock: bool, streamed_ns: dict[str, int]) -> Iterator[Span]:
    edge_ns = round(record.edge_ms * 1e6)
    if not record.sent_ns:  # the edge went on by itself
        t_ns = streamed_ns.get(record.request_id, record.received_ns - edge_ns)
    elif record.legs > 1 or not one_clock:
        t_ns = (record.sent_ns + record.received_ns - edge_ns) // 2
    else:
        t_ns = record.edge_arrived_ns
    streamed_ns[record.request_id] = t_ns + edge_ns
    other_ms = record.edge_ms - record.queue_ms - record.verify_ms
    verify_ms = record.verify_ms - record.edge_draft_ms
    parts = (
        ("draft", record.edge_draft_ms), ("queue", record.queue_ms), ("verify", verify_ms), ("edge_other", other_ms),
    )  # fmt: skip
    for part, ms in parts:
        if ms > 0:
            end_ns = t_ns + round(ms * 1e6)
            yield Span("edge", part, t_ns, end_ns, record)
            t_ns = end_ns


def describe(record: RoundRecord) -> dict[str, Any]:
    """What a reader of a trace wants to know about a round."""
    return {
        "system": record.system,
        "drafted": record.n_drafted,
        "accepted": record.n_accepted,
        "emitted": record.n_emitted,
        "up_bytes": record.up_wire_bytes,
        "down_bytes": record.down_wire_bytes,
        "attempt": record.attempt,
    }
