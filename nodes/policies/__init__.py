"""Where a request goes, when to stop drafting, whether to send, when the edge fires. Small axes; none knows a method or
a link."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any


class PolicyError(ValueError):
    """No such policy, or an option it does not have or cannot take."""


def number_within(axis: str, name: str, value: Any, low: float, high: float = math.inf) -> float:
    """`value`, if it is a number from `low` to `high`. Raises PolicyError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        allowed = f"from {low:g} to {high:g}" if high < math.inf else f"of at least {low:g}"
        raise PolicyError(f"{axis}: {name} must be a number {allowed}, not {value!r}")
    return value


def make_policy(axis: str, policies: Mapping[str, type], spec: Mapping[str, Any] | str) -> Any:
    """`spec` is a name, or `{policy: name, option: value}`. Raises PolicyError naming what there is."""
    options = {"policy": spec} if isinstance(spec, str) else dict(spec)
    name = str(options.pop("policy", None))
    if name not in policies:
        raise PolicyError(f"unknown {axis} policy {name!r}; there are: {', '.join(sorted(policies))}")
    known = list(inspect.signature(policies[name]).parameters)
    for option in options:
        if option not in known:
            raise PolicyError(f"{axis} policy {name} has no option {option!r}; it has: {', '.join(known) or 'none'}")
    return policies[name](**options)
