"""Speedups of runs that have no edge_ar of their own, over that of a sibling: a sweep may put each system in a run.

A sibling met the same link, prompts, sampling and coins, with the same target, on the same machine. Of several the one
of the same pass is taken, then the one nearest in time. Requests are paired as within a run, and `speedup_beside` says
whose edge_ar it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from experiments.intervals import beside, comparisons
from experiments.store import RunFolder
from nodes.records import RequestRecord

if TYPE_CHECKING:
    from experiments.collection import Run

ALIKE = ("link", "workload", "sampling", "seed", "repeats")
SPEEDUP = "speedup_over_edge_ar"


def beside_siblings(runs: Sequence[Run]) -> list[Run]:
    """The runs, those without an edge_ar with speedups over a sibling's where there is one."""
    bases: dict[str, list[tuple[Run, Mapping[str, Any]]]] = {}
    for run in runs:
        base = next((f for f in run.summary["systems"] if _is_base(run, f)), None)
        if base is not None:
            bases.setdefault(_condition(run), []).append((run, base))
    return [_beside(run, bases.get(_condition(run), [])) if _lacks_base(run) else run for run in runs]


def _is_base(run: Run, figures: Mapping[str, Any]) -> bool:
    """As its own summary decided: what is once as fast as itself, and no other system's name."""
    names = {entry["as"]: entry["system"] for entry in run.config.get("systems", []) if isinstance(entry, dict)}
    return names.get(figures["system"], figures["system"]) == "edge_ar" and figures.get(SPEEDUP) == 1


def _lacks_base(run: Run) -> bool:
    return all(figures.get(SPEEDUP) is None for figures in run.summary["systems"])


def _condition(run: Run) -> str:
    engine = ((run.config.get("edge") or {}).get("engine")) or None
    alike = {key: run.config.get(key) for key in ALIKE}
    return json.dumps([alike, engine, run.host], sort_keys=True, default=str)


def _beside(run: Run, bases: Sequence[tuple[Run, Mapping[str, Any]]]) -> Run:
    if not bases:
        return run
    sibling, base = min(bases, key=lambda one: _distance(run, one[0]))
    theirs = [r for r in _counted(sibling) if r.system == base["system"]]
    ours = _counted(run)
    systems = []
    for figures in run.summary["systems"]:
        pairs = comparisons([*theirs, *ours], [base["system"], figures["system"]])
        found = beside(figures, base, pairs)
        systems.append({**figures, **found, "speedup_beside": sibling.label})
    return replace(run, summary={**run.summary, "systems": systems})


def _distance(run: Run, sibling: Run) -> tuple[bool, float]:
    mine, its = (one.manifest.get("sweep") or {} for one in (run, sibling))
    return mine.get("repeat") != its.get("repeat"), abs(_started_s(run) - _started_s(sibling))


def _started_s(run: Run) -> float:
    try:
        return datetime.fromisoformat(str(run.manifest.get("started"))).timestamp()
    except ValueError:
        return 0.0


def _counted(run: Run) -> list[RequestRecord]:
    return [request for request in RunFolder(run.path).requests().records if not request.warmup and not request.error]
