from __future__ import annotations

import math
import random

import pytest

from netem.binomial import interval, tail_at_most


@pytest.mark.parametrize(("losses", "probes", "chance"), [(0, 10, 0.1), (3, 10, 0.5), (12, 1000, 0.01), (40, 50, 0.7)])
def test_tail_equals_the_sum_of_its_terms(losses: int, probes: int, chance: float) -> None:
    terms = [math.comb(probes, k) * chance**k * (1 - chance) ** (probes - k) for k in range(losses + 1)]
    assert tail_at_most(losses, probes, chance) == pytest.approx(sum(terms), rel=1e-9)


def test_known_interval() -> None:
    """Clopper-Pearson, 95 %, 5 of 100: 1.64 to 11.28 % in every textbook."""
    low, high = interval(5, 100, 0.95)
    assert (round(100 * low, 2), round(100 * high, 2)) == (1.64, 11.28)
    assert interval(0, 1000, 0.99)[0] == 0 and interval(10, 10, 0.99)[1] == 1


def test_the_interval_covers_at_least_as_often_as_it_says() -> None:
    rng = random.Random(7)
    hits = 0
    for _ in range(400):
        losses = sum(rng.random() < 0.03 for _ in range(500))
        low, high = interval(losses, 500, 0.9)
        hits += low <= 0.03 <= high
    assert hits >= 0.9 * 400 - 12
