"""When the edge fires a forward, and so for whom. A policy sees only when each waiting request arrived: since then it
has waited, if only for the forward before to end. A stream's next token arrives when the last one is out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nodes.policies import PolicyError, make_policy, number_within


class Immediate:
    """As soon as the engine is free, with whoever waits by then."""

    def due_ns(self, arrived_ns: Sequence[int]) -> int:
        return arrived_ns[0]


class Size:
    """When `size` requests wait, or the oldest has waited `max_wait_ms`."""

    def __init__(self, size: int = 4, max_wait_ms: float = 50.0) -> None:
        if not isinstance(size, int) or size < 1:
            raise PolicyError(f"batch: size must be a whole number of at least 1, not {size!r}")
        self.size, self.max_wait_ns = size, round(number_within("batch", "max_wait_ms", max_wait_ms, 0) * 1e6)

    def due_ns(self, arrived_ns: Sequence[int]) -> int:
        return arrived_ns[0] if len(arrived_ns) >= self.size else arrived_ns[0] + self.max_wait_ns


class Age:
    """When the oldest has waited `age_ms`, however many there are."""

    def __init__(self, age_ms: float = 10.0) -> None:
        self.age_ns = round(number_within("batch", "age_ms", age_ms, 0) * 1e6)

    def due_ns(self, arrived_ns: Sequence[int]) -> int:
        return arrived_ns[0] + self.age_ns


POLICIES = {"immediate": Immediate, "size": Size, "age": Age}


def make_batch(spec: Mapping[str, Any] | str) -> Immediate | Size | Age:
    """`due_ns(arrived_ns)` takes the waiting requests' arrivals, oldest first, and says when to fire."""
    return make_policy("batch", POLICIES, spec)
