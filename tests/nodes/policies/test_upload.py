"""Upload policies: what is skipped is counted, and its ids are really sent."""

from __future__ import annotations

import numpy as np
import pytest
from harness import Setup, composed, device_on, methods_with_edge, play, read_back, toy_edge

from nodes.composition import load_system
from nodes.methods import Draft, method_names
from nodes.policies import PolicyError
from nodes.policies.upload import POLICIES, make_upload, uncertainty
from nodes.sampling import Coins, Sampling

COINS = Coins(1, 2)


def row_of(*probs):
    return np.array(probs, dtype=np.float32)


def test_a_sure_row_is_certain_and_a_flat_one_is_not():
    sure, flat = row_of(1, 0, 0, 0), row_of(0.25, 0.25, 0.25, 0.25)
    assert uncertainty(sure, 0, COINS, 5, 20) == 0
    assert uncertainty(flat, 0, COINS, 5, 1000) == pytest.approx(0.75, abs=0.05)
    assert 0.1 < uncertainty(row_of(0.8, 0.1, 0.05, 0.05), 0, COINS, 5, 1000) < 0.3
    assert uncertainty(flat, 0, COINS, 5, 20) == uncertainty(flat, 0, COINS, 5, 20)  # a pure function of the coins


def test_policies_choose():
    draft = Draft(3, [0], [0.6], [row_of(0.6, 0.2, 0.2)], [])
    assert make_upload({"policy": "uncertainty", "threshold": 0}).worth(draft, COINS)
    assert not make_upload({"policy": "uncertainty", "threshold": 1}).worth(draft, COINS)
    assert make_upload({"policy": "hard", "threshold": 0.61}).worth(draft, COINS)
    assert not make_upload({"policy": "hard", "threshold": 0.6}).worth(draft, COINS)


@pytest.mark.parametrize(
    "spec",
    [
        {"policy": "uncertainty", "threshold": 1.1},
        {"policy": "uncertainty", "samples": 0},
        {"policy": "hard", "threshold": -1},
    ],
    ids=str,
)
def test_bad_options_are_refused(spec):
    with pytest.raises(PolicyError):
        make_upload(spec)


@pytest.mark.parametrize("schedule", ["stop_and_wait", "lookahead"])
def test_skipped_ids_are_sent_with_the_next_round(schedule, tmp_path):
    system = load_system("u_hlm", schedule=schedule, upload={"policy": "uncertainty", "threshold": 0.5})
    assert not system.exact
    setup = Setup([system], requests=6, max_new_tokens=30)
    result = play(setup, tmp_path)
    asked, kept = [r for r in result.rounds if r.sent_ns], [r for r in result.rounds if not r.sent_ns]
    assert asked and kept and all(r.n_unverified == r.n_emitted == 1 for r in kept)
    row_bytes, waiting, request = 4 * setup.vocab_size, 0, None
    for record in result.rounds:
        if record.request_id != request:
            request, waiting = record.request_id, 2  # the prompt
        if record.sent_ns:
            assert record.up_ideal_bytes == 4 + row_bytes + 4 * waiting
            waiting = 0
        else:
            waiting += 1


@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_reaches_its_end_whatever_the_method(policy, tmp_path):
    """The last token may need an empty draft, and some devices draft nothing at all."""
    systems = [composed(method, upload=policy) for method in methods_with_edge(method_names())]
    setup = Setup(systems, requests=1)
    with toy_edge(setup) as edge:
        device = device_on(setup, edge, tmp_path)
        device.watch = lambda record, tokens: record.round < 10 * setup.max_new_tokens
        device.run()
        device.close()
        device.writer.close()
        result = read_back(tmp_path, edge.node)
    ends = {r.system: (len(r.tokens), r.finish_reason) for r in result.requests}
    assert ends == {system.name: (setup.max_new_tokens, "length") for system in systems}


def test_hlm_without_skipping_asks_once_a_token(tmp_path):
    result = play(Setup(["hlm"], requests=4), tmp_path)
    assert all(r.n_emitted == 1 and r.sent_ns for r in result.rounds)


def test_hsl_asks_about_hard_tokens_only(tmp_path):
    setup = Setup(["hsl"], requests=10, max_new_tokens=30, sampling=Sampling(temperature=0.4))
    result = play(setup, tmp_path)
    assert not load_system("hsl").exact
    kept = [r for r in result.rounds if not r.sent_ns]
    assert kept and all(r.n_unverified == r.n_emitted for r in kept)
    assert sum(r.n_unverified for r in result.rounds) < sum(r.n_emitted for r in result.rounds)


def test_cu_hlm_sends_less(tmp_path):
    systems = [load_system(name, upload="always") for name in ("hlm", "cu_hlm")]
    setup = Setup(systems, requests=4, vocab_size=512, sampling=Sampling(temperature=0.4))
    result = play(setup, tmp_path)
    sent = {name: sum(r.up_ideal_bytes for r in result.rounds if r.system == name) for name in ("hlm", "cu_hlm")}
    assert sent["cu_hlm"] < 0.6 * sent["hlm"]
