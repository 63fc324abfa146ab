"""What a device does with what an edge says: refusals, lost sessions, frames it cannot read."""

from __future__ import annotations

import pytest
from harness import Setup, device_on, play, toy_edge

from nodes import conversation
from nodes.channel import EdgeError
from nodes.device import jobs
from nodes.engine import EngineError

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
