import threading
import time

import msgspec
import pytest

import transport.control
from transport.control import MAX_CONTROL_BYTES, ControlClient, ControlError, ControlServer
from transport.keys import lab_keys
from transport.zmq_link import ZmqDeviceLink


@pytest.fixture
def stopped():
    return threading.Event()


@pytest.fixture
def keys():
    return lab_keys()


@pytest.fixture
def server(keys, stopped):
    def fail():
        raise ValueError("no such thing")

    handlers = {
        "add": lambda a, b: a + b,
        "fail": fail,
        "stop": stopped.set,
        "flood": lambda: b"x" * (MAX_CONTROL_BYTES + 1),
        "sleep": lambda secs: time.sleep(secs),
        "strange": object,
    }
    with ControlServer("tcp://127.0.0.1:*", handlers, keys=keys[0]) as server:
        yield server


@pytest.fixture
def client(server, keys):
    with ControlClient(server.endpoint, keys=keys[1], identity=b"tester") as client:
        yield client


def test_commands(client, stopped):
    assert client.call("ping") == "pong"
    assert client.call("add", a=[1], b=["x", None]) == [1, "x", None]
    assert client.call("stop") is None and stopped.is_set()


def test_what_fails_over_there_is_told_here_and_the_line_lives_on(client, server):
    for command, arguments, message in (
        ("fail", {}, "fail: ValueError: no such thing"),
        ("add", {"a": 1}, "missing 1 required positional argument"),
        ("nothing", {}, "unknown command 'nothing'; there are: add, clock, fail"),
        ("flood", {}, "ask for less"),
        ("strange", {}, "object"),
    ):
        with pytest.raises(ControlError, match=message):
            client.call(command, **arguments)
    assert client.call("ping") == "pong"
    assert server.counters == {"answered": 1, "failed": 5}


@pytest.mark.parametrize("of_the_command", [True, False], ids=["command", "argument"])
def test_an_error_fits_on_the_line_whatever_it_quotes(client, of_the_command):
    name = "\0" * 2_000_000  # quoted, four characters each
    with pytest.raises(ControlError, match="unknown command" if of_the_command else "unexpected keyword"):
        client.call(name) if of_the_command else client.call("ping", **{name: 1})
    assert client.call("ping") == "pong"


def test_no_answer_in_time_and_a_late_answer_is_not_mistaken(client):
    with pytest.raises(ControlError, match=r"no answer from .* within 0.05 s"):
        client.call("sleep", timeout_s=0.05, secs=0.3)
    assert client.call("add", a=1, b=1) == 2


def test_garbage_is_answered_with_an_error(server, keys, client):
    with ZmqDeviceLink(server.endpoint, keys=keys[1], identity=b"vandal") as vandal:
        for frames in ([b"\xc1"], [b""], [b"a", b"b"], [msgspec.msgpack.encode([1, 2, 3, 4])]):
            vandal.send(frames)
            number, _, error = msgspec.msgpack.decode(vandal.receive(20).frames[0])
            assert number == -1 and error
    assert client.call("ping") == "pong"


def test_calls_from_several_threads(client):
    results = {}
    threads = [threading.Thread(target=lambda n=n: results.update({n: client.call("add", a=n, b=n)})) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: 2 * n for n in range(8)}


def test_clock_of_the_same_host_is_ours(client):
    offset = client.measure_offset(exchanges=4)
    assert (offset.offset_ns, offset.error_ns) == (0, 0)


def test_clock_of_another_host_is_measured(client, monkeypatch):
    answers = iter(["somewhere else", *["here"] * 100])
    monkeypatch.setattr(transport.control, "clock_identity", lambda: next(answers))
    offset = client.measure_offset(exchanges=1)
    assert 0 < offset.error_ns < 20 * 10**9
    assert abs(offset.offset_ns) <= offset.error_ns


def test_close_leaves_no_thread(keys):
    before = threading.active_count()
    server = ControlServer("tcp://127.0.0.1:*", keys=keys[0])
    client = ControlClient(server.endpoint, keys=keys[1], identity=b"x")
    client.call("ping")
    client.close()
    server.close()
    assert threading.active_count() == before
