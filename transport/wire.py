"""Frames: [magic + version][header][body][raw little-endian buffer]...; msgpack by msgspec, nothing executes.

Counts and sizes are checked before anything is decoded, so garbage costs the reader nothing but the look.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np

from transport.messages import Encoded

PROTOCOL = 1
MAGIC = b"DSD" + bytes([PROTOCOL])
MAX_BUFFERS = 1024
MAX_HEADER_BYTES = 8 * 1024 * 1024  # a long prompt rides in the header's carry
INLINE_BYTES = 4096  # a shorter row rides in the body: a frame of its own costs 35 bytes under CURVE
UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)  # what msgspec raises for bytes from outside

T = TypeVar("T")


class WireError(ValueError):
    """Frames this version cannot have been sent; the message says what is wrong with them."""


def pack(header: msgspec.Struct, body: msgspec.Struct) -> list[bytes]:
    """Header and body to frames. Large rows become raw frames of their own, in the order they are met."""
    buffers: list[bytes] = []

    def hook(value: Any) -> Any:
        if isinstance(value, Encoded):
            if value.nbytes < INLINE_BYTES:
                return bytes(value.data)
            buffers.append(bytes(value.data))
            return len(buffers) - 1
        if isinstance(value, np.ndarray):
            return np.ascontiguousarray(value, dtype="<f4").tobytes()
        if isinstance(value, np.integer):
            return int(value)
        raise NotImplementedError(f"{type(value).__name__} does not go on the wire")

    encoder = msgspec.msgpack.Encoder(enc_hook=hook)
    return [MAGIC, encoder.encode(header), encoder.encode(body), *buffers]


def unpack_header(frames: Sequence[bytes], kind: type[T]) -> T:
    """The header alone: enough to know whose message it is. Raises WireError."""
    if len(frames) < 3 or len(frames) > 3 + MAX_BUFFERS:
        raise WireError(f"{len(frames)} frames; a message has 3 to {3 + MAX_BUFFERS}")
    if frames[0][:3] != MAGIC[:3]:
        raise WireError("not a message of this testbed (wrong magic)")
    if frames[0] != MAGIC:
        version = frames[0][3] if len(frames[0]) > 3 else "none"
        remedy = "install the same release on both nodes"
        raise WireError(f"protocol version {version}, this node speaks {PROTOCOL}: {remedy}")
    if len(frames[1]) > MAX_HEADER_BYTES:
        raise WireError(f"header of {len(frames[1])} bytes, at most {MAX_HEADER_BYTES}")
    try:
        return msgspec.msgpack.decode(frames[1], type=kind)
    except UNREADABLE as error:
        raise WireError(f"bad header: {error}") from error


def unpack_body(frames: Sequence[bytes], kind: type[T]) -> T:
    """The body, typed. Raises WireError on a wrong shape, a missing or unused buffer, a NaN."""
    buffers = frames[3:]
    used = 0

    def hook(wanted: Any, value: Any) -> Any:
        nonlocal used
        if wanted is Encoded:
            if isinstance(value, bytes):
                return Encoded(value)
            if not isinstance(value, int) or value != used or value >= len(buffers):
                raise ValueError("a row refers to a frame that is not there")
            used += 1
            return Encoded(buffers[value])
        if not isinstance(value, bytes) or len(value) % 4:
            raise ValueError("packed floats must be a multiple of 4 bytes")
        floats = np.frombuffer(value, dtype="<f4")
        if not np.isfinite(floats).all():
            raise ValueError("packed floats must be finite")
        return floats

    try:
        body = msgspec.msgpack.decode(frames[2], type=kind, dec_hook=hook)
    except UNREADABLE as error:
        raise WireError(f"bad {kind.__name__}: {error}") from error
    if used != len(buffers):
        raise WireError(f"{len(buffers)} buffer frames, {used} referred to")
    return body


def wire_bytes(frames: Sequence[bytes]) -> int:
    """What our frames weigh, before ZMTP, CURVE, TCP and IP add theirs."""
    return sum(map(len, frames))
