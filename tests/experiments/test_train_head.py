"""Training a decision head: the network, what a mismatch costs, the labels, and the whole way on tables."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
import yaml
from harness import Setup, composed, play
from typer.testing import CliRunner

from experiments.cli import app
from experiments.quality import OWN
from experiments.schema import Config, ConfigError, load_config
from experiments.training.head import (
    BUDGET_NATS,
    CONTINUED,
    DRAFT_LENGTH,
    Mismatch,
    budget_nats,
    draw_links,
    labelled,
    mismatches,
    path_logprobs,
    train_head,
)
from experiments.training.network import auc, fit_network
from nodes.composition import CompositionError
from nodes.engine import EngineError
from nodes.engine.toy import HIDDEN_SIZE, ToyEngine
from nodes.heads import RATE_MBPS, RTT_MS, HeadError, read_head
from nodes.runspec import Prompt, conversation_id
from nodes.sampling import Coins, Sampling, sample
from nodes.session import Session

TEXTS = [" ".join(f"t{(i * j) % 31 + 1}" for j in range(1, 4)) for i in range(1, 33)]
CONFIG = {"name": "pair", "systems": ["edge_ar"], "engine": {"engine": "toy"}, "workload": {"prompts": TEXTS}}


def heights(weights, rows):
    inner = np.maximum(rows @ weights["inner"].T + weights["inner_bias"], 0)
    return inner @ weights["outer"] + weights["outer_bias"]


# The network ----------------------------------------------------------------------------------------------------------


def test_a_network_finds_what_no_line_can():
    """The label is whether two inputs, of unlike scale and far from zero, lie on the same side."""
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(12_000, 6)) * [1, 50, 1, 1, 1, 0.01] + [5, -200, 0, 0, 0, 1]).astype(np.float32)
    labels = ((rows[:, 0] > 5) == (rows[:, 1] > -200)).astype(float)
    weights = fit_network(rows[:8000], labels[:8000], np.random.default_rng(1))
    assert {name: value.dtype for name, value in weights.items()} == dict.fromkeys(weights, np.dtype("float32"))
    scores = heights(weights, rows[8000:])  # rows as they are: the scale it was fitted in is inside the weights
    assert auc(scores, labels[8000:]) > 0.9
    again = fit_network(rows[:8000], labels[:8000], np.random.default_rng(1))
    assert all(np.array_equal(again[name], weights[name]) for name in weights)


def test_labels_of_one_kind_and_inputs_that_never_change_are_no_error():
    rows = np.ones((600, 3), dtype=np.float32)
    weights = fit_network(rows, np.ones(600), np.random.default_rng(0))
    assert np.isfinite(heights(weights, rows)).all() and (heights(weights, rows) > 3).all()


def test_auc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(2)
    scores, labels = rng.integers(0, 8, 200) / 8, (rng.random(200) < 0.3).astype(float)
    pairs = [float(a > b) + 0.5 * float(a == b) for a, b in product(scores[labels == 1], scores[labels == 0])]
    assert auc(scores, labels) == pytest.approx(np.mean(pairs))
    assert auc(labels, labels) == 1 and auc(-labels, labels) == 0
    assert np.isnan(auc(scores, np.ones(200)))


# What a mismatch costs ------------------------------------------------------------------------------------------------


def test_a_path_is_the_token_and_the_targets_greedy_continuation():
    edge = ToyEngine("target", vocab_size=16)
    before, tokens = [[1, 2, 3], [4, 5]], [6, 7]
    found = path_logprobs(edge, [Session(OWN), Session(OWN)], before, tokens)
    for text, token, total in zip(before, tokens, found):
        said, text = 0.0, list(text)
        for step in range(CONTINUED + 1):
            row = edge.forward([Session(OWN, text)], [1])[0].row(0)
            chosen = token if step == 0 else int(row.argmax())
            said += float(np.log(row[chosen]))
            text.append(chosen)
        assert total == pytest.approx(said, rel=1e-5)
    assert path_logprobs(edge, [], [], []).shape == (0,)


def test_mismatches_are_those_of_the_rounds_that_wisv_would_play():
    """The first round's, drawn again by hand; and the text goes on with what the edge drew."""
    device, edge = (ToyEngine(role, vocab_size=16, acceptance=0.5) for role in ("draft", "target"))
    sampling, prompt = Sampling(seed=3), Prompt("p", "t1 t2 t3", "c")
    coins, text = Coins(3, conversation_id("p", 0)), edge.tokenizer.encode(prompt.text)
    draft: list[int] = []
    for _ in range(DRAFT_LENGTH):
        row = device.forward([Session(sampling, [*text, *draft])], [1])[0].row(0)
        draft.append(sample(row, coins("draft", len(text) + len(draft))))
    expected = 0
    for j in range(DRAFT_LENGTH):
        row = edge.forward([Session(sampling, [*text, *draft[:j]])], [1])[0].row(0)
        expected += sample(row, coins.fixed("final", len(text) + j)) != draft[j]
    found = list(mismatches(device, edge, sampling, [prompt], rounds=1))
    assert len(found) == expected > 0
    assert {mismatch.group for mismatch in found} == {"c"}
    assert all(len(one.draft) == len(one.target) == HIDDEN_SIZE and np.isfinite(one.loss_nats) for one in found)
    assert len(list(mismatches(device, edge, sampling, [prompt], rounds=6))) > len(found)


def test_a_slow_link_forgives_more_and_no_link_forgives_all():
    links = np.array([[0.1, 1000.0], [50.0, 10.0], [500.0, 1.0], [1000.0, 0.1]])
    budgets = budget_nats(links, round_bytes=1000)
    assert (np.diff(budgets) > 0).all() and 0 < budgets[0] < 0.02 and budgets[-1] < BUDGET_NATS
    drawn = draw_links(500, np.random.default_rng(0))
    for figures, (low, high) in zip(np.moveaxis(drawn, -1, 0), (RTT_MS, RATE_MBPS)):
        assert low <= figures.min() < 2 * low and high / 2 < figures.max() <= high
    state = np.zeros(4, dtype=np.float32)
    seen = [Mismatch("g", state, state, loss) for loss in (-1.0, float(budgets[1]) + 1e-6, 99.0)]
    rows, labels = labelled(seen, np.broadcast_to(links, (3, 4, 2)), round_bytes=1000)
    assert rows.shape == (12, 4 + 4 + 2)
    assert labels.reshape(3, 4).tolist() == [[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]]


# From a configuration to a run ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A head for the pair of toys, as `dssd train head` makes it."""
    folder = tmp_path_factory.mktemp("head")
    (folder / "pair.yaml").write_text(json.dumps(CONFIG))
    out = folder / "head.npz"
    said = CliRunner().invoke(
        app, ["train", "head", str(folder / "pair.yaml"), "--out", str(out), "--rounds", "16", "--json"]
    )
    assert said.exit_code == 0, said.output
    return out


def test_a_trained_head_says_what_it_is_and_is_made_alike_again(trained, tmp_path):
    head = read_head(trained)
    assert head.card.draft.engine == head.card.target.engine == "toy" and "of pair.yaml" in head.card.data["of"]
    assert set(head.card.held_out) >= {"auc", "accuracy", "acceptable", "accepted"}
    assert head.card.data["mismatches_fitted_on"] > head.card.data["mismatches_tested_on"] >= 200
    config = Config.model_validate(CONFIG)
    again = train_head(config, config.prompts, "x", 16, tmp_path / "again.npz")  # coins, not chance
    assert all(np.array_equal(again.weights[name], head.weights[name]) for name in head.weights)
    assert again.card.held_out == head.card.held_out


@pytest.mark.parametrize("protocol", ["wisv", "wisv_mismatch_first"])
def test_a_run_asks_the_head_that_it_names(trained, protocol, tmp_path):
    options = {"head": str(trained), "c_th": 0.5, "link": {"rtt_ms": 500, "rate_mbps": 0.5}}
    system, strict = composed(protocol, options=options), composed(protocol, options={**options, "c_th": 1})
    result = play(Setup([system, strict], vocab_size=32, acceptance=0.7), tmp_path)
    accepted = {
        name: sum(record.n_accepted for record in result.rounds if record.system == name)
        for name in (system.name, strict.name)
    }
    assert accepted[system.name] > accepted[strict.name] > 0


def test_a_head_for_another_model_is_refused(trained):
    system = composed("wisv", options={"head": str(trained)})
    for role in ("draft", "target"):
        system.build_for(ToyEngine(role, vocab_size=32), role)
        other = ToyEngine(role, vocab_size=32, table_seed=7)
        with pytest.raises(CompositionError, match=rf"was trained for the {role} toy.*dssd train head CONFIG"):
            system.build_for(other, role)


def test_no_head_ships_for_a_model_that_is_not_ours():
    stranger = ToyEngine("target", vocab_size=32)
    stranger.labels = frozenset()
    with pytest.raises(CompositionError, match=r"no head ships for the target toy.*dssd train head CONFIG"):
        composed("wisv").build_for(stranger, "target")


def test_a_head_is_looked_for_beside_the_configuration(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"head": "head.npz"}
    path = trained.parent / "mine.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, "systems": [{"system": "wisv", "options": options}]}))
    assert load_config(path).compositions[0].options["head"] == str(trained)
    elsewhere = tmp_path / "mine.yaml"
    elsewhere.write_text(path.read_text())
    with pytest.raises(ConfigError, match=f"no head at {tmp_path}/head.npz"):
        load_config(elsewhere)
    path.write_text(yaml.safe_dump({**CONFIG, "systems": ["wisv"]}))
    assert load_config(path).compositions[0].options["head"] == "shipped"


def test_weights_that_are_not_those_of_the_card_are_refused(trained, tmp_path):
    for name in ("head.npz", "head.json"):
        (tmp_path / name).write_bytes((trained.parent / name).read_bytes())
    with (tmp_path / "head.npz").open("ab") as file:
        file.write(b"x")
    with pytest.raises(HeadError, match="is not the file that its card describes"):
        read_head(tmp_path / "head.npz")
    (tmp_path / "head.json").write_text("{}")
    with pytest.raises(HeadError, match="is not a head's card"):
        read_head(tmp_path / "head.npz")


def test_too_little_to_learn_from_is_said(tmp_path):
    config = Config.model_validate(CONFIG)
    with pytest.raises(EngineError, match="are too few, 200 each are wanted"):
        train_head(config, config.prompts[:4], "x", 1, tmp_path / "head.npz")
    assert not list(tmp_path.iterdir())
