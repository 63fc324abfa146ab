"""Who is refused, how it is said, and that nobody can disturb those who are welcome."""

import random
import socket
import time
from dataclasses import replace

import pytest
import zmq

from transport.keys import lab_keys
from transport.link import LinkError
from transport.zmq_link import LinkTiming, ZmqDeviceLink, ZmqEdgeLink

PATIENCE_S = 20.0


@pytest.fixture
def keys():
    return lab_keys()


@pytest.fixture
def edge(keys):
    with ZmqEdgeLink("tcp://127.0.0.1:*", keys=keys[0], max_message_bytes=100_000) as link:
        yield link


def refused(edge, keys, match):
    start = time.monotonic()
    with pytest.raises(LinkError, match=match):
        ZmqDeviceLink(edge.endpoint, keys=keys, identity=b"stranger")
    assert time.monotonic() - start < PATIENCE_S


def works(edge, keys):
    with ZmqDeviceLink(edge.endpoint, keys=keys, identity=b"good") as device:
        device.send([b"hello"])
        assert edge.receive(PATIENCE_S).frames == [b"hello"]
        edge.send(b"good", [b"welcome"])
        assert device.receive(PATIENCE_S).frames == [b"welcome"]


def test_key_not_on_the_list(edge, keys):
    stranger = replace(lab_keys()[1], edge_public=keys[1].edge_public, source="/some/where/device.key")
    refused(edge, stranger, r"/some/where/device\.key not welcome.*devices\.allow")
    assert edge.counters["auth_refused"] == 1
    assert edge.receive(0) is None
    works(edge, keys[1])


def test_trusting_another_edge(edge, keys):
    refused(edge, replace(keys[1], edge_public=lab_keys()[0].public), r"copy this edge's edge\.pub")
    works(edge, keys[1])


def test_plain_device_at_a_curve_edge(edge, keys):
    refused(edge, None, "plain|does it want keys")
    works(edge, keys[1])


def test_curve_device_at_a_plain_edge(keys):
    with ZmqEdgeLink("tcp://127.0.0.1:*", keys=None) as edge:
        refused(edge, keys[1], "CURVE|edge.pub")
        works(edge, None)


def test_edge_that_restarts_with_other_keys_is_a_clear_failure(keys):
    edge = ZmqEdgeLink("tcp://127.0.0.1:*", keys=keys[0])
    address = edge.endpoint
    device = ZmqDeviceLink(address, keys=keys[1], identity=b"d")
    edge.close()
    with ZmqEdgeLink(address, keys=lab_keys()[0]):
        with pytest.raises(LinkError, match=r"edge\.pub"):
            while device.receive(PATIENCE_S) is not None:
                pass
        with pytest.raises(LinkError, match=r"edge\.pub"):
            device.send([b"x"])
    device.close()


def test_nobody_there():
    with socket.socket() as holder:  # bound, not listening: connections are refused
        holder.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{holder.getsockname()[1]}"
        with pytest.raises(LinkError, match=rf"no edge answers at {address} within 0.3 s: is it started"):
            ZmqDeviceLink(address, keys=None, identity=b"d", connect_timeout_s=0.3)


@pytest.mark.parametrize("address", ["nonsense", "tcp://127.0.0.1", "tcp://127.0.0.1:99999", "tcp://:x"])
def test_bad_addresses(address):
    with pytest.raises(LinkError, match="tcp://"):
        ZmqDeviceLink(address, keys=None, identity=b"d", connect_timeout_s=0.2)
    with pytest.raises(LinkError, match="tcp://"):
        ZmqEdgeLink(address, keys=None)


def test_address_of_another_machine():
    with pytest.raises(LinkError, match="no such address"):
        ZmqEdgeLink("tcp://192.0.2.1:5555", keys=None)


def test_an_edge_may_come_after_its_device(keys):
    with ZmqEdgeLink("tcp://127.0.0.1:*", keys=keys[0]) as first:
        address = first.endpoint
    with ZmqDeviceLink(address, keys=keys[1], identity=b"d", connect_timeout_s=0) as device:
        device.send([b"early"])
        with ZmqEdgeLink(address, keys=keys[0]) as edge:
            assert edge.receive(PATIENCE_S).frames == [b"early"]


def test_raw_garbage_at_the_port_disturbs_nobody(edge, keys):
    host, port = edge.endpoint.removeprefix("tcp://").split(":")
    chance = random.Random(5)
    greeting = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01CURVE" + bytes(47)
    with ZmqDeviceLink(edge.endpoint, keys=keys[1], identity=b"good") as device:
        for number in range(40):
            with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as intruder:
                garbage = chance.randbytes(chance.randrange(1, 2000))
                intruder.sendall(greeting + garbage if number % 2 else garbage)
            device.send([b"%d" % number])
            assert edge.receive(PATIENCE_S).frames == [b"%d" % number]
        assert device.counters["disconnects"] == 0


def test_oversize_is_refused_by_the_sender_and_cut_off_by_the_edge(edge, keys):
    with ZmqDeviceLink(edge.endpoint, keys=keys[1], identity=b"good") as device:
        with pytest.raises(LinkError, match="message of 100001 bytes"):
            edge.send(b"good", [bytes(100_001)])
        with ZmqDeviceLink(edge.endpoint, keys=keys[1], identity=b"fat") as fat:
            fat.send([bytes(200_000)])  # libzmq at the edge drops that connection
            fat.send([bytes(60_000), bytes(60_000)])  # each frame passes, the message does not
            device.send([b"hello"])
            assert edge.receive(PATIENCE_S).frames == [b"hello"]
            deadline = time.monotonic() + PATIENCE_S
            while not edge.counters["disconnects"] and time.monotonic() < deadline:
                time.sleep(0.01)
            assert edge.counters["disconnects"] >= 1


def test_other_zeromq_sockets_cannot_upset_a_plain_edge():
    with ZmqEdgeLink("tcp://127.0.0.1:*", keys=None) as edge:
        context = zmq.Context()
        for kind in (zmq.REQ, zmq.DEALER, zmq.PUB):
            other = context.socket(kind)
            other.connect(edge.endpoint)
            other.send_multipart([b"x"] * 50, zmq.NOBLOCK)
        with ZmqDeviceLink(edge.endpoint, keys=None, identity=b"good") as device:
            device.send([b"hello"])
            while edge.receive(PATIENCE_S).frames != [b"hello"]:
                pass
        context.destroy(linger=0)


def test_tcp_info_of_both_ends(edge, keys):
    with ZmqDeviceLink(edge.endpoint, keys=keys[1], identity=b"good") as device:
        device.send([b"x"])
        edge.receive(PATIENCE_S)
        mine, theirs = device.tcp_info(), edge.tcp_info()
        assert mine.remote_port == int(edge.endpoint.rpartition(":")[2])
        assert mine.local_port in [info.remote_port for info in theirs]
        assert mine.cwnd_segments > 0 and mine.rtt_us > 0 and mine.bytes_acked > 0


def test_time_outs_follow_the_link():
    local, slow = LinkTiming(), LinkTiming(rtt_ms=600, rate_mbps=2, loss_pct=2, largest_message_bytes=600_000)
    serialisation_ms = 600_000 * 8 / 2000
    assert slow.socket_options()[zmq.HEARTBEAT_TIMEOUT] >= 4 * 600 + serialisation_ms
    assert local.socket_options()[zmq.HEARTBEAT_TIMEOUT] == 3000
    for option in (zmq.HEARTBEAT_IVL, zmq.HANDSHAKE_IVL, zmq.CONNECT_TIMEOUT, zmq.TCP_MAXRT):
        assert slow.socket_options()[option] > local.socket_options()[option]
    assert slow.linger_ms <= 5000
    with pytest.raises(ValueError, match="impossible link"):
        LinkTiming(rate_mbps=0)
