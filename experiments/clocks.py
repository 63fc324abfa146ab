"""The edge's instants in the device's clock, by what the device measured; or nothing, where it measured nothing.

Two hosts' clocks are never subtracted: without a comparison `edge_clock` is None.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from nodes.probes.sampler import Sample
from nodes.records import RoundRecord
from transport.clock import SAME_CLOCK, Offset


def recorded_clock(run: Path) -> dict[str, Any]:
    """What the device found out about the edge's clock (see nodes/alignment.py); empty where it did not end well."""
    try:
        left = json.loads((run / "device.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return left.get("clock") or {} if isinstance(left, dict) else {}


def edge_clock(run: Path) -> Offset | None:
    """Edge's clock against the device's. Without a record of it, one clock if both nodes ran on one machine: a boot
    that one trace names alone says nothing of the other node, and a comparison that failed is none."""
    recorded = recorded_clock(run)
    if recorded.get("offset") is not None:
        return msgspec.convert(recorded["offset"], Offset)
    one_machine = _shared_machine(run) and len(_boots(run)) < 2
    return SAME_CLOCK if one_machine and not recorded.get("problem") else None


def _shared_machine(run: Path) -> bool:
    try:
        told = json.loads((run / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and told.get("shared_machine") is True


def _boots(run: Path) -> set[str]:
    boots = set()
    for trace in run.glob("power.*.jsonl"):
        with trace.open("rb") as file:
            line = file.readline()
        try:
            boots.add(json.loads(line)["header"]["clock"]["boot_id"])
        except (ValueError, KeyError, TypeError):  # cut short before its first line was whole
            continue
    return boots


def describe_clock(run: Path, instants_ns: Sequence[int]) -> dict[str, Any]:
    """For the summary: `error_ms` bounds every one-way time between the first and the last of these instants of the
    device's clock. None where the clocks were not compared."""
    offset, recorded = edge_clock(run), recorded_clock(run)
    return {
        "compared": offset is not None,
        "same": offset == SAME_CLOCK,
        "offset_ms": offset.offset_ns / 1e6 if offset else None,
        "error_ms": max(map(offset.error_at_ns, instants_ns), default=offset.error_ns) / 1e6 if offset else None,
        "drift_ppm": offset.drift_ppm if offset else None,
        "path": recorded.get("path", "none"),
        "problem": recorded.get("problem", ""),
    }


def round_on_device_clock(record: RoundRecord, offset: Offset) -> RoundRecord:
    if offset == SAME_CLOCK or not record.edge_arrived_ns:
        return record
    return msgspec.structs.replace(record, edge_arrived_ns=offset.to_local_ns(record.edge_arrived_ns))


def sample_on_device_clock(sample: Sample, offset: Offset) -> Sample:
    if offset == SAME_CLOCK or sample.node != "edge":
        return sample
    return sample._replace(t_ns=offset.to_local_ns(sample.t_ns))
