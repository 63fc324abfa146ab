"""Where a whole request goes: by its system's method, or to the device alone. One policy a file; the file's name is
the policy's name in YAML.

A policy decides before anything is generated, from what the device has then: the prompt, its own model, coins. What it
keeps on the device the target never sees, so a policy that may keep something is not exact.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, ClassVar

from nodes.engine import Engine
from nodes.policies import make_policy
from nodes.sampling import Coins
from nodes.session import Session


class Route:
    """`exact`: nothing is ever kept. `decides`: there is a decision to record."""

    exact: bool
    decides: bool = True
    files: ClassVar[tuple[str, ...]] = ()  # options that name a file

    def meet(self, device_model: str, edge_model: str) -> None:
        """The nodes have met; these are their models (`nodes.engine.weights.model_id`). Raises PolicyError where the
        policy was made for others."""

    def keeps(self, engine: Engine, session: Session, coins: Coins) -> bool:
        """Does the device answer alone? `session` holds the prompt; what is fed to it here stays fed."""
        raise NotImplementedError


def route_names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def route_class(name: str) -> type[Route]:
    return importlib.import_module(f"{__name__}.{name}").POLICY


def make_route(spec: Mapping[str, Any] | str) -> Route:
    """Raises PolicyError."""
    return make_policy("route", {name: route_class(name) for name in route_names()}, spec)
