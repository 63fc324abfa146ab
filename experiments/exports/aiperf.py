"""Requests in the shape of aiperf's `profile_export.jsonl` (NVIDIA AIPerf, "Working with profile export files"): what
reads those reads ours. A benchmark there is one system of one run here, with a file of its own:

    OUT/<run>/<system>/profile_export.jsonl

Metrics with aiperf's names mean what they mean there: `inter_token_latency` is (last - first token) / (tokens - 1),
`inter_chunk_latency` the gaps between tokens that arrived apart. Ours are beside them with names of our own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from experiments.collection import Collection
from experiments.exports import files_for
from experiments.exports.reading import Recorded, recorded
from experiments.store import StoreError
from nodes.records import RequestRecord, RoundRecord

FILE = "profile_export.jsonl"


def write_aiperf(found: Collection, out: Path, force: bool, told: list[str]) -> dict[str, int]:
    """Returns the requests in each file. Raises StoreError."""
    lines: dict[Path, list[str]] = {}
    for one in recorded(found, told):
        try:
            wall_ns = _wall_minus_monotonic_ns(one)
        except StoreError as error:
            told.append(f"left out: {error}")
            continue
        for request in one.requests:
            mine = lines.setdefault(out / one.run.label / request.system / FILE, [])
            record = _record(len(mine), one, request, one.rounds[request.request_id], wall_ns)
            mine.append(json.dumps(record) + "\n")
    if not lines:
        raise StoreError("\n  ".join(["none of these runs can be exported:", *told]))
    with files_for(list(lines), force) as temporary:
        for path, content in zip(temporary, lines.values()):
            path.write_text("".join(content), encoding="utf-8")
    return {str(path): len(content) for path, content in lines.items()}


def _record(
    number: int, one: Recorded, request: RequestRecord, rounds: list[RoundRecord], wall_ns: int
) -> dict[str, Any]:
    cancelled = request.finish_reason == "interrupted"
    end_ns = request.end_ns + wall_ns
    error = {"code": None, "type": "RequestError", "message": request.error} if request.error else None
    return {
        "metadata": {
            "session_num": number,
            "x_request_id": f"{one.run.label}/{request.request_id}",
            "x_correlation_id": f"{one.run.label}/{request.request_id}",
            "conversation_id": request.prompt_id,
            "turn_index": 0,
            "request_start_ns": request.start_ns + wall_ns,
            "request_ack_ns": None,
            "request_end_ns": end_ns,
            "worker_id": f"{one.run.host or 'device'}/{request.system}",
            "record_processor_id": "dssd",
            "benchmark_phase": "warmup" if request.warmup else "profiling",
            "was_cancelled": cancelled,
            "cancellation_time_ns": end_ns if cancelled else None,
        },
        "metrics": {name: {"value": value, "unit": unit} for name, value, unit in _metrics(request, rounds)},
        "error": error,
    }


def _metrics(request: RequestRecord, rounds: list[RoundRecord]) -> Iterable[tuple[str, Any, str]]:
    if request.error:
        yield "error_isl", request.prompt_tokens, "tokens"
        return
    yield "input_sequence_length", request.prompt_tokens, "tokens"
    yield "output_sequence_length", request.output_tokens, "tokens"
    yield "output_token_count", request.output_tokens, "tokens"
    yield "request_latency", request.e2e_ms, "ms"
    if request.token_ms:
        yield "time_to_first_token", request.ttft_ms, "ms"
    if len(request.token_ms) > 1:
        yield "time_to_second_token", request.token_ms[1] - request.token_ms[0], "ms"
    if request.tpot_ms:
        yield "inter_token_latency", request.tpot_ms, "ms"
        yield "output_token_throughput_per_user", 1000 / request.tpot_ms, "tokens/sec/user"
    arrivals = sorted(set(request.token_ms))
    if len(arrivals) > 1:
        yield "inter_chunk_latency", [late - early for early, late in pairwise(arrivals)], "ms"
    yield "spec_decode_rounds", len(rounds), "rounds"
    yield "spec_decode_draft_tokens", sum(record.n_drafted for record in rounds), "tokens"
    yield "spec_decode_accepted_tokens", sum(record.n_accepted for record in rounds), "tokens"
    yield "unverified_tokens", sum(record.n_unverified for record in rounds), "tokens"
    yield "network_time", sum(record.network_ms for record in rounds), "ms"
    yield "uplink_bytes", sum(record.up_wire_bytes for record in rounds), "bytes"
    yield "downlink_bytes", sum(record.down_wire_bytes for record in rounds), "bytes"


def _wall_minus_monotonic_ns(one: Recorded) -> int:
    """Of the device's machine: by its sampler's header, or, on one machine, by the manifest."""
    here = {} if one.run.manifest.get("hosts") else one.run.manifest.get("clock") or {}
    for clock in (one.folder.trace_header("device").get("clock") or {}, here):
        if {"wall_ns", "monotonic_ns"} <= clock.keys():
            return int(clock["wall_ns"]) - int(clock["monotonic_ns"])
    raise StoreError(f"{one.run.path}: what the device's clock was beside the wall's was not recorded")
