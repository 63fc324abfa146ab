"""What a device does with what an edge says: refusals, lost sessions, frames it cannot read."""

from __future__ import annotations

import json
import random
import time
from collections import deque

import msgspec
import pytest
from harness import Setup, composed, device_on, methods_with_edge, play, toy_edge

from nodes import conversation
from nodes.channel import EdgeError
from nodes.device import DeviceNode, jobs
from nodes.edge import EdgeNode
from nodes.engine import EngineError
from nodes.methods import method_class, method_names
from nodes.process import EXPECTED
from nodes.records import RecordWriter
from nodes.runspec import Timing
from transport.link import Arrival
from transport.messages import Encoded, Error, Header, Kind, ReplyHeader, Welcome
from transport.wire import MAGIC, pack, unpack_header

# A session that the edge will not have -----------------------------------------------------------------------------


@pytest.mark.parametrize("system", ["dssd", "dssd_lookahead", "sled", "edge_ar"])
def test_a_refused_session_ends_the_request_with_the_edges_own_words(system, tmp_path):
    setup = Setup([system], requests=1, max_new_tokens=8)
    with toy_edge(setup) as edge:
        device = device_on(setup, edge, tmp_path)
        device.agree()
        edge.node.engine.max_tokens = 9  # two of the prompt and eight new ones are ten
        with pytest.raises(EdgeError, match=r"2 prompt and 8 new tokens exceed the target's 9 \[refused\]"):
            device.serve(next(jobs(setup.spec())))
        counters = edge.node.counters
    assert counters["error_refused"] == 1


@pytest.mark.parametrize("system", ["dssd", "edge_ar"])
def test_an_edge_that_loses_every_session_is_given_up(system, tmp_path, monkeypatch):
    setup = Setup([system], requests=1)
    with toy_edge(setup) as edge:
        monkeypatch.setattr(edge.node, "_open", lambda peer, header, opening: None)
        device = device_on(setup, edge, tmp_path)
        with pytest.raises(EdgeError, match="session 11 is not open here"):
            device.run()
        assert edge.node.counters["error_unknown_session"] == 1 + conversation.RESUMES


# What does not fit is refused before anything is measured ------------------------------------------------------------


@pytest.mark.parametrize("system", ["dssd", "edge_ar", "device_ar", "hybrid_random"])
@pytest.mark.parametrize("node", ["device", "edge"])
def test_a_prompt_longer_than_a_model_that_sees_it_is_refused_beforehand(system, node, tmp_path):
    class Short(Setup):
        def engine(self, role):
            engine = super().engine(role)
            engine.max_tokens = takes[role]
            return engine

    setup = Short([system], requests=3, prompts=["t1", "t1 t2 t3", "t2"], max_new_tokens=8)
    role = {"device": "draft", "edge": "target"}[node]
    for room, fits in ((11, True), (10, False)):
        takes = {"draft": 1 << 20, "target": 1 << 20, role: room}
        if fits or (system, node) in {("edge_ar", "device"), ("device_ar", "edge")}:
            assert len(play(setup, tmp_path / str(room)).requests) == 3
            continue
        with pytest.raises(EngineError, match=f"'p1' has 3 tokens and 8 new .* the {node}'s model takes 10 in all"):
            play(setup, tmp_path / str(room))
        assert not (tmp_path / str(room) / "requests.jsonl").read_bytes()


# An edge of another kind ---------------------------------------------------------------------------------------------


class Strange:
    """A device's link to an edge that gives `answer(frames)` to every message."""

    def __init__(self, answer):
        self.answer, self.inbox, self.counters = answer, deque(), {}

    def send(self, frames):
        self.inbox += [Arrival(b"", reply, time.monotonic_ns()) for reply in self.answer(frames)]
        return time.monotonic_ns()

    def receive(self, timeout_s=None):
        return self.inbox.popleft() if self.inbox else None

    def close(self):
        pass


def ended_by(setup, folder, answer):
    """The error that a run against such an edge ends with; None: it had its tokens."""
    spec = msgspec.structs.replace(setup.spec(), timing=Timing(give_up_after_s=0.05))
    device = DeviceNode(spec, setup.engine("draft"), lambda system: Strange(answer), RecordWriter(folder))
    try:
        device.run()
    except Exception as error:
        return error
    finally:
        device.writer.close()
    return None


def answering(welcome, verdict=None):
    """An edge that gives `welcome` to a hello and `verdict`, a method's, to every round."""

    def answer(frames):
        header = unpack_header(frames, Header)
        if header.kind == Kind.HELLO:
            return [welcome]
        if header.kind == Kind.ROUND:
            return [pack(ReplyHeader(Kind.REPLY, header.session, header.round), verdict)]
        return []

    return answer


def serving(setup):
    """A real edge: what it sends back before it waits for the next message."""
    sent = []

    class Wire:
        def send(self, peer, frames):
            sent.append(frames)

    node = EdgeNode(setup.spec(), setup.engine("target"), Wire(), setup.engine("draft"))

    def answer(frames):
        sent.clear()
        node.handle(Arrival(b"device", frames, time.monotonic_ns()))
        while node.batcher.due_ns() is not None:
            node.batcher.fire()
        return list(sent)

    return answer


WELCOME = pack(ReplyHeader(Kind.WELCOME), Welcome(1))
ERROR = pack(ReplyHeader(Kind.ERROR), Error("refused", "xyz"))
Down = method_class("dssd").Down
ROW = bytes(4 * 12)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (answering([b"DSD\x02", *WELCOME[1:]]), "protocol version 2, this node speaks 1: install the same release"),
        (answering([MAGIC, *ERROR[1:2], ERROR[2].replace(b"xyz", b"x\xffz")]), "cannot read: bad Error"),
        (answering(pack(ReplyHeader(Kind.ERROR), Error("unknown_session", "who?"))), "edge: who"),
        (answering(WELCOME, Down(0, [], Encoded(ROW[:-1]))), "cannot be resolved: CodecError"),
        (answering(WELCOME, Down(4, [], Encoded(ROW))), "cannot be resolved: "),
        (answering(WELCOME, Down(5, [3])), "accepted 5 of 4 drafted tokens"),
        (answering(WELCOME, Down(0, [])), "settles no token"),
    ],
    ids=["version", "text", "handshake", "row", "row for nothing", "count", "nothing"],
)
def test_what_no_edge_of_ours_says_is_told_as_the_edges(answer, said, tmp_path):
    error = ended_by(Setup(["dssd"], requests=1, max_new_tokens=9), tmp_path, answer)
    assert isinstance(error, EdgeError) and said in str(error)


@pytest.mark.parametrize("method", methods_with_edge(method_names()))
def test_a_damaged_reply_never_takes_the_device_by_surprise(method, tmp_path):
    """A real edge's replies with random bytes changed, cut off or added: an error that names it, or other tokens."""
    setup, chance = Setup([composed(method)], requests=1, max_new_tokens=6), random.Random(1)

    def damaged(frames):
        frames = [bytearray(frame) for frame in frames]
        if unpack_header(frames, ReplyHeader).kind == Kind.REPLY and chance.random() < 0.4:
            victim = frames[chance.randrange(2, len(frames))]
            at = chance.randrange(len(victim) + 1)
            victim[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
        return [bytes(frame) for frame in frames]

    ends = []
    for run in range(25):
        served = serving(setup)
        ends.append(ended_by(setup, tmp_path / str(run), lambda frames, served=served: map(damaged, served(frames))))
    assert all(error is None or isinstance(error, EXPECTED) for error in ends), [*map(repr, ends)]
    assert None in ends and sum(error is not None for error in ends) > 3


# Gaps in a stream -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", ["edge_ar", "colocated_sd"])
@pytest.mark.parametrize("seed", range(5))
def test_a_lost_reply_of_a_stream_is_asked_for_as_soon_as_the_next_shows_it(system, seed, tmp_path, monkeypatch):
    """Again when it is lost again, not for each that comes behind it. The last is not lost: only silence shows that."""
    setup, chance = Setup([system], requests=2, max_new_tokens=60), random.Random(seed)
    served, lost, rounds = serving(setup), [], []

    def lossy(frames):
        rounds.append(unpack_header(frames, Header).kind == Kind.ROUND)
        for reply in served(frames):
            if unpack_header(reply, ReplyHeader).final or chance.random() > 0.1:
                yield reply
            else:
                lost.append(reply)

    def silent(link, timeout_s=None):
        assert link.inbox, "waited in silence"
        return link.inbox.popleft()

    monkeypatch.setattr(Strange, "receive", silent)
    assert ended_by(setup, tmp_path / "rough", lossy) is None
    rough = [json.loads(line)["tokens"] for line in (tmp_path / "rough" / "requests.jsonl").open()]
    assert rough == play(setup, tmp_path / "calm").tokens(system)
    assert 0 < sum(rounds) - 2 <= len(lost)
