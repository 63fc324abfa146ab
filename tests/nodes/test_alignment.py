"""The edge's clock against the device's: nothing sent on one host, both measurements kept on two."""

from __future__ import annotations

import pytest
from far_clock import ELSEWHERE, HANDSHAKE, HOUR_NS, MS_NS, FarEdge

import nodes.alignment
from nodes.alignment import EXCHANGES, Alignment
from transport.clock import ClockSample, clock_identity
from transport.control import ControlError


def aligned(far, control=None, shaped=False, between_s=600, edge=ELSEWHERE):
    alignment = Alignment("tcp://edge:5555", control, shaped, far.call)
    alignment.measure(edge, HANDSHAKE)
    far.now_ns += between_s * 10**9
    alignment.measure(edge, HANDSHAKE)
    return alignment.record()


@pytest.mark.parametrize("offset_ns", [-7 * HOUR_NS, 5 * HOUR_NS])
@pytest.mark.parametrize("drift_ppm", [-200.0, 0.0, 200.0])
def test_hours_and_drift_are_found_and_kept(offset_ns, drift_ppm):
    far = FarEdge(offset_ns, drift_ppm)
    record = aligned(far)
    assert not record["same"] and record["path"] == "unshaped" and record["problem"] == ""
    assert [len(exchanges) for exchanges in record["exchanges"]] == [EXCHANGES] * 2
    assert len(record["measurements"]) == 2
    offset = nodes.alignment.estimate([ClockSample(*e) for exchanges in record["exchanges"] for e in exchanges])
    assert record["offset"]["drift_ppm"] == pytest.approx(drift_ppm, abs=record["offset"]["drift_error_ppm"])
    for device_ns in range(10**12, far.now_ns, 10**11):
        assert abs(offset.to_local_ns(far.at(device_ns)) - device_ns) <= offset.error_at_ns(device_ns) + 1000
        assert offset.error_at_ns(device_ns) < 2 * MS_NS


def test_on_one_host_nothing_is_sent():
    far = FarEdge()
    edge = {"clock": clock_identity(), "control_port": 1}
    alignment = Alignment("tcp://edge:5555", None, True, far.call)
    for _ in range(2):
        alignment.measure(edge, ClockSample(10, 15, 15, 20))
    assert alignment.record() == {
        "same": True, "path": "none", "problem": "",
        "offset": {"offset_ns": 0, "error_ns": 0, "drift_ppm": None, "drift_error_ppm": 0.0, "at_ns": 0, "until_ns": 0},
    }  # fmt: skip
    assert far.called == []


def test_a_cloned_machine_is_not_taken_for_this_one():
    far = FarEdge(name=clock_identity())
    assert aligned(far, edge={"clock": clock_identity(), "control_port": 9})["offset"]["offset_ns"] > HOUR_NS


@pytest.mark.parametrize(
    ("control", "shaped", "path", "address"),
    [
        (None, False, "unshaped", "tcp://edge:7777"),
        (None, True, "shaped", "tcp://edge:7777"),
        ("tcp://edge:5556", True, "shaped", "tcp://edge:5556"),
        ("tcp://10.0.0.1:5556", True, "unshaped", "tcp://10.0.0.1:5556"),
    ],
)
def test_a_shaped_path_is_said_to_be_one(control, shaped, path, address):
    far = FarEdge()
    assert aligned(far, control, shaped)["path"] == path
    assert far.called == [address] * 2


def test_a_line_that_fails_costs_the_comparison_only():
    def call(address):
        raise ControlError("no answer from there")

    alignment = Alignment("tcp://edge:5555", None, False, call)
    alignment.measure(ELSEWHERE, HANDSHAKE)
    record = alignment.record()
    assert record["offset"] is None and record["problem"] == "no answer from there"


def test_an_edge_on_another_boot_is_another_clock():
    far = FarEdge()
    alignment = Alignment("tcp://edge:5555", None, False, far.call)
    alignment.measure(ELSEWHERE, HANDSHAKE)
    far.name = "the next boot"
    alignment.measure(ELSEWHERE, HANDSHAKE)
    assert alignment.record()["offset"] is None and "restarted on another clock" in alignment.record()["problem"]


def test_a_run_without_an_edge_compares_nothing():
    alignment = Alignment("tcp://edge:5555", None, False, FarEdge().call)
    alignment.measure({}, None)
    assert alignment.record()["offset"] is None
