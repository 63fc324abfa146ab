"""What an edge does with what it should not have been sent: answer or drop it, count it, and serve on."""

from __future__ import annotations

import random
import sys

import msgspec
import numpy as np
import pytest
from harness import Setup

from nodes.edge import MAX_LEGS, EdgeNode, compare
from nodes.methods import Score, method_class
from nodes.session import Session
from transport.link import Arrival
from transport.messages import Error, Header, Hello, Kind, Open, Proposal, ReplyHeader, Verdict
from transport.wire import MAGIC, PROTOCOL, pack, unpack_body, unpack_header


class Wire:
    """Collects what the edge sends, by peer."""

    def __init__(self):
        self.sent: dict[bytes, list[list[bytes]]] = {}

    def send(self, peer, frames):
        self.sent.setdefault(peer, []).append(frames)
        return 0

    def receive(self, timeout_s=None):
        return None

    def close(self):
        pass


class Peer:
    """A device, frame by frame."""

    def __init__(self, node, link, name=b"device"):
        self.node, self.link, self.name = node, link, name

    def say(self, *frames):
        """Everything the edge sent back to this peer."""
        before = len(self.link.sent.get(self.name, []))
        self.node.handle(Arrival(self.name, list(frames), 0))
        while self.node.batcher.due_ns() is not None:
            self.node.batcher.fire()
        return self.link.sent.get(self.name, [])[before:]

    def hello(self, system="token_match", **changes):
        spec = self.node.spec
        contract = {**spec.agreement(spec.system(system) or spec.systems[0], self.node.engine), **changes}
        return self.say(*pack(Header(Kind.HELLO), Hello(PROTOCOL, system, contract)))

    def send(self, up, number=1, session=1, **header):
        return self.say(*pack(Header(Kind.ROUND, session=session, round=number, **header), up))

    def open(self, session=1, prompt_tokens=2, max_new_tokens=8):
        return self.say(*pack(Header(Kind.OPEN, session=session), Open(1, 7, max_new_tokens, prompt_tokens)))

    def round(self, number=1, tokens=(3,), session=1, **header):
        return self.send(Proposal(list(tokens)), number, session, **{"base": 0, "carry": [1, 2], **header})


def errors(replies):
    found = []
    for frames in replies:
        if unpack_header(frames, ReplyHeader).kind == Kind.ERROR:
            found.append(unpack_body(frames, Error))
    return found


def kinds(replies):
    return [unpack_header(frames, ReplyHeader).kind for frames in replies]


def peer_of(system):
    setup, link = Setup([system]), Wire()
    return Peer(EdgeNode(setup.spec(), setup.engine("target"), link), link)


@pytest.fixture
def peer():
    return peer_of("token_match")


def served(peer, session=1, number=1):
    """A normal round still works."""
    peer.open(session=session)
    return kinds(peer.round(number, session=session)) == [Kind.REPLY]


def test_the_normal_way(peer):
    assert kinds(peer.hello()) == [Kind.WELCOME]
    assert served(peer)


def test_every_difference_is_named_with_both_values(peer):
    [error] = errors(peer.hello(vocab_size=99, sampling={"temperature": 0.5}))
    assert error.code == "refused"
    assert "vocab_size: device 99, edge 12" in error.message
    assert "sampling.temperature: device 0.5, edge 1.0" in error.message
    assert compare({"a": 1}, {"a": 1, "b": 2}) == ["b: device None, edge 2"]


def test_an_unknown_system_and_an_old_protocol_are_refused(peer):
    assert "serves: token_match" in errors(peer.hello("nonsense"))[0].message
    [error] = errors(peer.say(*pack(Header(Kind.HELLO), Hello(PROTOCOL + 1, "token_match", {}))))
    assert error.code == "refused"
    frames = pack(Header(Kind.HELLO), Hello(PROTOCOL, "token_match", {}))
    [error] = errors(peer.say(b"DSD\x63", *frames[1:]))
    assert "protocol version 99" in error.message


@pytest.mark.parametrize(
    ("header", "tokens", "code"),
    [
        ({"session": 5}, [3], "unknown_session"),
        ({"base": 9}, [3], "unknown_session"),
        ({}, [12], "protocol"),  # outside the vocabulary
        ({"carry": [1, 99]}, [3], "protocol"),
        ({"carry": []}, [3], "protocol"),  # a session begins with nothing
        ({"leg": 3}, [3], "unknown_session"),
        ({"carry": [1] * (1 << 21)}, [3], "protocol"),  # longer than the model takes
    ],
    ids=str,
)
def test_a_wrong_round_is_refused_and_the_next_is_served(peer, header, tokens, code):
    peer.hello()
    peer.open()
    [error] = errors(peer.round(1, tokens, **header))
    assert error.code == code
    assert served(peer, session=2)
    assert peer.node.counters[f"error_{code}"] == 1


def test_a_stale_epoch_is_dropped_and_counted(peer):
    peer.hello()
    peer.open()
    peer.round(1, [3], epoch=4)
    held = len(peer.node.sessions[b"device", 1].tokens)
    assert peer.round(2, [3], epoch=3, base=held, carry=[]) == []
    assert peer.node.counters["stale_dropped"] == 1


def test_a_retry_is_answered_again_with_the_same_bytes_but_the_work_is_done_once(peer):
    peer.hello()
    peer.open()
    first = peer.round(1, [3, 4])
    tokens = list(peer.node.sessions[b"device", 1].tokens)
    again = peer.round(1, [3, 4], attempt=1)
    assert again == first
    assert peer.node.sessions[b"device", 1].tokens == tokens
    assert peer.round(1, [3, 4], attempt=2, have=1) == []


@pytest.mark.parametrize("room", range(18, 24))
def test_a_round_asked_anew_fits_where_the_first_did(peer, room):
    """What was given up takes no room: neither the prompt of a first round, nor what a later one carried."""
    peer.node.engine.max_tokens = room
    peer.hello()
    peer.open(prompt_tokens=10)
    first = {"carry": [1] * 10, "base": 0}
    for number in (1, 2, 3):
        assert kinds(peer.round(number, [3] * 4, **first)) == [Kind.REPLY]
    held = len(peer.node.sessions[b"device", 1].tokens)
    later = {"carry": [1] * 5, "base": held}
    answers = [kinds(peer.round(number, [3] * 4, **later)) for number in (4, 5)]
    assert answers == [[Kind.REPLY if held + 5 + 4 <= room else Kind.ERROR]] * 2


def test_a_forged_session_reaches_nobody_elses(peer):
    peer.hello()
    served(peer)
    before = list(peer.node.sessions[b"device", 1].tokens)
    stranger = Peer(peer.node, peer.link, b"stranger")
    [error] = errors(stranger.round(2, [3], base=len(before), carry=[5]))
    assert error.code == "unknown_session"
    assert stranger.say(*pack(Header(Kind.CLOSE, session=1), msgspec.defstruct("C", [])())) == []
    assert peer.node.sessions[b"device", 1].tokens == before


def test_sessions_are_bounded(peer):
    peer.hello()
    for number in range(1, 600):
        peer.open(session=number)
    assert len(peer.node.sessions) == peer.node.spec.edge.max_sessions
    assert peer.node.counters["sessions_evicted"] > 0
    assert errors(peer.round(1, session=1))[0].code == "unknown_session"  # the device opens it again
    assert served(peer, session=1000)


def test_garbage_never_stops_the_edge(peer):
    """Random frames, and good messages with random damage."""
    peer.hello()
    chance = random.Random(1)
    good = [
        pack(Header(Kind.HELLO), Hello(PROTOCOL, "token_match", {"a": [1, {"b": None}]})),
        pack(Header(Kind.OPEN, session=3), Open(1, 7, 8, 2)),
        pack(Header(Kind.ROUND, session=1, round=1, carry=[1, 2]), Proposal([3, 4])),
        [MAGIC, b"\x93", b"\xc1"],
    ]
    for _ in range(3000):
        frames = [bytearray(frame) for frame in chance.choice(good)]
        for _ in range(chance.randrange(4)):
            frame = chance.choice(frames)
            if frame:
                frame[chance.randrange(len(frame))] = chance.randrange(256)
        if chance.random() < 0.3:
            frames = frames[: chance.randrange(len(frames) + 1)]
        if chance.random() < 0.3:
            frames.append(bytearray(chance.randbytes(chance.randrange(40))))
        peer.say(*map(bytes, frames))
    assert len(peer.node.sessions) <= peer.node.spec.edge.max_sessions
    assert peer.node.counters["error_protocol"] > 100
    assert served(Peer(peer.node, peer.link, b"honest"), session=77)


def test_a_contract_nested_however_deep_is_answered(peer):
    """What the decoder still reads may be too deep to be shown."""
    magic, header, body = pack(Header(Kind.HELLO), Hello(PROTOCOL, "token_match", {"a": None}))
    shallow = body.removesuffix(b"\xc0")
    deepest = sys.getrecursionlimit()
    for depth in (*range(0, deepest, 50), *range(deepest - 200, deepest + 50)):
        [error] = errors(peer.say(magic, header, shallow + b"\x91" * depth + b"\xc0"))
        assert error.code in ("refused", "protocol")
    assert served(peer)


@pytest.mark.parametrize(
    "ends",
    [lambda: None, lambda: Verdict(0, None), lambda: Verdict(0, [object()]), lambda: 1 / 0],
    ids=["nothing", "no tail", "no token", "error"],
)
def test_a_method_that_ends_badly_ends_its_session_alone(peer, ends, monkeypatch):
    def serve(up, base, coins):
        yield Score(up.tokens)
        return ends()

    peer.hello()
    assert served(peer, session=1)
    peer.open(session=2)
    with monkeypatch.context() as patched:
        patched.setattr(peer.node._served["token_match"].method, "serve", serve)
        [error] = errors(peer.round(session=2))
    assert error.code in ("protocol", "engine")
    assert [session for _, session in peer.node.sessions] == [1]
    held = len(peer.node.sessions[b"device", 1].tokens)
    assert kinds(peer.round(2, [3], base=held, carry=[])) == [Kind.REPLY]


def test_every_reply_of_a_stream_has_its_number_and_is_there_for_a_retry():
    peer, n = peer_of("edge_ar"), 4200
    peer.hello("edge_ar")
    peer.open(max_new_tokens=n)
    up = method_class("edge_ar").Up(tokens=[], limit=n)
    replies = peer.send(up, carry=[1, 2])
    headers = [unpack_header(frames, ReplyHeader) for frames in replies]
    assert [header.seq for header in headers] == list(range(n))
    assert [header.final for header in headers] == [False] * (n - 1) + [True]
    for have in (0, 1, n // 2, n - 1, n):
        assert peer.send(up, carry=[1, 2], have=have) == replies[have:]


def test_legs_without_end_are_refused():
    peer = peer_of("dssd_sampled")
    peer.hello("dssd_sampled")
    peer.open()
    row = peer.node.engine.forward([Session(peer.node.spec.sampling, [1, 2])], [1])[0].row(0)
    kind, none = method_class("dssd_sampled").Up, np.empty(0, dtype=np.float32)
    peer.send(kind(tokens=[int(row.argmin())], probs=np.ones(1, dtype=np.float32)), carry=[1, 2])  # a hopeless draft
    asked = [peer.send(kind(tokens=[], probs=none, more=1), leg=leg) for leg in range(1, 3 * MAX_LEGS)]
    answered = [replies for replies in asked if kinds(replies) == [Kind.REPLY]]
    assert len(answered) == MAX_LEGS and len(peer.node.sessions[b"device", 1].replies) == 1 + MAX_LEGS
