"""When the device stops drafting. One policy a file; the file's name is the policy's name in YAML.

A policy sees the draft so far and, after each settled round, what was measured; never a token that is not drawn yet.
Stopping on what is already drawn or already settled keeps the target's law. A policy that `adapts` reads clocks, so
two runs of it draft other lengths and may sample other tokens, of the same law: the laws that compare runs token for
token replace it by `fixed`. Its state is the system's on that device and lives through all its requests, warm-up
included.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, ClassVar

from nodes.methods import Draft
from nodes.policies import PolicyError, make_policy
from nodes.records import RoundRecord

LONGEST = 256


class Stop:
    """`max_length` is the most tokens it ever drafts in a round."""

    adapts: ClassVar[bool] = False
    max_length: int

    def more(self, draft: Draft) -> bool:
        """Draft another token? An empty draft is allowed: the edge then makes one token by itself."""
        raise NotImplementedError

    def observe(self, record: RoundRecord) -> None:
        """A round was settled. Called for every round, those that asked the edge nothing too."""


def checked_length(length: int, name: str = "max_length") -> int:
    if not isinstance(length, int) or not 1 <= length <= LONGEST:
        raise PolicyError(f"stop: {name} must be 1 to {LONGEST}, not {length}")
    return length


def stop_names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def make_stop(spec: Mapping[str, Any] | str) -> Stop:
    """Raises PolicyError."""
    policies = {name: importlib.import_module(f"{__name__}.{name}").POLICY for name in stop_names()}
    return make_policy("stop", policies, spec)
