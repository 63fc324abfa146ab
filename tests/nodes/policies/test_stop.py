"""Stop policies that adapt: the closed form against brute force and the published table, and what each learns."""

from __future__ import annotations

import random

import pytest
from harness import Setup, composed, play

from nodes.composition import CompositionError
from nodes.policies import PolicyError
from nodes.policies.stop import make_stop
from nodes.policies.stop.optimal_length import best_length, gain, minus_lambert
from nodes.records import RoundRecord

# TK-SLT's Table I: the best length by acceptance and by L, the cost of a drafted token
COSTS = (0.01, 0.1, 0.2, 0.4, 0.6)
PUBLISHED = {0.4: (4, 2, 1, 1, 1), 0.6: (7, 3, 2, 1, 1), 0.8: (14, 6, 4, 2, 1)}


class World:
    """A device, an edge and a link that answer a policy with rounds of known cost."""

    def __init__(self, alpha=0.8, draft_ms=5.0, fixed_ms=60.0, token_ms=0.5, verify_ms=20.0, noise=0.02, seed=0):
        self.alpha, self.draft_ms, self.fixed_ms, self.token_ms = alpha, draft_ms, fixed_ms, token_ms
        self.verify_ms, self.noise, self.chance = verify_ms, noise, random.Random(seed)

    def round(self, length):
        accepted = 0
        while accepted < length and self.chance.random() < self.alpha:
            accepted += 1
        record = RoundRecord("s", "r", 0, False, 1, 0, 0, 0, sent_ns=1, received_ns=1)
        record.n_drafted, record.n_accepted, record.n_emitted = length, accepted, accepted + 1
        record.draft_ms, record.verify_ms = length * self.draft_ms, self.verify_ms
        rest = (self.fixed_ms + length * self.token_ms) * self.chance.uniform(1 - self.noise, 1 + self.noise)
        record.end_ns = round((record.draft_ms + rest) * 1e6)
        record.up_wire_bytes, record.down_wire_bytes = 100 + 4 * length, 50
        return record

    def latency_ms(self, length):
        return (self.fixed_ms + length * (self.draft_ms + self.token_ms)) / sum(
            self.alpha**i for i in range(length + 1)
        )

    def best(self, longest=16):
        return min(range(longest + 1), key=self.latency_ms)


class Drafted:
    def __init__(self, n):
        self.tokens, self.probs = [0] * n, [1.0] * n


def length_now(stop):
    n = 0
    while stop.more(Drafted(n)):
        n += 1
    return n


def live(stop, world, rounds):
    """Let it draft; returns its lengths and mean latency per token over the last half."""
    lengths, spent_ms, tokens = [], 0.0, 0
    for i in range(rounds):
        lengths.append(length_now(stop))
        record = world.round(lengths[-1])
        stop.observe(record)
        if i >= rounds // 2:
            spent_ms += record.end_ns / 1e6
            tokens += record.n_emitted
    return lengths, spent_ms / tokens


# The closed form ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", PUBLISHED)
@pytest.mark.parametrize("column", range(len(COSTS)))
def test_published_best_lengths(alpha, column):
    assert best_length(alpha, COSTS[column]) == PUBLISHED[alpha][column]


def test_published_region_of_the_target_alone():
    assert gain(1, 0.4, 0.6) <= 1 and gain(1, 0.6, 0.6) <= 1
    assert gain(1, 0.8, 0.6) == pytest.approx(1.8 / 1.6)


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.995])
@pytest.mark.parametrize("cost", [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.6, 0.99, 1.5])
def test_closed_form_is_the_best_of_all(alpha, cost):
    assert gain(best_length(alpha, cost), alpha, cost) == pytest.approx(
        max(gain(length, alpha, cost) for length in range(1, 1500)), rel=1e-12
    )


@pytest.mark.parametrize("u", [0, 1e-9, 1e-3, 1, 50, 1e5])
def test_lambert(u):
    import math

    y = minus_lambert(u)
    assert y >= 1 and y - math.log(y) == pytest.approx(u + 1, rel=1e-12)
    if 1e-3 <= u <= 50:
        from scipy.special import lambertw

        assert y == pytest.approx(-lambertw(-math.exp(-u - 1), -1).real, rel=1e-6)


# What they learn ------------------------------------------------------------------------------------------------------

POLICIES = ["optimal_length", "delay_bandit", {"policy": "delay_cost", "weight_ms_per_j": 0}]
WORLDS = [
    {"alpha": 0.8, "fixed_ms": 60},
    {"alpha": 0.8, "fixed_ms": 300},
    {"alpha": 0.5, "fixed_ms": 60},
    {"alpha": 0.95, "fixed_ms": 150, "draft_ms": 10},
]


@pytest.mark.parametrize("world", WORLDS, ids=str)
@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_finds_the_best_fixed_length(policy, world):
    """Within 5 % of the offline best of all fixed lengths."""
    world = World(**world)
    _, latency = live(make_stop(policy), world, 1500)
    assert latency < 1.05 * world.latency_ms(world.best())


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_follows_a_link_that_changes(policy):
    stop = make_stop(policy)
    near, far = World(alpha=0.85, fixed_ms=15), World(alpha=0.85, fixed_ms=400)
    assert near.best() + 4 <= far.best()
    live(stop, near, 800)
    _, latency = live(stop, far, 800)
    assert latency < 1.06 * far.latency_ms(far.best())
    _, latency = live(stop, near, 800)
    assert latency < 1.15 * near.latency_ms(near.best())


@pytest.mark.parametrize("policy", ["optimal_length", "delay_cost"])
def test_drafts_nothing_where_nothing_is_gained_and_comes_back(policy):
    stop = make_stop(policy)
    hopeless = World(alpha=0.05, draft_ms=20, fixed_ms=60)
    lengths, _ = live(stop, hopeless, 400)
    assert lengths[-100:].count(0) > 80
    lengths, _ = live(stop, World(alpha=0.9, draft_ms=2, fixed_ms=60), 1500)
    assert lengths[-100:].count(0) == 0


def test_energy_draws_the_length_down():
    world = World(alpha=0.9, draft_ms=10, fixed_ms=200, verify_ms=5)
    fast = live(make_stop({"policy": "delay_cost", "weight_ms_per_j": 0}), world, 600)[0]
    spec = {"policy": "delay_cost", "weight_ms_per_j": 2000, "verify_w": 20, "wait_w": 0}
    frugal = live(make_stop(spec), world, 600)[0]
    assert sum(frugal[-100:]) < sum(fast[-100:]) - 200


def test_rounds_that_tell_nothing_are_left_out():
    stop = make_stop("optimal_length")
    world = World()
    lost, unsent = world.round(4), world.round(4)
    lost.attempt, unsent.sent_ns = 1, 0
    for record in (lost, unsent):
        stop.observe(record)
    assert stop.rounds.seen == 0


# In a system ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["stop_and_wait", "lookahead"])
@pytest.mark.parametrize("policy", ["optimal_length", "delay_cost", "delay_bandit"])
@pytest.mark.parametrize("method", ["dssd", "device_ar"])
def test_runs_to_the_end(policy, method, schedule, tmp_path):
    system = composed(method, stop={"policy": policy, "max_length": 3}, schedule=schedule)
    result = play(Setup([system], requests=5), tmp_path)
    assert [len(tokens) for tokens in result.tokens(system.name)] == [12] * 5
    lengths = {record.n_drafted for record in result.rounds}
    assert max(lengths) <= 3 and (method == "device_ar" or len(lengths) > 1)


def test_an_empty_draft_is_a_round(tmp_path):
    class Never(type(make_stop("fixed"))):
        def more(self, draft):
            return False

    from unittest.mock import patch

    with patch("nodes.device.make_stop", lambda spec: Never()):
        result = play(Setup(["dssd", "coupled", "token_match", "dsd"], requests=3, max_new_tokens=4), tmp_path)
    assert {record.n_drafted for record in result.rounds} == {0} and all(len(r.tokens) == 4 for r in result.requests)


@pytest.mark.parametrize(
    "spec",
    [
        {"policy": "optimal_length", "max_length": 0},
        {"policy": "optimal_length", "forgetting": 0.1},
        {"policy": "delay_bandit", "optimism": -1},
        {"policy": "delay_cost", "draft_w": -1},
        {"policy": "confidence", "threshold": 2},
        {"policy": "nonsense"},
    ],
    ids=str,
)
def test_bad_options_are_refused(spec):
    with pytest.raises(PolicyError):
        make_stop(spec)


def test_the_edges_own_drafter_cannot_adapt():
    with pytest.raises(CompositionError, match="fixed"):
        composed("colocated_sd", stop="delay_bandit")
