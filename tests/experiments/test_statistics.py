"""Intervals cover what they say they cover; pairs help; a test under the null is a test; outliers are marked."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from experiments.statistics import (
    FEWEST,
    compare,
    difference_interval,
    outliers,
    ratio_interval,
    sign_flip,
    sums_by,
    units,
)

RUNS = 400


def skewed(rng, n, mean=10.0, sigma=0.4):
    """Lognormal, as times are."""
    return rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, n)


def within_binomial_bounds(hits: int, n: int, share: float) -> bool:
    """So many hits are what a share of `share` gives, in all but a thousandth of cases."""
    return stats.binomtest(hits, n, share).pvalue > 1e-3


def covers(interval, truth) -> bool:
    return interval[0] <= truth <= interval[1]


def test_an_interval_covers_the_truth_as_often_as_it_says():
    rng, hits = np.random.default_rng(1), 0
    for run in range(RUNS):
        tokens = rng.integers(20, 60, 60)
        seconds = tokens * skewed(rng, 60) / 1e3  # 10 ms a token in the mean, so 100 tokens/s
        hits += covers(ratio_interval(tokens, seconds, seed=run), 100.0)
    assert within_binomial_bounds(hits, RUNS, 0.95), hits / RUNS


def test_a_paired_interval_covers_the_truth_as_often_as_it_says():
    rng, hits = np.random.default_rng(2), 0
    for run in range(RUNS):
        prompt, tokens = skewed(rng, 60, sigma=0.6), np.full(60, 32)
        slow, fast = (prompt * rng.lognormal(0, 0.1, 60) * tokens * factor for factor in (1.3, 1.0))
        hits += covers(compare(slow, tokens, fast, tokens, seed=run).ci95, 1.3)
    assert within_binomial_bounds(hits, RUNS, 0.95), hits / RUNS


def test_acceleration_follows_the_skew():
    """Times are skewed to the right: their mean may be much larger than observed, hardly much smaller."""
    values = skewed(np.random.default_rng(3), 40, sigma=1.0)
    low, high = ratio_interval(values, np.ones(40))
    assert high - values.mean() > values.mean() - low


def test_pairs_make_the_interval_narrow_where_prompts_matter():
    rng = np.random.default_rng(4)
    prompt, tokens = skewed(rng, 40, sigma=0.6), np.full(40, 32)
    a, b = prompt * rng.lognormal(0, 0.05, 40), 1.1 * prompt * rng.lognormal(0, 0.05, 40)
    paired = compare(a * tokens, tokens, b * tokens, tokens)
    shuffled = compare(a * tokens, tokens, rng.permutation(b) * tokens, tokens)
    width, loose = paired.ci95[1] - paired.ci95[0], shuffled.ci95[1] - shuffled.ci95[0]
    assert width < loose / 3
    assert paired.ratio == pytest.approx(shuffled.ratio)
    assert paired.p_value < 0.001 < shuffled.p_value


def test_a_difference_to_nothing_is_the_ratio_and_changes_sign_the_other_way_round():
    rng = np.random.default_rng(6)
    a, wholes_a, b, wholes_b = (skewed(rng, 12) for _ in range(4))
    assert difference_interval(a, wholes_a, np.zeros(12), wholes_b) == pytest.approx(ratio_interval(a, wholes_a))
    low, high = difference_interval(a, wholes_a, b, wholes_b)
    assert difference_interval(b, wholes_b, a, wholes_a) == pytest.approx([-high, -low])
    assert difference_interval(a, wholes_a, a, wholes_a) == [0, 0]


def test_a_comparison_is_the_same_the_other_way_round():
    rng = np.random.default_rng(5)
    a, b, tokens = skewed(rng, 20), skewed(rng, 20), rng.integers(5, 50, 20)
    one, other = compare(a, tokens, b, tokens), compare(b, tokens, a, tokens)
    assert one.ratio == pytest.approx(1 / other.ratio) and one.p_value == other.p_value
    assert one.ci95 == pytest.approx([1 / other.ci95[1], 1 / other.ci95[0]], rel=0.01)


@pytest.mark.parametrize("n", [8, 30])  # all patterns tried; patterns drawn
def test_under_the_null_small_p_values_are_as_rare_as_they_say(n):
    rng = np.random.default_rng(6)
    p = np.array([sign_flip(rng.standard_normal(n), seed=run) for run in range(RUNS)])
    for level in (0.05, 0.2):
        assert within_binomial_bounds(int((p <= level).sum()), RUNS, np.floor(level * 2**n) / 2**n)


def test_every_pattern_of_few_units_is_tried():
    assert sign_flip([1.0] * 5) == 2 / 2**5  # nothing is as far out but itself and its mirror image
    assert sign_flip([1.0, -1.0]) == 1.0


def test_the_same_records_give_the_same_figures():
    rng = np.random.default_rng(7)
    a, b = skewed(rng, 30), skewed(rng, 30)
    assert ratio_interval(a, b) == ratio_interval(a, b)
    assert compare(a, b, b, a) == compare(a, b, b, a)


def test_too_few_units_have_no_interval_and_no_test():
    few = np.arange(1.0, FEWEST)
    assert ratio_interval(few, few) is None
    found = compare(few, few, 2 * few, few)
    assert (found.pairs, found.ratio, found.ci95, found.p_value) == (FEWEST - 1, 0.5, None, None)
    assert outliers([*few[:-1], 1e9]) == [False] * len(few)


def test_units_without_a_whole_have_no_interval():
    assert ratio_interval(np.ones(5), np.zeros(5)) is None


def test_units_that_are_all_alike_have_an_interval_of_no_width():
    low, high = ratio_interval(np.full(9, 6.0), np.full(9, 2.0))
    assert low == high == 3.0


def test_repeats_of_a_prompt_are_drawn_together():
    prompts = [f"p{i % 6}" for i in range(18)]
    assert units(prompts, range(18)) == ("prompts", prompts)
    assert units(["p0"] * 18, range(18)) == ("requests", list(range(18)))
    assert sums_by(["b", "a", "b"], [1, 2, 4]) == {"b": 5.0, "a": 2.0}


@pytest.mark.parametrize("n", range(FEWEST, 11))
def test_repeats_of_a_prompt_do_not_make_an_interval_narrow(n):
    """Ten equal repeats of each prompt tell no more of other prompts than one does."""
    seconds, tokens = skewed(np.random.default_rng(8), n), np.full(n, 32.0)
    prompts = [f"p{i}" for i in range(n)] * 10
    once = ratio_interval(seconds, tokens)
    many = ratio_interval(
        list(sums_by(prompts, np.tile(seconds, 10)).values()), list(sums_by(prompts, np.tile(tokens, 10)).values())
    )
    assert many == pytest.approx(once)


def test_what_stands_apart_is_marked_and_nothing_else():
    values = np.concatenate([np.linspace(9, 11, 20), [30.0, 2.0]])
    assert outliers(values) == [False] * 20 + [True, True]
