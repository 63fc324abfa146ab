"""What every comparison of device-edge systems should hold: the large model alone over the same link, both models at
the edge, the small model alone, and whole draft rows written without loss. Without them a speedup says little."""

from __future__ import annotations

from collections.abc import Sequence

from nodes.composition import System, load_system
from nodes.policies.route import make_route

BASELINES = ("edge_ar", "colocated_sd", "device_ar", "dsd_sparse")


def absent_baselines(systems: Sequence[System]) -> list[str]:
    """Those that none of these systems is, whatever it is called."""
    return [name for name in BASELINES if not any(_is(system, load_system(name)) for system in systems)]


def _is(system: System, baseline: System) -> bool:
    alike = (system.method, _codec(system.up)) == (baseline.method, _codec(baseline.up))
    return alike and not make_route(system.route).decides


def _codec(part: str | dict[str, object]) -> object:
    return part if isinstance(part, str) else part["codec"]
