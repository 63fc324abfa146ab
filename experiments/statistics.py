"""How sure a figure is: bootstrap intervals, paired comparisons, and what stands apart.

    ratio_interval(tokens, seconds)          tokens per second with its 95 % interval
    compare(ms_a, tokens_a, ms_b, tokens_b)  how many times as long as b a takes for a token, on the same units
    outliers(values)                         which values stand apart; they are marked, never dropped

A unit is what is drawn with replacement: a prompt with all its repeats where there are enough prompts, else a request
(`units`). Intervals are bias-corrected and accelerated (Efron, "Better bootstrap confidence intervals", J. Am. Stat.
Assoc. 82, 1987), always from the same draws, so that the same records give the same interval. Of two systems that met
the same prompts and coins the units are drawn together: what makes a prompt slow for both then cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
FLIPS = 4095  # sign patterns drawn where there are too many to try them all
EXACT_FLIPS = 12  # up to so many units every pattern is tried
FEWEST = 5  # units; below, resampling only shuffles a handful of values
SEED = 20_240_229
CONFIDENCE = 0.95
ROUNDING = 1e-9  # of the draws' range: what lies nearer to the estimate is the estimate
FENCE = 1.5  # interquartile ranges
OUTLIER_RULE = f"ms per token beyond {FENCE:g} interquartile ranges outside the quartiles (Tukey's fences)"
NORMAL = NormalDist()

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]  # weights of the units [r, n] -> what comes out [r]


@dataclass(frozen=True)
class Comparison:
    """`ratio` < 1: a is faster. `p_value`: how often signs drawn at random would separate the two as far."""

    pairs: int
    ratio: float
    ci95: list[float] | None
    p_value: float | None


def units(prompts: Sequence[Hashable], requests: Sequence[Hashable]) -> tuple[str, list[Hashable]]:
    """What the requests are drawn by, and each request's unit: its prompt, where there are at least FEWEST of them
    (repeats of a prompt resemble one another, so they stay together), else the request itself."""
    return ("prompts", list(prompts)) if len(set(prompts)) >= FEWEST else ("requests", list(requests))


def sums_by(keys: Sequence[Hashable], values: ArrayLike) -> dict[Hashable, float]:
    """The sum of every unit's values, units in the order in which they first come."""
    sums: dict[Hashable, float] = {}
    for key, value in zip(keys, np.asarray(values, dtype=float).tolist()):
        sums[key] = sums.get(key, 0.0) + value
    return sums


def ratio_interval(parts: ArrayLike, wholes: ArrayLike, seed: int = SEED) -> list[float] | None:
    """[low, high] of sum(parts) / sum(wholes) over units [n]; None for fewer than FEWEST units or where some draw has
    no whole."""
    top, bottom = np.asarray(parts, dtype=float), np.asarray(wholes, dtype=float)

    def ratio(weights: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return (weights @ top) / (weights @ bottom)

    return _interval(ratio, len(top), seed)


def difference_interval(
    parts_a: ArrayLike, wholes_a: ArrayLike, parts_b: ArrayLike, wholes_b: ArrayLike, seed: int = SEED
) -> list[float] | None:
    """[low, high] of the difference of two ratios of sums over the same units [n]: parts_a / wholes_a less parts_b /
    wholes_b; None as for `ratio_interval`."""
    columns = np.column_stack([np.asarray(each, dtype=float) for each in (parts_a, wholes_a, parts_b, wholes_b)])

    def difference(weights: Floats) -> Floats:
        sums = weights @ columns
        with np.errstate(divide="ignore", invalid="ignore"):
            return sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3]

    return _interval(difference, len(columns), seed)


def compare(
    parts_a: ArrayLike, wholes_a: ArrayLike, parts_b: ArrayLike, wholes_b: ArrayLike, seed: int = SEED
) -> Comparison:
    """Ratio of two ratios of sums over the same units [n]: (parts_a / wholes_a) / (parts_b / wholes_b)."""
    columns = np.column_stack([np.asarray(each, dtype=float) for each in (parts_a, wholes_a, parts_b, wholes_b)])

    def ratio(weights: Floats) -> Floats:
        sums = weights @ columns
        with np.errstate(divide="ignore", invalid="ignore"):
            return sums[:, 0] * sums[:, 3] / (sums[:, 1] * sums[:, 2])

    n = len(columns)
    p_value = None
    if n >= FEWEST and (columns > 0).all():
        p_value = sign_flip(np.log(columns[:, 0] * columns[:, 3] / (columns[:, 1] * columns[:, 2])), seed)
    return Comparison(n, float(ratio(np.ones((1, n)))[0]), _interval(ratio, n, seed), p_value)


def sign_flip(differences: ArrayLike, seed: int = SEED) -> float:
    """Two-sided p-value of a mean of paired differences [n], under which each might as well have had the other sign
    (Fisher's permutation test): all patterns where n <= EXACT_FLIPS, else FLIPS random ones."""
    values = np.asarray(differences, dtype=float)
    n = len(values)
    if n <= EXACT_FLIPS:
        signs = 1 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        drawn = np.random.default_rng(seed).choice([-1.0, 1.0], size=(FLIPS, n))
        signs = np.vstack([np.ones(n), drawn])  # the pattern that was observed is one of them
    means = np.abs(signs @ values)
    return float((means >= means[0] * (1 - 1e-12)).mean())


def outliers(values: ArrayLike) -> list[bool]:
    """OUTLIER_RULE for each value; none among fewer than FEWEST."""
    found = np.asarray(values, dtype=float)
    if len(found) < FEWEST:
        return [False] * len(found)
    low, high = np.percentile(found, [25, 75])
    reach = FENCE * (high - low)
    return ((found < low - reach) | (found > high + reach)).tolist()


def _interval(statistic: Statistic, n: int, seed: int) -> list[float] | None:
    """Bias-corrected and accelerated: percentiles of the draws, shifted by how many of them lie below the estimate and
    by how skewed the estimate is in the units, which leaving out each one of them tells."""
    if n < FEWEST:
        return None
    drawn = statistic(_draws(n, seed))
    estimate = float(statistic(np.ones((1, n)))[0])
    without = statistic(np.ones((n, n)) - np.eye(n))
    if not (np.isfinite(drawn).all() and np.isfinite(without).all() and np.isfinite(estimate)):
        return None
    ties = np.abs(drawn - estimate) <= ROUNDING * np.ptp(drawn)  # a last digit hangs on how BLAS sums
    below = float((drawn < estimate)[~ties].sum() + ties.sum() / 2) / len(drawn)
    if not 0 < below < 1:
        return [float(drawn.min()), float(drawn.max())]
    bias = NORMAL.inv_cdf(below)
    apart = without.mean() - without
    spread = float((apart**2).sum()) ** 1.5
    skew = float((apart**3).sum()) / (6 * spread) if spread else 0.0
    ends = []
    for tail in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2):
        z = bias + NORMAL.inv_cdf(tail)
        ends.append(100 * NORMAL.cdf(bias + z / (1 - skew * z)))
    low, high = np.percentile(drawn, ends).tolist()
    return [low, high]


@lru_cache(maxsize=64)
def _draws(n: int, seed: int) -> Floats:
    """[RESAMPLES, n] how often each of n units is drawn."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)
