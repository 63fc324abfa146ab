"""When the edge fires a forward, and so for whom. A policy sees only when each waiting request arrived."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nodes.policies import PolicyError, make_policy


class Immediate:
    """As soon as the engine is free, with whoever waits by then."""

    def due_ns(self, arrived_ns: Sequence[int]) -> int:
        return arrived_ns[0]


class Size:
    """When `size` requests wait, or the oldest has waited `max_wait_ms`."""

    def __init__(self, size: int = 4, max_wait_ms: float = 50.0) -> None:
        if size < 1 or max_wait_ms < 0:
            raise PolicyError(f"batch: size >= 1 and max_wait_ms >= 0, not {size} and {max_wait_ms}")
        self.size, self.max_wait_ns = size, round(max_wait_ms * 1e6)

    def due_ns(self, arrived_ns: Sequence[int]) -> int:
        return arrived_ns[0] if len(arrived_ns) >= self.size else arrived_ns[0] + self.max_wait_ns


class Age:
    """When the oldest has waited `age_ms`, however many there are."""

    def __init__(self, age_ms: float = 10.0) -> None:
        if age_ms < 0:
            raise PolicyError(f"batch: age_ms >= 0, not {age_ms}")
        self.age_ns = round(age_ms * 1e6)

    def due_ns(self, arrived_ns: Sequence[int]) -> int:
        return arrived_ns[0] + self.age_ns


POLICIES = {"immediate": Immediate, "size": Size, "age": Age}


def make_batch(spec: Mapping[str, Any] | str) -> Immediate | Size | Age:
    """`due_ns(arrived_ns)` takes the waiting requests' arrivals, oldest first, and says when to fire."""
    return make_policy("batch", POLICIES, spec)
