"""What every round and request logs: one JSON line each, written as it happens, so a killed run keeps what it had.

Times `*_ns` are the device's monotonic clock; `edge_*_ns` the edge's (subtract them only with the measured offset).
Durations carry their unit. A round's parts add up: draft + encode + network + edge + resolve = total, where
network = round trip - edge residence.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Literal

import msgspec
from msgspec import Struct


class RoundRecord(Struct):
    """One exchange: draft → verify → resolve. A streamed request logs one record per reply."""

    system: str
    request_id: str
    repeat: int
    warmup: bool
    round: int
    attempt: int  # times it was sent again: after a silence, a lost connection or reply, to a restarted edge
    epoch: int
    start_ns: int  # drafting begins
    sent_ns: int = 0  # handed to the socket's thread; 0: nothing was sent
    received_ns: int = 0  # stamped by the socket's thread
    end_ns: int = 0  # tokens settled
    edge_arrived_ns: int = 0
    draft_ms: float = 0.0  # on the critical path: look-ahead work hidden behind the wait is in lookahead_ms
    lookahead_ms: float = 0.0
    encode_ms: float = 0.0
    roundtrip_ms: float = 0.0  # sent → received, follow-up legs summed
    edge_ms: float = 0.0  # of which the edge's residence
    queue_ms: float = 0.0  # of which waiting for the engine and for its batch
    verify_ms: float = 0.0  # of which in engine forwards
    edge_draft_ms: float = 0.0  # of which those of the edge's own draft model
    network_ms: float = 0.0  # roundtrip - edge residence
    resolve_ms: float = 0.0
    policy_ms: float = 0.0  # how long to draft, whether to send, learning from the round: inside the other parts
    batch: int = 0  # sessions that shared the forward
    legs: int = 1
    n_drafted: int = 0
    n_accepted: int = 0
    n_emitted: int = 0  # tokens this round added to the output
    n_unverified: int = 0  # of which the target never saw before they were final
    lookahead_hit: bool | None = None  # None: no guess was made
    n_discarded: int = 0  # look-ahead tokens thrown away
    up_ideal_bytes: int = 0  # the paper's formula: payload only, 4-byte ids
    down_ideal_bytes: int = 0
    up_wire_bytes: int = 0  # our frames, those sent again included
    down_wire_bytes: int = 0


Maker = Literal["accepted", "corrected", "bonus", "target", "unverified"]


def makers(record: RoundRecord) -> list[Maker]:
    """Who made each token that the round added, in order: the draft (`accepted` by the edge), the rule that follows a
    rejection (`corrected`), the edge after a draft that stood whole (`bonus`) or where nothing was drafted (`target`),
    or the device with nobody asked (`unverified`)."""
    if record.n_unverified:
        return ["unverified"] * record.n_emitted
    n_accepted = min(record.n_accepted, record.n_emitted)
    follows: Maker = "target"
    if record.n_drafted:
        follows = "corrected" if record.n_accepted < record.n_drafted else "bonus"
    accepted: list[Maker] = ["accepted"] * n_accepted
    return accepted + [follows] * (record.n_emitted - n_accepted)


class RequestRecord(Struct):
    """One prompt to its last token."""

    system: str
    request_id: str
    prompt_id: str
    repeat: int
    warmup: bool
    prompt_tokens: int
    output_tokens: int
    tokens: list[int]
    text: str
    finish_reason: str  # length | eos | stop | interrupted
    start_ns: int
    end_ns: int
    ttft_ms: float  # start → first token settled on the device
    tpot_ms: float | None  # (last - first token) / (tokens - 1)
    e2e_ms: float
    token_ms: list[float]  # when each output token was settled, after start
    rounds: int
    retries: int  # times a round was sent again
    resumed: int  # times the session was re-opened on an edge that did not have it
    labels: list[str]  # "paced", "toy"
    link_up_bytes: int | None = None  # the interface's own counters, everything included; None on loopback
    link_down_bytes: int | None = None
    kept: bool | None = None  # by the route, on the device; None: there was nothing to decide
    route_ms: float = 0.0  # deciding that, inside the first round's draft_ms
    error: str = ""  # what ended a request that failed; its tokens are those settled until then


class RecordWriter:
    """Appends records to `rounds.jsonl` and `requests.jsonl` in a directory; a request and its rounds are flushed
    together when the request ends."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._rounds: IO[bytes] = (directory / "rounds.jsonl").open("ab")
        self._requests: IO[bytes] = (directory / "requests.jsonl").open("ab")

    def round(self, record: RoundRecord) -> None:
        self._rounds.write(msgspec.json.encode(record) + b"\n")

    def request(self, record: RequestRecord) -> None:
        self._requests.write(msgspec.json.encode(record) + b"\n")
        self.flush()

    def flush(self) -> None:
        self._rounds.flush()
        self._requests.flush()

    def close(self) -> None:
        self._rounds.close()
        self._requests.close()
