"""How many losses a declared loss allows: exact binomial intervals, no dependencies."""

from __future__ import annotations

import math


def tail_at_most(losses: int, probes: int, chance: float) -> float:
    """P(X <= losses) for X ~ Binomial(probes, chance)."""
    if chance <= 0 or losses >= probes:
        return 1.0
    if chance >= 1 or losses < 0:
        return 0.0
    mode = min(losses, math.floor((probes + 1) * chance))
    log_term = (
        math.lgamma(probes + 1)
        - math.lgamma(mode + 1)
        - math.lgamma(probes - mode + 1)
        + mode * math.log(chance)
        + (probes - mode) * math.log1p(-chance)
    )
    odds = chance / (1 - chance)
    total = peak = math.exp(log_term)
    term = peak
    for count in range(mode, 0, -1):  # downwards from the largest term
        term *= count / ((probes - count + 1) * odds)
        total += term
        if term < 1e-16 * total:
            break
    term = peak
    for count in range(mode, losses):  # and upwards
        term *= (probes - count) / (count + 1) * odds
        total += term
    return min(1.0, total)


def interval(losses: int, probes: int, confidence: float) -> tuple[float, float]:
    """Clopper-Pearson: the loss probabilities for which `losses` out of `probes` is no surprise."""
    doubt = (1 - confidence) / 2
    low = 0.0 if losses == 0 else _solve(lambda chance: 1 - tail_at_most(losses - 1, probes, chance) - doubt)
    high = 1.0 if losses == probes else _solve(lambda chance: doubt - tail_at_most(losses, probes, chance))
    return low, high


def _solve(rising) -> float:  # type: ignore[no-untyped-def]
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2
