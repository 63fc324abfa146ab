"""Records made by hand, whose figures one can work out on paper."""

from __future__ import annotations

from experiments.summary import summarise
from nodes.composition import load_system
from nodes.probes.sampler import Sample
from nodes.records import RequestRecord, RoundRecord

MS = 1_000_000
DSSD = load_system("dssd")
EDGE_AR = load_system("edge_ar")


def a_round(number=1, accepted=2, drafted=4, request="dssd/p/0", system="dssd", start_ms=0, **changes) -> RoundRecord:
    """100 ms: draft 20, encode 1, up 15, edge 50 (queue 5, verify 40, else 5), down 10, resolve 4."""
    start_ns = start_ms * MS
    fields = {
        "system": system,
        "request_id": request,
        "repeat": 0,
        "warmup": False,
        "round": number,
        "attempt": 0,
        "epoch": 0,
        "start_ns": start_ns,
        "sent_ns": start_ns + 21 * MS,
        "edge_arrived_ns": start_ns + 36 * MS,
        "received_ns": start_ns + 96 * MS,
        "end_ns": start_ns + 100 * MS,
        "draft_ms": 20.0,
        "encode_ms": 1.0,
        "roundtrip_ms": 75.0,
        "edge_ms": 50.0,
        "queue_ms": 5.0,
        "verify_ms": 40.0,
        "network_ms": 25.0,
        "resolve_ms": 4.0,
        "n_drafted": drafted,
        "n_accepted": accepted,
        "n_emitted": accepted + 1,
        "up_wire_bytes": 60,
        "down_wire_bytes": 300,
        "up_ideal_bytes": 32,
        "down_ideal_bytes": 200,
    }
    return RoundRecord(**{**fields, **changes})


def a_request(tokens=6, e2e_ms=200.0, request="dssd/p/0", system="dssd", start_ms=0, **changes) -> RequestRecord:
    settled = [100.0 if i < tokens // 2 else e2e_ms for i in range(tokens)]
    fields = {
        "system": system,
        "request_id": request,
        "prompt_id": "p",
        "repeat": 0,
        "warmup": False,
        "prompt_tokens": 10,
        "output_tokens": tokens,
        "tokens": [0] * tokens,
        "text": "",
        "finish_reason": "length",
        "start_ns": start_ms * MS,
        "end_ns": round((start_ms + e2e_ms) * MS),
        "ttft_ms": 100.0,
        "tpot_ms": 20.0,
        "e2e_ms": e2e_ms,
        "token_ms": settled,
        "rounds": 2,
        "retries": 0,
        "resumed": 0,
        "labels": ["toy"],
    }
    return RequestRecord(**{**fields, **changes})


def summary_of(rounds, requests, systems=(DSSD,), **more):
    return summarise("n", "id", systems, rounds, requests, **more)


def watts(node, w, status="modelled", until_ms=1000):
    return [
        Sample(t * MS, node, f"{node}_probe", "node", w * t / 1e3, "j", status, True)
        for t in range(0, until_ms + 1, 10)
    ]
