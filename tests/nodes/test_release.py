"""SLED's fallback: an edge that stays silent does not stop the device, and what went out unseen is said."""

from __future__ import annotations

import pytest
from harness import Setup, composed, device_on, methods_with_edge, play, read_back, toy_edge

from experiments.summary import summarise
from nodes.composition import load_system
from nodes.methods import method_class, method_names
from nodes.sampling import Sampling
from nodes.schedules import release_after_timeout
from transport.inproc import Faults


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(release_after_timeout, "PATIENCE_S", 0.15)


@pytest.fixture
def patient(monkeypatch):
    """Asks again soon and often, and does not give up."""
    monkeypatch.setattr(release_after_timeout, "PATIENCE_S", 6.0)
    monkeypatch.setattr(release_after_timeout, "TRIES", 100)


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


def test_it_drafts_as_long_as_the_re_implementation_that_its_notes_name(tmp_path):
    system = load_system("sled")
    assert "c_th 0.6, at most 4 tokens a draft" in " ".join(system.notes.split()) and system.stop["threshold"] == 0.6
    result = play(Setup(["sled"], requests=4, sampling=Sampling(temperature=0)), tmp_path)  # sure of every token
    assert max(r.n_drafted for r in result.rounds) == 4


def test_with_a_working_link_it_is_exact(tmp_path):
    setup = Setup(["sled"], requests=4)
    assert figures(setup, play(setup, tmp_path))["exact"]


@pytest.mark.parametrize("method", ["token_match", "coupled", "dssd", "dsd"])
@pytest.mark.parametrize("lost", ["requests", "answers"])
def test_a_request_made_anew_changes_no_token(method, lost, patient, tmp_path):
    """Whether the edge never heard of the first request or had served it already."""
    parts = {"stop": {"policy": "fixed", "length": 2}}
    calm = Setup([composed(method, schedule="lookahead", **parts)], requests=4, acceptance=0.9)
    system = composed(method, schedule="release_after_timeout", **parts)
    eager = Setup([system], requests=4, acceptance=0.9, retry_after_s=0.06)
    faults = Faults(drop_probability=0.2, seed=4)
    losses = (faults, None) if lost == "requests" else (None, faults)
    rough = play(eager, tmp_path / "rough", *losses)
    name = eager.spec().systems[0].name
    assert rough.tokens(name) == play(calm, tmp_path / "calm").tokens(calm.spec().systems[0].name)
    again = [r.n_drafted for r in rough.rounds if r.attempt]
    assert again and not any(r.n_unverified for r in rough.rounds)
    merged = method in ("token_match", "coupled")
    assert (max(again) > 2) == merged  # newer drafts went along, where any draft will do
    if lost == "answers":  # what the edge had done was undone there, no session was opened anew
        assert all(r.resumed == 0 for r in rough.requests)


def test_a_merged_draft_is_released_whole(hasty, tmp_path):
    system = load_system("sled", stop={"policy": "fixed", "length": 2})
    setup = Setup([system], requests=1, max_new_tokens=30)
    with toy_edge(setup) as edge:
        device = device_on(setup, edge, tmp_path)
        device.agree()
        edge.kill()
        device.run()
        device.close()
        device.writer.close()
        result = read_back(tmp_path, edge.node)
        edge.start()
    first = result.rounds[0]
    assert first.attempt == release_after_timeout.TRIES - 1 and first.n_unverified == first.n_drafted
    assert first.n_drafted == 2 + (release_after_timeout.TRIES - 1) * 3  # each time the guess and two more


# A method that streams ------------------------------------------------------------------------------------------------

STREAMS = [name for name in methods_with_edge(method_names()) if method_class(name).streams]


@pytest.mark.parametrize("method", STREAMS)
def test_a_stream_that_falls_silent_for_good_is_carried_on_by_the_device(method, hasty, tmp_path):
    system = composed(method, schedule="release_after_timeout")
    setup = Setup([system], requests=1, max_new_tokens=8)
    calm = play(setup, tmp_path / "calm").tokens(system.name)[0]
    with toy_edge(setup, Faults(drop_every=4)) as edge:  # a reply is missing, so the device cannot have had them all
        device = device_on(setup, edge, tmp_path / "rough")
        device.watch = lambda record, tokens: record.round > 1 or edge.kill() or True
        device.run()
        device.close()
        device.writer.close()
        result = read_back(tmp_path / "rough", edge.node)
        edge.start()
    unverified = [r.n_unverified > 0 for r in result.rounds]
    heard = sum(r.n_emitted for r in result.rounds if not r.n_unverified)
    assert unverified == sorted(unverified) and 0 < heard < 8 and result.requests[0].tokens[:heard] == calm[:heard]
    assert len(result.requests[0].tokens) == 8 and not figures(setup, result)["exact"]
    assert all(r.n_unverified == r.n_emitted == 1 for r in result.rounds if r.n_unverified)
    assert all(r.attempt >= release_after_timeout.TRIES - 1 for r in result.rounds if r.n_unverified)


@pytest.mark.parametrize("method", STREAMS)
@pytest.mark.parametrize("lost", ["requests", "answers"])
def test_a_stream_asked_for_anew_changes_no_token(method, lost, patient, tmp_path):
    system = composed(method, schedule="release_after_timeout")
    setup = Setup([system], requests=6, retry_after_s=0.06)
    faults = Faults(drop_probability=0.3, seed=1)
    rough = play(setup, tmp_path / "rough", *((faults, None) if lost == "requests" else (None, faults)))
    assert rough.tokens(system.name) == play(setup, tmp_path / "calm").tokens(system.name)
    assert sum(r.retries for r in rough.requests) and not any(r.n_unverified for r in rough.rounds)
