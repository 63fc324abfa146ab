"""SLED's fallback: an edge that stays silent does not stop the device, and what went out unseen is said."""

from __future__ import annotations

import pytest
from harness import Setup, device_on, play, read_back, toy_edge

from experiments.summary import summarise
from nodes.composition import load_system
from nodes.schedules import release_after_timeout
from transport.inproc import Faults


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(release_after_timeout, "PATIENCE_S", 0.15)


def figures(setup, result):
    (record,) = summarise("n", "id", setup.spec().systems, result.rounds, result.requests)["systems"]
    return record


def test_a_dead_edge_leaves_the_draft_to_speak(hasty, tmp_path):
    setup = Setup(["sled"], requests=1, max_new_tokens=8)
    with toy_edge(setup) as edge:
        device = device_on(setup, edge, tmp_path)
        device.agree()  # shaken hands
        edge.kill()
        device.run()
        device.close()
        device.writer.close()
        result = read_back(tmp_path, edge.node)
        edge.start()
    assert len(result.requests[0].tokens) == 8 and sum(r.n_unverified for r in result.rounds) == 8
    record = figures(setup, result)
    assert load_system("sled").exact and not record["exact"] and record["unverified_share"] == 1
    for r in result.rounds:
        parts = r.draft_ms + r.encode_ms + r.network_ms + r.edge_ms + r.resolve_ms
        assert parts == pytest.approx((r.end_ns - r.start_ns) / 1e6) and r.network_ms > 100


def test_a_lossy_edge_is_found_again(hasty, tmp_path):
    setup = Setup(["sled"], requests=6, max_new_tokens=10, retry_after_s=0.06)
    result = play(setup, tmp_path, Faults(drop_probability=0.5, seed=3))
    released = sum(r.n_unverified for r in result.rounds)
    assert 0 < released < sum(r.n_emitted for r in result.rounds)
    assert all(len(r.tokens) == 10 for r in result.requests) and not figures(setup, result)["exact"]


def test_with_a_working_link_it_is_exact(tmp_path):
    setup = Setup(["sled"], requests=4)
    assert figures(setup, play(setup, tmp_path))["exact"]
