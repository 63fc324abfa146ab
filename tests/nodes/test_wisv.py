"""WISV: what its threshold does at both ends, that its two protocols agree, what a round of each weighs."""

from __future__ import annotations

import numpy as np
import pytest
from harness import PROMPT, Setup, composed, device_on, play, read_back, target_row, toy_edge

from nodes.channel import Channel
from nodes.composition import CompositionError, load_system
from nodes.engine.toy import HIDDEN_SIZE, ToyEngine
from nodes.heads import HeadError
from nodes.heads.toy import toy_head
from nodes.link_meter import FASTEST_MBPS, LinkMeter
from nodes.methods import LinkState
from nodes.methods.wisv import LINK
from nodes.sampling import Sampling
from nodes.session import Session
from transport.inproc import Faults

PROTOCOLS = ["wisv", "wisv_mismatch_first"]


def wisv(protocol, c_th=0.5, link=LINK, length=3, **parts):
    options = {"c_th": c_th, "link": link}
    return composed(protocol, options=options, stop={"policy": "fixed", "length": length}, **parts)


# What the threshold does ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_accepting_no_mismatch_is_the_target_alone(protocol, temperature, tmp_path):
    strict = wisv(protocol, c_th=1)
    assert strict.exact and not wisv(protocol, c_th=0.999).exact
    result = play(Setup([strict, "edge_ar"], sampling=Sampling(temperature=temperature)), tmp_path)
    assert result.tokens(strict.name) == result.tokens("edge_ar")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_accepting_everything_is_the_draft_alone(protocol, tmp_path):
    """The first token is drafted and stands, so its law is the draft's, and far from the target's."""
    lax = wisv(protocol, c_th=0)
    setup = Setup([lax], requests=4000, max_new_tokens=2, acceptance=0.6)
    result = play(setup, tmp_path)
    assert all(record.n_accepted == record.n_drafted for record in result.rounds)
    prompt = setup.engine("target").tokenizer.encode(PROMPT)
    target = target_row(setup, prompt)
    draft = setup.engine("draft").forward([Session(setup.sampling, prompt)], [1])[0].row(0)
    first = np.bincount([tokens[0] for tokens in result.tokens(lax.name)], minlength=len(target)) / 4000
    assert np.abs(first - draft).sum() / 2 < 0.04
    assert np.abs(first - target).sum() / 2 == pytest.approx(0.4, abs=0.04)


def test_a_lower_threshold_and_a_slower_link_accept_more(tmp_path):
    slow = {"rtt_ms": 500, "rate_mbps": 0.5}
    systems = [wisv("wisv", c_th) for c_th in (0.9, 0.5, 0.1)] + [wisv("wisv", 0.5, slow)]
    result = play(Setup(systems, requests=60), tmp_path)
    shares = []
    for system in systems:
        rounds = [record for record in result.rounds if record.system == system.name]
        shares.append(sum(r.n_accepted for r in rounds) / sum(r.n_drafted for r in rounds))
    assert shares[0] < shares[1] < shares[2] and shares[1] < shares[3]


# Two protocols, one system --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c_th", [0, 0.5, 1])
def test_both_protocols_settle_the_same_tokens(c_th, tmp_path):
    systems = [
        wisv(protocol, c_th, schedule=schedule) for protocol in PROTOCOLS for schedule in ("stop_and_wait", "lookahead")
    ]
    result = play(Setup(systems, requests=30), tmp_path)
    first, *others = [result.tokens(system.name) for system in systems]
    assert all(other == first for other in others)


def test_two_exchanges_survive_losses(tmp_path):
    setup = Setup([wisv("wisv_mismatch_first")], requests=4, retry_after_s=0.05)
    calm = play(setup, tmp_path / "calm").tokens(setup.systems[0].name)
    losses = Faults(drop_probability=0.15, duplicate_every=3, seed=1), Faults(drop_probability=0.15, seed=2)
    rough = play(setup, tmp_path / "rough", *losses)
    assert rough.tokens(setup.systems[0].name) == calm
    assert sum(record.retries for record in rough.requests) > 0


@pytest.mark.parametrize("leg", ["first", "second"])
def test_two_exchanges_survive_an_edge_that_restarts_before_either(leg, tmp_path, monkeypatch):
    """It dies after it named the mismatches and before their states arrive, or before the draft does: the round begins
    anew on an edge that knows nothing."""
    setup = Setup([wisv("wisv_mismatch_first")], requests=4, max_new_tokens=24, retry_after_s=0.05)
    calm = play(setup, tmp_path / "calm").tokens(setup.systems[0].name)
    sends = {"first": "send", "second": "follow_up"}[leg]
    send, sent = getattr(Channel, sends), 0
    with toy_edge(setup) as edge:

        def restart_now_and_then(channel, *message):
            nonlocal sent
            sent += 1
            if sent in (2, 7):
                edge.kill()
                edge.start()
            return send(channel, *message)

        monkeypatch.setattr(Channel, sends, restart_now_and_then)
        device = device_on(setup, edge, tmp_path / "rough")
        device.run()
        device.close()
        device.writer.close()
        rough = read_back(tmp_path / "rough", edge.node)
    assert rough.tokens(setup.systems[0].name) == calm
    assert sum(record.resumed for record in rough.requests) == 2


def test_bytes_of_a_round_are_the_formula(tmp_path):
    """Payload, 4 bytes an id, count or figure, 2 a number of a hidden state; carried tokens ride up at 4 bytes each."""
    length, state = 3, 2 * HIDDEN_SIZE
    full, first = (wisv(protocol, length=length) for protocol in PROTOCOLS)
    result = play(Setup([full, first], requests=30, eos=None), tmp_path)
    rounds = {system.name: [r for r in result.rounds if r.system == system.name] for system in (full, first)}
    assert len(rounds[full.name]) == len(rounds[first.name])
    both = False
    for one, two in zip(rounds[full.name], rounds[first.name]):
        g, carried = one.n_drafted, 4 * 2 if one.round == 1 else 0  # the prompt
        assert one.up_ideal_bytes == 4 * g + state * g + 8 + carried and one.down_ideal_bytes == 4 + 4 and one.legs == 1
        if two.legs == 1:
            assert two.n_accepted == g
            assert two.up_ideal_bytes == 4 * g + 8 + carried and two.down_ideal_bytes == 4 + 4
        else:
            both = True
            mismatches, rest = divmod(two.up_ideal_bytes - 4 * g - 8 - carried, state)
            assert two.legs == 2 and rest == 0 and 1 <= mismatches <= g
            assert two.down_ideal_bytes == (4 + 4 * mismatches) + (4 + 4)
    assert both


# What it is told of the link ------------------------------------------------------------------------------------------


def test_the_meter_finds_time_and_rate():
    meter = LinkMeter()
    meter.greeted(30.0)
    assert meter.state == LinkState(30.0, FASTEST_MBPS)
    for crossed_bytes in (3000, 500, 12_000, 700):
        meter.add(crossed_bytes, 40 + crossed_bytes * 8e-3 / 5)  # 40 ms, 5 Mbit/s
    assert meter.state.rtt_ms == pytest.approx(40) and meter.state.rate_mbps == pytest.approx(5)


def test_what_was_measured_goes_up(tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr("nodes.heads.judge.Judge.check_link", lambda self, link: sent.append(link.tolist()))
    play(Setup([wisv("wisv", link="measured")], requests=3), tmp_path)
    assert all(rtt_ms > 0 and rate_mbps > 0 for rtt_ms, rate_mbps in sent)
    assert len({rtt_ms for rtt_ms, _ in sent}) > 3  # it follows the rounds


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"c_th": 1.5}, "c_th must be a probability"),
        ({"c_th": "high"}, "c_th must be a probability"),
        ({"link": {"rtt_ms": 50}}, "link must be"),
        ({"link": {"rtt_ms": 50, "rate_mbps": 0}}, "link must be"),
        ({"head": "/nowhere/head.npz"}, "dssd train head CONFIG --out"),
    ],
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_cannot_be_is_refused(protocol, options, said):
    with pytest.raises(CompositionError, match=said):
        load_system(protocol, options=options)


def test_a_hostile_up_is_refused():
    method = wisv("wisv").build_for(ToyEngine("target"), "target")
    link = np.array([50, 10], dtype=np.float32)
    good = method.judge.encode(np.zeros((2, HIDDEN_SIZE)))
    method.check(method.Up(tokens=[1, 2], hidden=good, link=link))
    for hidden, figures in [
        (method.judge.encode(np.zeros((1, HIDDEN_SIZE))), link),
        (method.judge.encode(np.full((2, HIDDEN_SIZE), np.nan)), link),
        (good, link[:1]),
        (good, -link),
    ]:
        with pytest.raises(HeadError):
            method.check(method.Up(tokens=[1, 2], hidden=hidden, link=figures))


def test_the_toys_head_says_that_it_is_one():
    card = toy_head().card
    assert card.labels.startswith("none") and card.draft.engine == card.target.engine == "toy"
