"""Training a router: the fit, the labels, and the whole way on tables instead of models."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from experiments.cli import app
from experiments.quality import OWN
from experiments.schema import Config, ConfigError, load_config
from experiments.training.fitting import fit_logistic, log_loss, logistic
from experiments.training.queries import held_out_queries
from experiments.training.router import (
    KEPT_SHARES,
    Sampled,
    best_shift,
    fit_router,
    generate,
    labels_of,
    score,
    train_router,
    write_router,
)
from nodes.engine import EngineError
from nodes.engine.toy import ToyEngine
from nodes.policies.route import make_route
from nodes.policies.routing import FEATURES, LABELS, read_router
from nodes.runspec import Prompt
from nodes.sampling import Coins, Sampling

RNG = np.random.default_rng(5)


def queries(n, slope=1.5, answers=6):
    """Queries whose device answers fall short by less, the larger their first feature is."""
    found = []
    for i in range(n):
        features = RNG.normal(size=len(FEATURES))
        gap = -1 + slope * features[0]
        edge = RNG.normal(size=answers)
        found.append(Sampled(f"file{i % 20}", features, RNG.normal(gap, 1, answers), edge))
    return found


def test_logistic_regression_finds_the_odds_that_made_the_labels():
    features = RNG.normal(size=(5000, 3))
    probs = logistic(features @ [1.0, -0.5, 0.0] + 0.3)
    for labels in (probs, (RNG.random(5000) < probs).astype(float)):  # soft and hard ones
        weights, bias = fit_logistic(features, labels)
        assert weights == pytest.approx([1.0, -0.5, 0.0], abs=0.1) and bias == pytest.approx(0.3, abs=0.1)
    assert log_loss(probs, probs) < log_loss(probs, np.full(5000, probs.mean()))


def test_labels_are_those_of_the_paper():
    one = Sampled("a", np.zeros(len(FEATURES)), device=np.array([-2.0, 0.0]), edge=np.array([-1.0, -3.0]))
    assert labels_of([one], "deterministic", 0.0) == [0.0]  # its first answers alone: -2 < -1
    assert labels_of([one], "probabilistic", 0.0) == [0.75]
    assert labels_of([one], "transformed", 1.0) == [1.0]
    one_sided = [
        Sampled("a", one.features, np.full(4, -gap) + RNG.normal(0, 0.1, 4), np.zeros(4)) for gap in (1, 1, 2, 2)
    ]
    assert set(labels_of(one_sided, "probabilistic", 0.0)) == {0.0}
    assert 1.2 < best_shift(one_sided) < 1.9  # where half are good enough


def test_what_is_learnt_holds_for_sources_that_were_not_seen():
    router = fit_router(queries(400), "d", "e", {"trained": "today"})
    for kind in LABELS:
        figures = router.card["held_out"][kind]
        assert figures["log_loss"] < figures["log_loss_of_the_mean"]
        assert figures["accuracy"] >= 0.7
        curve = figures["curve"]
        assert [point["kept"] for point in curve] == list(KEPT_SHARES)
        assert all(point["quality"] > point["quality_at_random"] for point in curve[1:-1])
        ends = curve[0], curve[-1]
        assert all(point["quality"] == pytest.approx(point["quality_at_random"], rel=1e-3) for point in ends)
    sure, unsure = np.zeros(len(FEATURES)), np.zeros(len(FEATURES))
    sure[0], unsure[0] = 3, -3
    assert router.score("probabilistic", sure) > 0.8 and router.score("probabilistic", unsure) < 0.2
    assert router.card["sources_tested"] == 5 and router.card["fitted_on"] == 300


def test_answers_are_the_models_own_and_scored_by_the_target():
    device, edge = ToyEngine("draft", vocab_size=16), ToyEngine("target", vocab_size=16)
    prompt, coins = [1, 2, 3], [Coins(0, i) for i in range(200)]
    answers = generate(edge, Sampling(temperature=0.5), prompt, coins, "final", 3)
    assert len(answers) == 200 and {len(answer) for answer in answers} == {3}
    quality = score(edge, prompt, answers)
    row = edge.row((2, 3), OWN)
    assert quality[0] <= 0 and np.log(row[answers[0][0]]) <= 0
    worse = score(edge, prompt, generate(device, Sampling(temperature=0.5), prompt, coins, "draft", 3))
    assert worse.mean() < quality.mean()
    stopping = ToyEngine("target", vocab_size=4, eos=0)
    for answer in generate(stopping, Sampling(), prompt, coins[:20], "final", 30):
        assert 0 not in answer[:-1] and (answer[-1] == 0 or len(answer) == 30)


def test_from_a_configuration_to_a_run(tmp_path):
    prompts = [" ".join(f"t{t}" for t in RNG.integers(0, 32, 3 + i % 5)) for i in range(40)]
    config = {"systems": ["edge_ar"], "engine": {"engine": "toy"}, "workload": {"prompts": prompts}}
    file, out = tmp_path / "pair.yaml", tmp_path / "router.json"
    file.write_text(json.dumps(config))
    said = CliRunner().invoke(
        app, ["train", "router", str(file), "--out", str(out), "--answers", "3", "--new-tokens", "4", "--json"]
    )
    assert said.exit_code == 0, said.output
    router = read_router(out)
    assert router.card["queries"] == "the prompts of pair.yaml" and router.card["device"] == "toy"
    loaded = Config.model_validate({**config, "name": "pair"})
    route = make_route({"policy": "router", "file": str(out)})
    route.meet(router.device_model, router.edge_model)
    again = train_router(loaded, loaded.prompts, "x", answers=3, new_tokens=4)
    assert msgspec.structs.replace(again, card={}) == msgspec.structs.replace(router, card={})  # coins, not chance


def test_a_router_is_looked_for_beside_the_configuration(tmp_path, monkeypatch):
    (tmp_path / "trained").mkdir()
    write_router(fit_router(queries(400), "d", "e", {}), tmp_path / "trained" / "router.json")
    path = tmp_path / "mine.yaml"
    route = {"policy": "router", "file": "trained/router.json"}
    entries = [{"system": "hybrid_llm", "route": {"file": route["file"]}}, {"system": "edge_ar", "route": route}]
    path.write_text(json.dumps({"systems": entries, "engine": {"engine": "toy"}}))
    monkeypatch.chdir(tmp_path / "trained")
    found = [system.route["file"] for system in load_config(path).compositions]
    assert found == [str(tmp_path / "trained" / "router.json")] * 2
    (tmp_path / "trained" / "mine.yaml").write_text(path.read_text())
    with pytest.raises(ConfigError, match=f"no router is trained yet: there is no {tmp_path}/trained/trained"):
        load_config(tmp_path / "trained" / "mine.yaml")


def test_too_little_to_learn_from_is_said():
    config = Config.model_validate({"name": "few", "systems": ["edge_ar"], "engine": {"engine": "toy"}})
    with pytest.raises(EngineError, match="5 prompts are too few"):
        train_router(config, config.prompts[:5], "x", answers=2, new_tokens=2)
    alike = [Prompt(f"q{i}", "t1", "code") for i in range(40)]
    with pytest.raises(EngineError, match="of 1 categories: give at least 3"):
        train_router(config, alike, "x", answers=2, new_tokens=2)


def test_queries_are_of_files_the_pair_was_not_trained_on():
    found, what = held_out_queries(60)
    assert len({query.id for query in found}) >= 55 and "not trained on" in what
    assert all(query.category and query.text.count("\n") == 10 for query in found)
    assert held_out_queries(60)[0] == found
