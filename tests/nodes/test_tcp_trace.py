"""Real connections sampled while they are used; what was not written is said."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest

from experiments.report.tcp import thin
from nodes.tcp_trace import TcpTrace
from transport.tcp_info import sample


@pytest.fixture
def ends():
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        with client, accepted:
            yield client, accepted


def lines_of(folder, node):
    return [json.loads(line) for line in (folder / f"tcp.{node}.jsonl").read_text().splitlines()]


def test_every_byte_sent_is_in_the_trace_and_an_idle_connection_is_not_written_again(tmp_path, ends):
    client, accepted = ends
    with TcpTrace("device", tmp_path, lambda: [("mine", sample(client.fileno()))], interval_s=0.01):
        for _ in range(20):
            client.sendall(bytes(1000))
            accepted.recv(1000, socket.MSG_WAITALL)
            time.sleep(0.005)
        time.sleep(0.2)
        idle_ns = time.monotonic_ns()
        time.sleep(0.2)
    lines = lines_of(tmp_path, "device")
    acked = [line["bytes_acked"] for line in lines]
    assert acked == sorted(acked) and acked[-1] in (20_000, 20_001)  # some kernels count the SYN
    assert len(lines) > 3 and all(line["t_ns"] < idle_ns for line in lines)
    assert {line["system"] for line in lines} == {"mine"}
    assert lines[-1]["local_port"] == client.getsockname()[1] and lines[-1]["cwnd_segments"] > 0
    [in_force] = {line["congestion"] for line in lines}
    assert in_force == Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()


def test_what_could_not_be_written_is_said_and_does_not_end_the_run(tmp_path, ends):
    (tmp_path / "tcp.edge.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"is incomplete: .*No space"):
        with TcpTrace("edge", tmp_path, lambda: [("", sample(ends[1].fileno()))], interval_s=0.01):
            time.sleep(0.1)


def test_thinning_keeps_the_peaks():
    points = [(float(i), float(i % 100 == 57)) for i in range(1000)]
    thinned = thin(points, 100)
    assert len(thinned) <= 101 and [p for p in thinned if p[1]] == [p for p in points if p[1]]
    assert thin(points[:5], 100) == points[:5]
