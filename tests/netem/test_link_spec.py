from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from netem.impairments import GilbertSpec, LossStatesSpec
from netem.profiles import list_profiles, load_profile, profile_names
from netem.spec import DirectionSpec, LinkSpec


def test_nothing_declared_is_an_unshaped_link() -> None:
    assert not LinkSpec().is_shaped
    assert not LinkSpec(backend="uml", tcp={"congestion": "reno"}).is_shaped


def test_round_trip_is_split_in_half_and_the_rest_holds_for_both_directions() -> None:
    link = LinkSpec(rtt_ms=50, rate_mbps=8, loss_pct=1, jitter_ms=2)
    assert link.up == link.down == DirectionSpec(delay_ms=25, rate_mbps=8, loss_pct=1, jitter_ms=2)
    assert link.base_rtt_ms == 50


def test_shorthand_may_be_completed_per_direction() -> None:
    link = LinkSpec(rtt_ms=50, up={"rate_mbps": 5}, down={"rate_mbps": 20})
    assert (link.up.rate_mbps, link.down.rate_mbps, link.up.delay_ms) == (5, 20, 25)


@pytest.mark.parametrize(
    "link",
    [
        {"rtt_ms": 40},
        {"profile": "lte_fair", "rtt_ms": 10, "jitter_ms": 1},
        {"up": {"gilbert": {"mean_loss_pct": 2, "mean_burst": 4}}, "tcp": {"initcwnd": 20}},
    ],
)
def test_a_dumped_spec_reads_back_as_itself(link: dict) -> None:
    spec = LinkSpec(**link)
    assert LinkSpec(**spec.model_dump()) == spec
    assert LinkSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ({"rate_mbs": 5}, ["rate_mbs"]),
        ({"up": {"speed": 5}}, ["up.speed"]),
        ({"rtt_ms": 40, "up": {"delay_ms": 3}}, ["rtt_ms (40)", "up.delay_ms (3)"]),
        ({"loss_pct": 1, "down": {"loss_pct": 2}}, ["loss_pct (1)", "down.loss_pct (2)"]),
        ({"rate_mbps": 0}, ["rate_mbps", "leave it out"]),
        ({"rate_mbps": -1}, ["rate_mbps"]),
        ({"rate_mbps": math.inf}, ["rate_mbps"]),
        ({"rtt_ms": -2}, ["delay_ms"]),
        ({"rtt_ms": "soon"}, ["rtt_ms must be a number"]),
        ({"loss_pct": 101}, ["loss_pct"]),
        ({"rtt_ms": 10, "jitter_ms": 6}, ["jitter_ms (6)", "delay_ms (5)", "lower jitter_ms"]),
        ({"up": {"reorder_pct": 5}}, ["reorder_pct", "delay_ms"]),
        ({"up": {"distribution": "normal", "delay_ms": 5}}, ["distribution", "jitter_ms"]),
        ({"up": {"loss_correlation_pct": 25}}, ["loss_correlation_pct", "loss_pct"]),
        ({"up": {"loss_pct": 1, "gilbert": {"mean_loss_pct": 1, "mean_burst": 2}}}, ["gilbert", "keep one"]),
        ({"up": {"gilbert": {"mean_loss_pct": 80, "mean_burst": 1}}}, ["raise mean_burst to at least 4"]),
        ({"up": {"queue_packets": 0}}, ["queue_packets"]),
        ({"backend": "magic"}, ["backend"]),
        ({"profile": "nowhere"}, ["nowhere", "lte_good", ".yaml"]),
        ({"tcp": {"congestion": "cubic; reboot"}}, ["congestion"]),
        ({"tolerance": {"rtt_ms": 0}}, ["tolerance.rtt_ms"]),
    ],
)
def test_the_impossible_is_refused_by_name(link: dict, words: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        LinkSpec(**link)
    for word in words:
        assert word in str(caught.value)


def test_queue_holds_what_is_in_flight_and_never_less_than_tc_would() -> None:
    assert DirectionSpec(rate_mbps=10, delay_ms=20).limit_packets == 1000
    assert DirectionSpec(rate_mbps=100, delay_ms=200, jitter_ms=40).limit_packets == math.ceil(
        1.5 * 1e8 / 8 * 0.24 / 1500
    )
    assert DirectionSpec(delay_ms=100).limit_packets == math.ceil(1.5 * 1e9 / 8 * 0.1 / 1500)
    assert DirectionSpec(queue_packets=7).limit_packets == 7


def test_gilbert_chances_give_the_declared_mean_loss_and_burst() -> None:
    gilbert = GilbertSpec(mean_loss_pct=2, mean_burst=4)
    assert gilbert.leave_pct == 25
    assert gilbert.enter_pct / (gilbert.enter_pct + gilbert.leave_pct) == pytest.approx(0.02)


def test_profile_is_a_starting_point() -> None:
    link = LinkSpec(profile="lte_good", loss_pct=2, down={"rate_mbps": 40})
    assert (link.up.rate_mbps, link.down.rate_mbps, link.up.delay_ms, link.down.loss_pct) == (10, 40, 30, 2)


def test_burst_loss_replaces_a_profiles_random_loss_and_no_jitter_its_distribution() -> None:
    link = LinkSpec(profile="uav_los", jitter_ms=0, up={"gilbert": {"mean_loss_pct": 3, "mean_burst": 5}})
    assert link.up.gilbert is not None and link.up.loss_pct == 0 and link.up.distribution == "uniform"
    assert link.down.loss_pct == 0.5


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_profile_is_a_valid_link_with_its_source(name: str) -> None:
    profile = load_profile(name)
    assert profile["title"] and len(profile["source"]) > 40
    assert LinkSpec(profile=name).is_shaped


def test_profiles_are_listed_with_numbers() -> None:
    listed = {profile["name"]: profile for profile in list_profiles()}
    assert len(listed) >= 13
    assert listed["satellite"]["link"]["up"]["delay_ms"] == 300


def test_a_users_own_profile(tmp_path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("title: mine\nlink: {rtt_ms: 12}\n")
    assert LinkSpec(profile=str(own)).base_rtt_ms == 12
    own.write_text("link: {rtt_ms: 12}\nauthor: me\n")
    with pytest.raises(ValidationError, match="author"):
        LinkSpec(profile=str(own))
    own.write_text("rtt_ms: 12\n")
    with pytest.raises(ValidationError, match="link:"):
        LinkSpec(profile=str(own))


@pytest.mark.parametrize(
    ("up", "words"),
    [
        (
            {"gilbert": {"mean_loss_pct": 1, "mean_burst": 2}, "loss_states": {"mean_loss_pct": 1, "mean_burst": 2}},
            "keep",
        ),
        ({"gilbert": {"mean_loss_pct": 5, "mean_burst": 2, "bad_loss_pct": 4}}, "between good_loss_pct"),
        ({"loss_states": {"mean_loss_pct": 1, "mean_burst": 2, "isolated_loss_pct": 1}}, "leaves nothing"),
        ({"loss_states": {"mean_loss_pct": 5, "mean_burst": 2, "burst_density_pct": 40}}, "raise mean_burst"),
        ({"ecn": True}, "declare a loss"),
        ({"seed": 3, "delay_ms": 5}, "nothing is drawn"),
        ({"rate_overhead_bytes": 4}, "rate_mbps"),
        ({"slot": {"max_ms": 3}}, "min_ms"),
        ({"slot": {"min_ms": 3, "mean_ms": 3}}, "min_ms"),
        ({"slot": {"min_ms": 3, "max_ms": 2}}, "less than"),
        ({"slot": {"mean_ms": 3, "distribution": "normal"}}, "does nothing without jitter_ms"),
        ({"duplicate_correlation_pct": 4}, "duplicate_pct"),
    ],
)
def test_more_of_the_impossible(up: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        LinkSpec(up=up)


def test_loss_states_have_the_declared_figures() -> None:
    """The stationary shares of netem's chain: 1 received, 2 received in a burst, 3 lost in a burst, 4 lost alone."""
    declared = LossStatesSpec(mean_loss_pct=6, mean_burst=8, burst_density_pct=70, good_run=1.5, isolated_loss_pct=1)
    p = {name: chance / 100 for name, chance in declared.netem_pct.items()}
    chain = np.array(
        [
            [1 - p["p13"] - p["p14"], 0, p["p13"], p["p14"]],
            [0, 1 - p["p23"], p["p23"], 0],
            [p["p31"], p["p32"], 1 - p["p31"] - p["p32"], 0],
            [1, 0, 0, 0],
        ]
    )
    assert np.all(chain >= 0)
    _, in_burst, lost_in_burst, lost_alone = np.linalg.matrix_power(chain, 4096)[0]
    assert 100 * (lost_in_burst + lost_alone) == pytest.approx(6)
    assert 100 * lost_alone == pytest.approx(1)
    assert 100 * lost_in_burst / (in_burst + lost_in_burst) == pytest.approx(70)
    assert (in_burst + lost_in_burst) / (lost_in_burst * p["p31"]) == pytest.approx(8)
    assert 1 / p["p23"] == pytest.approx(1.5)


def test_loss_states_without_gaps_are_gilberts() -> None:
    states, gilbert = (
        LossStatesSpec(mean_loss_pct=3, mean_burst=4).netem_pct,
        GilbertSpec(mean_loss_pct=3, mean_burst=4),
    )
    assert (states["p13"], states["p31"]) == pytest.approx((gilbert.enter_pct, gilbert.leave_pct))
    assert states["p32"] == states["p14"] == 0


def test_elliotts_chances_give_the_declared_mean() -> None:
    gilbert = GilbertSpec(mean_loss_pct=4, mean_burst=10, bad_loss_pct=50, good_loss_pct=1)
    bad = gilbert.enter_pct / (gilbert.enter_pct + gilbert.leave_pct)
    assert 50 * bad + 1 * (1 - bad) == pytest.approx(4)
