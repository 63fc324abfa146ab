"""What was lost and sent again is in the records: every byte once, every wait once, and never as a steady round."""

from __future__ import annotations

from collections import Counter

import pytest
from harness import Setup, composed, device_on, play, read_back, steady, toy_edge

from nodes.channel import Channel
from nodes.methods import method_class
from transport.inproc import Faults, InprocDeviceLink
from transport.link import LinkError
from transport.messages import Header, Kind
from transport.wire import unpack_header, wire_bytes

LOSSES = Faults(drop_probability=0.2, duplicate_every=3, seed=1), Faults(drop_probability=0.2, seed=2)
DRAWS = composed("dssd_sampled", options={"draws": 1}, stop={"policy": "fixed", "length": 2})  # mostly of several legs
SYSTEMS = [*map(steady, ("dssd", "dssd_lookahead", "sled", "edge_ar", "colocated_sd")), DRAWS]


@pytest.fixture
def sent(monkeypatch):
    """Messages and bytes of our frames that devices handed to their links, by kind."""
    messages, sizes = Counter(), Counter()
    send = InprocDeviceLink.send

    def counted(link, frames):
        kind = unpack_header(frames, Header).kind
        messages[kind] += 1
        sizes[kind] += wire_bytes(frames)
        return send(link, frames)

    monkeypatch.setattr(InprocDeviceLink, "send", counted)
    return messages, sizes


def restarted_before(sends, times, setup, folder, monkeypatch, seen=None):
    """The edge is another when the device sends (a round, a further leg) for the `times`-th time."""
    send, count = getattr(Channel, sends), 0
    with toy_edge(setup) as edge:

        def restart_now_and_then(channel, *message):
            nonlocal count
            count += 1
            if count in times:
                edge.kill()
                edge.start()
            return send(channel, *message)

        monkeypatch.setattr(Channel, sends, restart_now_and_then)
        device = device_on(setup, edge, folder)
        device.run()
        if seen is not None:
            seen += [channel.meter._seen for channel in device._channels.values()]
        device.close()
        device.writer.close()
        return read_back(folder, edge.node)


def judge_times(result, system):
    """No wait is booked twice, and none is taken for the device's own work."""
    for r in result.rounds:
        assert r.edge_ms + r.network_ms == pytest.approx(r.roundtrip_ms, abs=1e-6)
        if not method_class(system.method).streams:
            assert 0 < r.roundtrip_ms <= (r.end_ns - r.sent_ns) / 1e6
    for request in result.requests:
        rounds = [r for r in result.rounds if r.request_id == request.request_id]
        assert sum(r.roundtrip_ms for r in rounds) <= (rounds[-1].end_ns - rounds[0].sent_ns) / 1e6


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_every_byte_of_a_round_is_booked_and_every_repeat(system, sent, tmp_path):
    setup = Setup([system], requests=4, retry_after_s=0.03)
    result = play(setup, tmp_path, *LOSSES)
    judge_times(result, system)
    messages, sizes = sent
    assert sum(r.up_wire_bytes for r in result.rounds) == sizes[Kind.OPEN] + sizes[Kind.ROUND]
    again = sum(request.retries for request in result.requests)
    if system is not DRAWS:
        rounds = result.requests if method_class(system.method).streams else result.rounds
        assert again == messages[Kind.ROUND] - len(rounds)
    assert again and again >= sum(request.resumed for request in result.requests)


@pytest.mark.parametrize(
    ("sends", "system", "unfit"), [("send", SYSTEMS[0], 2), ("follow_up", DRAWS, 0)], ids=["round", "leg"]
)
def test_a_round_repeated_on_another_edge_is_no_steady_one(sends, system, unfit, sent, tmp_path, monkeypatch):
    """The link is judged by a round's first exchange, and `unfit` of them met the restart."""
    setup, seen = Setup([system], requests=2, max_new_tokens=24, forward_ms=5), []
    result = restarted_before(sends, (2, 5), setup, tmp_path, monkeypatch, seen)
    judge_times(result, system)
    assert sum(request.resumed for request in result.requests) == 2
    assert len([r for r in result.rounds if r.attempt]) == 2
    assert seen == [len(result.rounds) - unfit]
    assert sum(r.up_wire_bytes for r in result.rounds) == sent[1][Kind.OPEN] + sent[1][Kind.ROUND]


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
@pytest.mark.parametrize("after", [0, 2])
def test_a_request_that_loses_its_link_for_good_is_recorded(system, after, tmp_path, monkeypatch):
    """With why it ended, and with what was settled until then."""
    setup, settled = Setup([system], requests=3, max_new_tokens=200, forward_ms=5), []

    def cut(record, tokens):
        settled.extend(tokens)
        if record.round == after:
            lose(device)
        return True

    def lose(device):
        for channel in device._channels.values():
            channel.link.close()

    with toy_edge(setup) as edge:
        device = device_on(setup, edge, tmp_path)
        device.watch = cut
        device.agree()
        if not after:
            lose(device)
        with pytest.raises(LinkError):
            device.run()
        device.writer.close()
        (request,) = read_back(tmp_path, edge.node).requests
    assert "is closed" in request.error and request.finish_reason == "error"
    assert request.tokens == settled and bool(settled) == bool(after)
