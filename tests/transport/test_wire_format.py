"""What goes in comes out; whatever else comes in is a WireError, quickly."""

import contextlib
import random

import msgspec
import numpy as np
import pytest

from transport.messages import (
    Encoded,
    Error,
    Floats,
    Header,
    Hello,
    Kind,
    Open,
    Proposal,
    ReplyHeader,
    Verdict,
    Welcome,
    payload_bytes,
)
from transport.wire import INLINE_BYTES, MAGIC, MAX_BUFFERS, WireError, pack, unpack_body, unpack_header, wire_bytes


class Up(Proposal):
    probs: Floats
    rows: list[Encoded] = []
    one: Encoded | None = None


def example(rows=(b"small", bytes(INLINE_BYTES), b"", bytes(10_000))):
    header = Header(Kind.ROUND, session=2**63 - 1, round=3, base=17, carry=[1, 2, 2**31 - 1])
    up = Up([5, 6], np.array([0.25, 1.0], np.float32), [Encoded(row) for row in rows], Encoded(b"x" * 5000))
    return header, up


def test_there_and_back():
    header, up = example()
    frames = pack(header, up)
    assert unpack_header(frames, Header) == header
    back = unpack_body(frames, Up)
    assert back.tokens == up.tokens and back.probs.tolist() == [0.25, 1.0] and back.probs.dtype == np.float32
    assert [bytes(row.data) for row in back.rows] == [bytes(row.data) for row in up.rows]
    assert bytes(back.one.data) == b"x" * 5000
    assert len(frames) == 3 + 3  # only rows from INLINE_BYTES up have a frame of their own
    assert wire_bytes(frames) == sum(map(len, frames)) < payload_bytes(up) + 150


def test_a_round_is_small():
    header = Header(Kind.ROUND, session=2**62, round=100, base=1000, carry=[40_000, 40_001])
    frames = pack(header, Up(list(range(40_000, 40_005)), np.full(5, 0.5, np.float32)))
    assert wire_bytes(frames) <= 64 + 5 * 10


def test_other_versions_and_other_protocols_are_named():
    header, up = example()
    frames = pack(header, up)
    with pytest.raises(WireError, match=r"version 9.*same release"):
        unpack_header([b"DSD\x09", *frames[1:]], Header)
    with pytest.raises(WireError, match="version none"):
        unpack_header([b"DSD", *frames[1:]], Header)
    with pytest.raises(WireError, match="wrong magic"):
        unpack_header([b"HTTP", *frames[1:]], Header)


def test_counts_are_bounded():
    header, up = example(())
    frames = pack(header, up)
    for count in (0, 1, 2):
        with pytest.raises(WireError, match="frames"):
            unpack_header(frames[:count], Header)
    with pytest.raises(WireError, match="frames"):
        unpack_header([*frames, *[b""] * MAX_BUFFERS], Header)


def test_buffers_must_match_what_the_body_says():
    header, up = example()
    frames = pack(header, up)
    with pytest.raises(WireError):
        unpack_body(frames[:-1], Up)
    with pytest.raises(WireError, match="buffer frames"):
        unpack_body([*frames, b"extra"], Up)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_floats_must_be_finite(value):
    with pytest.raises(WireError, match="finite"):
        unpack_body(pack(Header(Kind.ROUND), Up([1], np.array([value], np.float32))), Up)


@pytest.mark.parametrize("kind", [Header, ReplyHeader])
def test_header_fields_are_checked(kind):
    for bad in ([99], [4, -1], [4, 2**63], [4, "x"], {"kind": 4}, [], [4] + [0] * 40, None):
        with pytest.raises(WireError):
            unpack_header([MAGIC, msgspec.msgpack.encode(bad), b""], kind)


def test_huge_declared_counts_cost_nothing():
    for bomb in (b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\x91" * 100_000):
        with pytest.raises(WireError):
            unpack_header([MAGIC, bomb, b""], Header)
        for kind in (Up, Verdict, Open, Hello):
            with pytest.raises(WireError):
                unpack_body([MAGIC, b"", bomb], kind)


@pytest.mark.parametrize(
    "body",
    [
        Hello(1, "text", {}),
        Hello(1, "s", {"text": 1}),
        Welcome(1, {"a": "text"}),
        Error("text", ""),
        Open(0, 1, 2, 3, ["text"]),
    ],
    ids=repr,
)
def test_text_that_is_no_text_is_a_wire_error(body):
    magic, header, packed = pack(Header(Kind.HELLO), body)
    assert unpack_body([magic, header, packed], type(body)) == body
    with pytest.raises(WireError, match=f"bad {type(body).__name__}"):
        unpack_body([magic, header, packed.replace(b"text", b"te\xfft")], type(body))


def test_garbage_raises_wire_error_only():
    chance = random.Random(11)
    header, up = example()
    good = pack(header, up)
    kinds = [Up, Verdict, Open, Hello, Welcome, Error]
    for _ in range(3000):
        frames = [bytearray(frame) for frame in good]
        for _ in range(chance.randrange(1, 4)):
            victim = frames[chance.randrange(len(frames))]
            what = chance.random()
            if what < 0.4 and victim:
                victim[chance.randrange(len(victim))] = chance.randrange(256)
            elif what < 0.6:
                del victim[chance.randrange(len(victim) + 1) :]
            elif what < 0.8:
                victim[:] = chance.randbytes(chance.randrange(40))
            else:
                frames.pop(chance.randrange(len(frames)))
                frames = frames or [bytearray()]
        frames = [bytes(frame) for frame in frames]
        for kind in (Header, ReplyHeader):
            try:
                unpack_header(frames, kind)
            except WireError:
                continue
            with contextlib.suppress(WireError):
                unpack_body(frames, chance.choice(kinds))
