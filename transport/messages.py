"""The shapes that cross the wire. What they mean is the method's business; framing is wire.py's."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

Token = Annotated[int, Meta(ge=0, lt=2**31)]
Count = Annotated[int, Meta(ge=0, lt=2**31)]
Floats = NDArray[np.float32]  # travels as packed little-endian float32, 4 bytes a value


class Encoded:
    """One row as its codec wrote it. Small ones ride in the body, large ones in a frame of their own."""

    __slots__ = ("data",)

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = data

    @property
    def nbytes(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        return f"Encoded({self.nbytes} bytes)"


class Kind(IntEnum):
    """What a message is. The body's type follows from the kind (and, for rounds, from the method)."""

    HELLO = 1  # device → edge: the contract the device wants, before any session
    WELCOME = 2  # edge → device: agreed; the contract's number
    OPEN = 3  # device → edge: a session begins (no answer)
    ROUND = 4  # device → edge: a method's Up
    REPLY = 5  # edge → device: a method's Down
    ERROR = 6  # edge → device: why the message was not served
    CLOSE = 7  # device → edge: the session is over (no answer)


class Header(Struct, array_like=True, forbid_unknown_fields=True):
    """Device → edge, on every message; the runtime's, invisible to methods."""

    kind: Kind
    session: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    round: Count = 0
    attempt: Count = 0
    leg: Count = 0  # 0 opens the round; a follow-up within the round is 1, 2, ...
    epoch: Count = 0  # rejections so far: an older epoch is stale, the edge drops and counts it
    base: Count = 0  # tokens the edge already holds (checked: else a protocol error)
    have: Count = 0  # replies of this round the device already received (a retry asks only for the rest)
    carry: list[Token] = []  # committed tokens the edge has not seen: prompt, resampled or unverified ones


class ReplyHeader(Struct, array_like=True, forbid_unknown_fields=True):
    """Edge → device, on every message. All but the stamp are durations on the edge's clock."""

    kind: Kind
    session: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    round: Count = 0
    seq: Count = 0  # number of this reply within its round
    final: bool = True  # the round ends with this reply
    arrived_ns: int = 0  # when the message being answered reached the edge (edge's monotonic clock)
    residence_us: int = 0  # from that arrival to this reply being handed to the socket
    queue_us: int = 0  # of which: waiting for the engine, while others had it, and for the batch to fire
    compute_us: int = 0  # of which: inside engine forwards this session took part in
    batch: int = 0  # sessions that shared the last forward
    draft_us: int = 0  # of compute_us: the edge's own draft model


class Proposal(Struct, array_like=True, forbid_unknown_fields=True):
    """Device → edge. Methods add fields."""

    tokens: list[Token]


class Verdict(Struct, array_like=True, forbid_unknown_fields=True):
    """Edge → device. `tail` follows the accepted draft tokens; empty: the edge knows no next one yet."""

    n_accepted: Count
    tail: list[Token]


class Hello(Struct, forbid_unknown_fields=True):
    """The handshake: everything both ends must agree on before the first round; any difference refuses."""

    protocol: int
    system: str
    contract: dict[str, Any]


class Welcome(Struct, forbid_unknown_fields=True):
    number: int  # the contract's number on this edge
    node: dict[str, Any] = {}  # what the edge says of itself: engine, version, host


class Open(Struct, forbid_unknown_fields=True):
    """A session begins. `coins` keys its random coins, whatever connection carries it."""

    contract: Count
    coins: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    max_new_tokens: Count
    prompt_tokens: Count  # the first tokens of the session are the prompt; the rest count as output
    stop: list[str] = []  # strings that end the output
    ignore_eos: bool = False


class Closed(Struct, forbid_unknown_fields=True):
    reason: str = ""


class Error(Struct, forbid_unknown_fields=True):
    """code: protocol | refused | unknown_session | capacity | engine. `remedy` says what mends it."""

    code: str
    message: str
    remedy: str = ""


def payload_bytes(message: Struct) -> int:
    """Size of a message as papers count it: 4 bytes a token, count or float, rows as encoded, no framing."""
    total = 0
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if isinstance(value, Encoded):
            total += value.nbytes
        elif isinstance(value, np.ndarray):
            total += 4 * value.size
        elif isinstance(value, list):
            total += sum(v.nbytes if isinstance(v, Encoded) else 4 for v in value)
        elif isinstance(value, int):
            total += 4
    return total
