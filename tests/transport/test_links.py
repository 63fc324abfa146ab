"""One body of checks for every link: in process, ZeroMQ plain, ZeroMQ with CURVE."""

import itertools
import random
import threading
import time
from pathlib import Path

import pytest
import zmq

from transport.inproc import Faults, InprocDeviceLink, InprocEdgeLink
from transport.keys import lab_keys
from transport.link import LinkError
from transport.zmq_link import ZmqDeviceLink, ZmqEdgeLink

PATIENCE_S = 20.0  # far more than anything takes; only a broken link waits this long
names = itertools.count()


class Inproc:
    def __init__(self):
        self.address = f"inproc-{next(names)}"

    def edge(self, address=None):
        return InprocEdgeLink(address or self.address)

    def device(self, edge, identity):
        return InprocDeviceLink(edge.endpoint, identity=identity)


class Zmq:
    def __init__(self, edge_keys, device_keys):
        self.edge_keys, self.device_keys = edge_keys, device_keys

    def edge(self, address="tcp://127.0.0.1:*"):
        return ZmqEdgeLink(address, keys=self.edge_keys)

    def device(self, edge, identity):
        return ZmqDeviceLink(edge.endpoint, keys=self.device_keys, identity=identity)


@pytest.fixture(params=["inproc", "plain", "curve"])
def lab(request):
    return {"inproc": Inproc, "plain": lambda: Zmq(None, None), "curve": lambda: Zmq(*lab_keys())}[request.param]()


@pytest.fixture
def pair(lab):
    edge = lab.edge()
    device = lab.device(edge, b"device-1")
    yield edge, device
    device.close()
    edge.close()


def test_frames_arrive_as_sent_both_ways_with_stamps(pair):
    edge, device = pair
    handed_ns = device.send([b"a", b"", b"\0\xff" * 50])
    up = edge.receive(PATIENCE_S)
    assert (up.peer, up.frames) == (b"device-1", [b"a", b"", b"\0\xff" * 50])
    assert handed_ns <= up.arrived_ns <= time.monotonic_ns()
    edge.send(up.peer, [b"back"])
    down = device.receive(PATIENCE_S)
    assert (down.frames, down.reconnected) == ([b"back"], False)
    assert down.arrived_ns >= up.arrived_ns


def test_order_is_kept_and_bursts_are_not_lost(pair):
    edge, device = pair
    for number in range(100):
        device.send([b"%d" % number])
    assert [edge.receive(PATIENCE_S).frames[0] for _ in range(100)] == [b"%d" % n for n in range(100)]


def test_large_messages(pair):
    edge, device = pair
    row = random.Random(1).randbytes(2_400_000)
    device.send([b"header", row])
    assert edge.receive(PATIENCE_S).frames == [b"header", row]
    edge.send(b"device-1", [row, b"trailer"])
    assert device.receive(PATIENCE_S).frames == [row, b"trailer"]


def test_many_peers_get_their_own_answers(lab):
    edge = lab.edge()
    devices = [lab.device(edge, b"device-%d" % number) for number in range(12)]
    for number, device in enumerate(devices):
        device.send([b"%d" % number])
    for _ in devices:
        arrival = edge.receive(PATIENCE_S)
        assert arrival.peer == b"device-" + arrival.frames[0]
        edge.send(arrival.peer, [b"for " + arrival.frames[0]])
    assert [device.receive(PATIENCE_S).frames[0] for device in devices] == [b"for %d" % n for n in range(12)]
    for link in (*devices, edge):
        link.close()


def test_idle_receive_returns_none(pair):
    edge, device = pair
    start = time.monotonic()
    assert edge.receive(0.05) is None and device.receive(0.05) is None
    assert edge.receive(0) is None
    assert 0.1 <= time.monotonic() - start < PATIENCE_S


def test_send_from_many_threads(pair):
    edge, device = pair
    threads = [
        threading.Thread(target=lambda n=n: [device.send([b"%d" % n, b"%d" % i]) for i in range(25)]) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    arrived = [edge.receive(PATIENCE_S).frames for _ in range(100)]
    for thread in threads:
        thread.join()
    for n in range(4):
        assert [int(i) for who, i in arrived if who == b"%d" % n] == list(range(25))


def test_unknown_peer_is_counted_and_harms_nobody(pair):
    edge, device = pair
    edge.send(b"nobody", [b"x"])
    device.send([b"hello"])
    assert edge.receive(PATIENCE_S).frames == [b"hello"]
    edge.send(b"device-1", [b"y"])
    assert device.receive(PATIENCE_S).frames == [b"y"]
    assert edge.counters["dropped_unroutable"] == 1


def test_counters(pair):
    edge, device = pair
    device.send([b"1234", b"56"])
    edge.receive(PATIENCE_S)
    assert (edge.counters["messages_in"], edge.counters["bytes_in"]) == (1, 6)
    until = time.monotonic() + PATIENCE_S  # the sending thread counts after it has sent
    while not device.counters["bytes_out"] and time.monotonic() < until:
        time.sleep(0.005)
    assert (device.counters["messages_out"], device.counters["bytes_out"]) == (1, 6)


def test_after_an_edge_restart_the_device_hears_of_it_and_goes_on(lab):
    edge = lab.edge()
    address = edge.endpoint
    device = lab.device(edge, b"device-1")
    device.send([b"before"])
    assert edge.receive(PATIENCE_S).frames == [b"before"]
    edge.close()
    time.sleep(0.05)
    device.send([b"while away"])
    edge = lab.edge(address)
    arrival = device.receive(PATIENCE_S)
    assert arrival.reconnected and arrival.frames == []
    device.send([b"after"])
    seen = []
    while seen[-1:] != [b"after"]:
        seen.append(edge.receive(PATIENCE_S).frames[0])
    edge.send(b"device-1", [b"again"])
    assert device.receive(PATIENCE_S).frames == [b"again"]
    assert device.counters["reconnects"] == 1
    device.close()
    edge.close()


@pytest.mark.parametrize("broken_at", range(4))
@pytest.mark.parametrize("lab", ["plain", "curve"], indirect=True)
def test_a_connection_that_breaks_in_mid_message_costs_that_message_and_no_more(lab, broken_at):
    edge = lab.edge()
    address = edge.endpoint
    device = lab.device(edge, b"device-1")
    hand_over, handed, (descriptor,) = device._socket.send, itertools.count(), device._connections

    def send(frame, flags=0):  # in the link's thread: the edge goes away before this frame
        if next(handed) == broken_at:
            edge.close()
            while Path(f"/proc/self/fd/{descriptor}").exists():  # libzmq ends the pipe, then closes this,
                time.sleep(0.001)
            device._socket.get(zmq.EVENTS)  # and the socket learns of it when it looks
        return hand_over(frame, flags)

    device._socket.send = send
    message = [b"%d" % number for number in range(4)]
    device.send(message)
    until = time.monotonic() + PATIENCE_S
    while device.counters["disconnects"] == 0 and time.monotonic() < until:
        time.sleep(0.005)
    edge = lab.edge(address)
    assert device.receive(PATIENCE_S).reconnected
    device.send([*message, b"again"])
    assert edge.receive(PATIENCE_S).frames == [*message, b"again"]  # and nothing of the first try before it
    device.close()
    edge.close()
    assert device.counters["dropped_unroutable"] + device.counters["messages_out"] == 2


def test_a_device_that_comes_back_under_its_id_takes_its_place(lab):
    edge = lab.edge()
    for life in (b"first", b"second"):
        device = lab.device(edge, b"device-1")
        device.send([life])
        assert edge.receive(PATIENCE_S).frames == [life]
        edge.send(b"device-1", [b"to " + life])
        assert device.receive(PATIENCE_S).frames == [b"to " + life]
        device.close()
    edge.close()


def test_close_wakes_a_waiting_receive_and_later_calls_say_closed(lab):
    edge = lab.edge()
    failures = []

    def wait():
        try:
            edge.receive()
        except LinkError as error:
            failures.append(str(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    edge.close()
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive() and "closed" in failures[0]
    with pytest.raises(LinkError, match="closed"):
        edge.send(b"device-1", [b"x"])
    with pytest.raises(LinkError, match="closed"):
        edge.receive(1)
    edge.close()  # twice is fine


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_nothing_is_left_behind(lab):
    def once():
        edge = lab.edge()
        device = lab.device(edge, b"device-1")
        device.send([b"x"])
        edge.receive(PATIENCE_S)
        device.send([b"never read"])
        device.close()
        edge.close()

    once()  # what the libraries open once and keep
    threads, descriptors = threading.active_count(), open_descriptors()
    for _ in range(5):
        once()
    assert threading.active_count() == threads
    assert open_descriptors() == descriptors


def test_taken_address(lab):
    edge = lab.edge()
    with pytest.raises(LinkError, match="cannot listen at"):
        lab.edge(edge.endpoint)
    edge.close()


def test_fake_faults_are_deterministic():
    def what_arrives():
        edge = InprocEdgeLink("faulty")
        faults = Faults(drop_every=5, drop_probability=0.2, duplicate_every=7, seed=3)
        device = InprocDeviceLink("faulty", identity=b"d", faults=faults)
        for number in range(100):
            device.send([b"%d" % number])
        arrived = []
        while (arrival := edge.receive(0)) is not None:
            arrived.append(int(arrival.frames[0]))
        dropped = device.counters["dropped_fault"]
        device.close()
        edge.close()
        return arrived, dropped

    arrived, dropped = what_arrives()
    assert (arrived, dropped) == what_arrives()
    assert len(set(arrived)) == 100 - dropped and 20 < dropped < 60
    assert len(arrived) > len(set(arrived))  # duplicates
    assert 4 not in arrived  # the fifth


def test_fake_disconnect_loses_what_is_on_its_way_and_says_so():
    edge = InprocEdgeLink("cut")
    device = InprocDeviceLink("cut", identity=b"d")
    edge.send(b"d", [b"lost"])
    device.disconnect()
    assert device.receive(0).reconnected
    assert device.receive(0) is None
    device.close()
    edge.close()


def test_fake_device_without_an_edge():
    with pytest.raises(LinkError, match="no edge answers"):
        InprocDeviceLink("nowhere", identity=b"d")
