"""Routing a whole request: what is kept is the draft's own answer, what goes is the edge's, and both are said."""

from __future__ import annotations

import json
import math

import msgspec
import numpy as np
import pytest
from harness import Setup, play

from experiments.summary import summarise
from nodes.composition import CompositionError, load_system
from nodes.engine.toy import HIDDEN_SIZE, ToyEngine
from nodes.engine.weights import model_id
from nodes.policies import PolicyError
from nodes.policies.routing import FEATURES, LABELS, Fitted, TrainedRouter, prompt_features
from nodes.sampling import Sampling
from nodes.session import Session

SETUP = Setup([])


def router_file(path, device="", edge="", bias=0.0, weight_of_length=0.0):
    """A router of one feature, so that what it will decide is known."""
    names = [*FEATURES, *(f"hidden_{i}" for i in range(HIDDEN_SIZE))]
    weights = [weight_of_length, *[0.0] * (len(names) - 1)]
    router = TrainedRouter(
        device_model=device or model_id(SETUP.engine("draft")),
        edge_model=edge or model_id(SETUP.engine("target")),
        features=names,
        means=[0.0] * len(names),
        scales=[1.0] * len(names),
        labels={kind: Fitted(weights, bias) for kind in LABELS},
        card={},
    )
    path.write_bytes(msgspec.json.encode(router))
    return str(path)


def hybrid(**route):
    return msgspec.structs.replace(load_system("hybrid_random", route=route), name="hybrid")


def figures(setup, result, name="hybrid"):
    systems = summarise("n", "id", setup.spec().systems, result.rounds, result.requests)["systems"]
    return next(record for record in systems if record["system"] == name)


def test_a_request_is_answered_whole_by_one_of_both(tmp_path):
    setup = Setup(["edge_ar", "device_ar", hybrid(policy="random", share=0.5)], requests=40)
    result = play(setup, tmp_path)
    kept = [r.kept for r in result.requests if r.system == "hybrid"]
    assert 5 < sum(kept) < 35 and all(r.kept is None for r in result.requests if r.system != "hybrid")
    for way, tokens, at_edge, at_device in zip(
        kept, result.tokens("hybrid"), result.tokens("edge_ar"), result.tokens("device_ar")
    ):
        assert tokens == (at_device if way else at_edge)
    record = figures(setup, result)
    assert record["routed_share"] == pytest.approx(1 - sum(kept) / 40)
    assert record["unverified_share"] == pytest.approx(sum(kept) / 40) and not record["exact"]
    assert figures(setup, result, "edge_ar")["routed_share"] is None


def test_the_same_seed_routes_the_same_requests(tmp_path):
    setup = Setup([hybrid(policy="random", share=0.3)], requests=12)
    first, again = (play(setup, tmp_path / name) for name in ("first", "again"))
    assert [r.kept for r in first.requests] == [r.kept for r in again.requests]


@pytest.mark.parametrize("policy", ["random", "router"])
@pytest.mark.parametrize("everything_goes", [True, False])
def test_the_ends_of_the_range(policy, everything_goes, tmp_path):
    file = router_file(tmp_path / "router.json")
    end = {"share": int(everything_goes)} if policy == "random" else {"threshold": int(everything_goes), "file": file}
    system = hybrid(policy=policy, **end)
    setup = Setup([system, "edge_ar", "device_ar"], requests=6)
    result = play(setup, tmp_path)
    assert result.tokens("hybrid") == result.tokens("edge_ar" if everything_goes else "device_ar")
    assert system.exact == figures(setup, result)["exact"] == everything_goes


def test_a_router_decides_by_what_it_sees_and_is_billed(tmp_path):
    file = router_file(tmp_path / "router.json", bias=-math.log(3), weight_of_length=1.0)  # 1/2 at three tokens
    setup = Setup(
        [hybrid(policy="router", threshold=0.5, file=file), "device_ar"],
        requests=4,
        prompts=["t1 t2", "t1 t2 t3 t4"],
        sampling=Sampling(temperature=0.5, top_k=4),
    )
    result = play(setup, tmp_path)
    requests = [r for r in result.requests if r.system == "hybrid"]
    assert [r.kept for r in requests] == [False, True, False, True]
    assert result.tokens("hybrid")[1::2] == result.tokens("device_ar")[1::2]  # the look spoiled no cache
    for request in requests:
        rounds = [r for r in result.rounds if r.request_id == request.request_id]
        assert request.route_ms > 0 and rounds[0].draft_ms >= request.route_ms
        assert rounds[0].start_ns == request.start_ns


def test_features_are_the_models_own_whatever_the_run_samples_with():
    engine = ToyEngine("draft", vocab_size=16)
    prompt = [3, 1, 4, 1, 5, 9]
    plain, cut = Session(Sampling(), prompt), Session(Sampling(temperature=0.1, top_k=2), prompt)
    features = prompt_features(engine, plain)
    assert np.array_equal(features, prompt_features(engine, cut)) and cut.sampling.top_k == 2
    assert cut.fed == len(prompt) and len(features) == len(FEATURES) + HIDDEN_SIZE
    rows = engine.forward([Session(Sampling(), prompt)], [6])[0].rows
    logprobs = [np.log(row[token]) for row, token in zip(rows, prompt[1:])]
    assert features[FEATURES.index("mean_logprob")] == pytest.approx(np.mean(logprobs), rel=1e-5)
    assert features[FEATURES.index("largest_probability")] == rows[-1].max()
    assert np.isfinite(prompt_features(engine, Session(Sampling(), [2]))).all()  # one token: nothing was predicted


@pytest.mark.parametrize("node", ["device", "edge"])
def test_a_router_for_other_models_is_refused(node, tmp_path):
    file = router_file(tmp_path / "router.json", **{node: "0123456789abcdef"})
    with pytest.raises(PolicyError, match=f"trained for another {node} model.*dssd train router"):
        play(Setup([hybrid(policy="router", file=file)]), tmp_path)


@pytest.mark.parametrize(
    "route, said",
    [
        ({"policy": "router", "file": "/nowhere/router.json"}, "no router is trained yet.*dssd train router"),
        ({"policy": "router", "labels": "fuzzy"}, "labels are deterministic, probabilistic, transformed, not 'fuzzy'"),
        ({"policy": "router", "threshold": 1.5}, "threshold must be a number from 0 to 1, not 1.5"),
        ({"policy": "router", "threshold": "high"}, "threshold must be a number from 0 to 1, not 'high'"),
        ({"policy": "random", "share": -0.1}, "share must be a number from 0 to 1, not -0.1"),
        ({"policy": "random", "threshold": 1}, "route policy random has no option 'threshold'"),
        ({"policy": "nearest"}, "unknown route policy 'nearest'; there are: always, random, router"),
    ],
)
def test_what_cannot_be_routed_by_is_said(route, said):
    with pytest.raises(CompositionError, match=said):
        hybrid(**route)


def test_a_file_that_is_no_router_is_said(tmp_path):
    path = tmp_path / "router.json"
    path.write_text("{}")
    with pytest.raises(CompositionError, match="is no router's file"):
        hybrid(policy="router", file=str(path))
    router_file(path)
    card = json.loads(path.read_text())
    path.write_text(json.dumps({**card, "features": card["features"][:-1]}))
    with pytest.raises(CompositionError, match="of another release"):
        hybrid(policy="router", file=str(path))


def test_a_system_that_asks_no_edge_has_nothing_to_route():
    with pytest.raises(CompositionError, match="asks no edge"):
        load_system("device_ar", route={"policy": "random"})


def test_a_model_is_known_by_its_weights(tmp_path):
    ids = {model_id(ToyEngine("draft", **options)) for options in ({}, {"acceptance": 0.6}, {"table_seed": 1})}
    assert len(ids) == 3 and model_id(ToyEngine("draft")) in ids
    assert model_id(ToyEngine("target")) not in ids
