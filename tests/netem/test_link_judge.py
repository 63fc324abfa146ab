"""What is judged and how strictly, on measurements made here: a known law, or one that is off by a known amount."""

from __future__ import annotations

import random

import pytest

from netem.distributions import delay_quantile_ms, middle_half_ms
from netem.judge import (
    PROBE_FRAME_BITS,
    LinkReport,
    arrival_rate_mbps,
    expected_delay_ms,
    independent_share,
    judge_delays,
    judge_jitter,
    judge_rate,
    mean_burst,
    paced_bits,
)
from netem.spec import DirectionSpec, LinkSpec


def report() -> LinkReport:
    return LinkReport(declared={}, applied={})


def drawn_ms(side: DirectionSpec, count: int, seed: int) -> list[float]:
    """As netem draws: an entry of the inverse distribution function, each as likely as another."""
    chance = random.Random(seed)
    return [delay_quantile_ms(side, chance.random()) or 0.0 for _ in range(count)]


def test_rate_is_the_slope_of_arrivals_past_the_start() -> None:
    arrivals = [0] * 30 + [1_000_000 * index for index in range(1, 61)]  # one 1514-byte frame per millisecond
    assert arrival_rate_mbps(arrivals, 0.0) == pytest.approx(12.112)
    unsettled = [0, 15_000_000] + [30_000_000 + 1_000_000 * index for index in range(5)] + [40_000_000, 50_000_000]
    assert arrival_rate_mbps(unsettled + [51_000_000 + at_ns for at_ns in arrivals[30:]], 0.05) == pytest.approx(12.112)
    assert arrival_rate_mbps([], 0.0) == 0


def test_bursts_are_runs_of_missing_numbers() -> None:
    assert mean_burst(10, {2, 3, 6, 7, 8, 9}) == 2
    assert mean_burst(3, {0, 1, 2}) is None


def test_probes_lost_in_bursts_tell_less() -> None:
    assert independent_share(DirectionSpec(loss_pct=3)) == 1
    assert 0.01 < independent_share(DirectionSpec(gilbert={"mean_loss_pct": 3, "mean_burst": 10})) < 0.1
    assert 0.01 < independent_share(DirectionSpec(loss_states={"mean_loss_pct": 3, "mean_burst": 10})) < 0.1


def test_report_without_problems_requires_nothing() -> None:
    found = report()
    assert found.require() is found


@pytest.mark.parametrize("distribution", ["uniform", "normal", "pareto", "paretonormal"])
def test_an_honest_jitter_passes_and_another_width_does_not(distribution: str) -> None:
    """Of two hundred honest measurements at most a few may be off (the check then measures once more)."""
    side = DirectionSpec(delay_ms=50, jitter_ms=10, distribution=distribution)
    if middle_half_ms(side) is None:
        pytest.skip("tc's tables of distributions are not here: apt install iproute2")
    spec, off = LinkSpec(up=side), 0
    for seed in range(200):
        off += bool(judge_jitter("up", spec, drawn_ms(side, 100, seed), report()))
    assert off <= 4
    for factor in (0.1, 2.5):
        other = DirectionSpec(delay_ms=50, jitter_ms=10 * factor, distribution=distribution)
        [problem] = judge_jitter("up", spec, drawn_ms(other, 400, 1), report())
        assert problem.startswith(f"jitter up: declared 10 ms {distribution}") and "tolerance.jitter_pct" in problem


def test_what_cannot_be_judged_of_jitter_is_said() -> None:
    few, correlated = report(), report()
    assert judge_jitter("up", LinkSpec(up={"delay_ms": 9, "jitter_ms": 2}), [9.0] * 12, few) == []
    up = {"delay_ms": 9, "jitter_ms": 2, "correlation_pct": 50}
    assert judge_jitter("up", LinkSpec(up=up), [9.0] * 99, correlated) == []
    assert few.skipped == ["jitter up: 12 probes are too few"]
    assert correlated.skipped == ["jitter up: jitter's correlation changes its spread"]


def test_tolerances_are_those_declared() -> None:
    delays_ms = {"rtt": [12.5] * 50, "up": [7.5] * 50, "down": [5.0] * 50}
    spec = LinkSpec(rtt_ms=10)
    assert [problem.split(":")[0] for problem in judge_delays(spec, delays_ms, report())] == ["round trip", "delay up"]
    assert judge_delays(LinkSpec(rtt_ms=10, tolerance={"rtt_ms": 3}), delays_ms, report()) == []
    arrivals_ns = [round(index * 1514 * 8 / 9.2e6 * 1e9) for index in range(300)]  # 9.2 Mbit/s
    for rate_pct, off in ((5, True), (10, False)):
        spec = LinkSpec(up={"rate_mbps": 10}, tolerance={"rate_pct": rate_pct})
        assert bool(judge_rate("up", spec, arrivals_ns, 15.0, report())) is off


def test_a_median_that_is_not_the_declared_delay_is_known() -> None:
    skewed = DirectionSpec(delay_ms=50, jitter_ms=10, distribution="pareto")
    if middle_half_ms(skewed) is not None:
        assert 45 < expected_delay_ms(skewed) < 48
    assert expected_delay_ms(DirectionSpec(delay_ms=50, reorder_pct=30)) == 50
    assert expected_delay_ms(DirectionSpec(delay_ms=50, reorder_pct=60)) == 0
    cells = DirectionSpec(rate_mbps=1, rate_overhead_bytes=8, rate_cell_bytes=48, rate_cell_overhead_bytes=5)
    assert paced_bits(cells, PROBE_FRAME_BITS) == 3 * 53 * 8  # 106 + 8 bytes fill three cells


def test_slots_hold_packets_back_and_are_not_judged() -> None:
    spec = LinkSpec(up={"delay_ms": 5, "slot": {"min_ms": 20}}, down={"delay_ms": 5})
    found = report()
    assert judge_delays(spec, {"rtt": [24.0] * 20, "up": [19.0] * 20, "down": [5.0] * 20}, found) == []
    assert found.skipped == ["delay up: slots hold packets back"]
    [problem] = judge_delays(spec, {"rtt": [24.0] * 20, "up": [19.0] * 20, "down": [9.0] * 20}, report())
    assert problem.startswith("delay down")
