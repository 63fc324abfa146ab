"""A run's records as the plots want them: read once, warm-up and failed requests left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.report.plot import Figures, Style
from experiments.spans import shared_clock
from experiments.store import RunFolder
from nodes.probes.energy import Counter, counters
from nodes.records import RequestRecord, RoundRecord
from nodes.tcp_trace import TcpSample


@dataclass(frozen=True)
class RunData:
    systems: Sequence[Figures]  # the summary's
    requests: Sequence[RequestRecord]
    rounds: Mapping[str, Sequence[RoundRecord]]  # by request, in the order written
    power: Sequence[Counter]  # what counts towards each node's energy
    power_missing: Mapping[str, str]  # by node without any: the reason
    tcp: Sequence[TcpSample]
    one_clock: bool  # both nodes' times may be subtracted
    style: Style


def read_run(folder: RunFolder, summary: Mapping[str, Any]) -> RunData:
    systems = summary["systems"]
    names = {figures["system"] for figures in systems}
    requests = [r for r in folder.requests().records if not r.warmup and not r.error and r.system in names]
    rounds: dict[str, list[RoundRecord]] = {request.request_id: [] for request in requests}
    for record in folder.rounds().records:
        if not record.warmup and record.request_id in rounds:
            rounds[record.request_id].append(record)
    power = counters(folder.samples())
    sources = folder.energy_sources()
    missing = {
        node: str((sources.get(node) or {}).get("reason") or "no samples")
        for node in ("device", "edge")
        if not any(counter.node == node for counter in power)
    }
    return RunData(systems, requests, rounds, power, missing, folder.tcp(), shared_clock(folder), Style(systems))
