"""In which order a sweep's runs take place.

The passes are the outer loop, so that what drifts over hours (heat, neighbours, a battery) meets every point alike. An
odd pass is a shuffle of the points: written order would tie the slowest axis to the time of day. The pass after it is
the same backwards: over such a pair every point has the same mean place in time, so a linear drift cancels exactly. The
shuffle comes from the sweep's id: a sweep that goes on goes on in the order it began with.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """One run of one point."""

    point: str  # its id
    repeat: int  # the pass, from 1


def turns(sweep_id: str, points: Sequence[str], repeats: int) -> list[Turn]:
    """Every point once a pass."""
    order: list[Turn] = []
    for repeat in range(1, repeats + 1):
        shuffled = sorted(points)
        random.Random(f"{sweep_id}/{(repeat + 1) // 2}").shuffle(shuffled)
        order += [Turn(point, repeat) for point in (shuffled if repeat % 2 else reversed(shuffled))]
    return order
