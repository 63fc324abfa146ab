"""From a file with a `sweep:` to its points: every one a whole configuration, checked before anything runs.

sweep = load_sweep(Path("grid.yaml"), ["workload.requests=2"])     # None: the file has no `sweep:`
sweep.points[0].config      # an ordinary experiment
sweep.id                    # differs where any point's resolved configuration, or its place on the axes, does
"""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from experiments.reading import MAX_ERRORS, ConfigError, assign, explain, override, read_yaml
from experiments.schema import Config, config_id
from experiments.sweep.section import POINT, Combination, SweepSection
from nodes.device import jobs


@dataclass(frozen=True)
class Point:
    id: str  # of its resolved configuration
    name: str  # `draft_length=4 link=poor`
    axes: dict[str, Any]  # dotted key → value or label
    config: Config

    @cached_property
    def requests(self) -> int:
        """Warm-up included."""
        return sum(1 for _ in jobs(self.config.to_runspec()))


@dataclass(frozen=True)
class Sweep:
    name: str
    source: Path
    base: dict[str, Any]  # the configuration as written, overrides applied, without `sweep:`
    section: dict[str, Any]  # `sweep:` as written
    repeats: int
    points: list[Point]

    @cached_property
    def id(self) -> str:
        return config_id({"points": sorted([point.id, sorted(point.axes.items())] for point in self.points)})

    def point(self, point_id: str) -> Point:
        return next(point for point in self.points if point.id == point_id)


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> Sweep | None:
    """The sweep in a YAML file; None where there is none. Raises ConfigError for what is wrong with it or with any of
    its points, all points in one message."""
    path = Path(path)
    base = read_yaml(path)
    base.setdefault("name", path.stem)
    for setting in overrides:
        _override(base, setting)
    if "sweep" not in base:
        return None
    written = base.pop("sweep")
    try:
        section = SweepSection.model_validate(written)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: sweep: {line}" for line in explain(error, SweepSection))) from None
    _refuse_covered(section, overrides)
    points = _points(path, base, section)
    return Sweep(str(base["name"]), path, base, dict(written), section.repeats, points)


def _override(base: dict[str, Any], setting: str) -> None:
    """`--set sweep.grid.link.rtt_ms=[0,20]` names one axis: its key has points of its own."""
    for part in ("sweep.grid.", "sweep.zip."):
        if setting.startswith(part):
            axis, _, _ = setting.removeprefix(part).partition("=")
            held: dict[str, Any] = {}
            override(held, f"axis={setting.partition('=')[2]}")
            assign(base, part.rstrip("."), {**_mapping_at(base, part), axis: held["axis"]}, f"--set {setting}")
            return
    override(base, setting)


def _mapping_at(base: dict[str, Any], part: str) -> dict[str, Any]:
    at: Any = base
    for key in part.rstrip(".").split("."):
        at = (at.get(key) if isinstance(at, dict) else None) or {}
    return dict(at)


def _refuse_covered(section: SweepSection, overrides: Sequence[str]) -> None:
    """What the command line sets and every point then sets again would be lost without a word."""
    for setting in overrides:
        key = setting.partition("=")[0]
        axis = next((axis for axis in section.keys if f"{key}.".startswith(f"{axis}.")), None)
        if axis is not None:
            raise ConfigError(f"--set {setting}: the sweep gives {axis} its values; set its axis, "
                              f"as in --set 'sweep.grid.{axis}=[...]', or leave it out")  # fmt: skip


def _points(path: Path, base: dict[str, Any], section: SweepSection) -> list[Point]:
    points: list[Point] = []
    failing: dict[str, list[str]] = defaultdict(list)  # what is wrong → the points it is wrong with
    short = short_names(section.keys)
    for combination in section.combinations():
        name = _name(combination, short)
        try:
            config = _configuration(path, base, combination)
            points.append(Point(config_id(config.resolved()), name, combination.axes, config))
        except ValidationError as error:
            for line in explain(error, Config):
                failing[line].append(name)
        except ConfigError as error:
            failing[str(error)].append(name)
    if failing:
        lines = [f"{path}: {_which(names)}: {line}" for line, names in failing.items()]
        more = [f"and {len(lines) - MAX_ERRORS} more"] if len(lines) > MAX_ERRORS else []
        raise ConfigError("\n".join(lines[:MAX_ERRORS] + more))
    _refuse_twins(path, points)
    return points


def _configuration(path: Path, base: dict[str, Any], combination: Combination) -> Config:
    """The wider key first, so that `link` and `link.rtt_ms` in one sweep are a link and a change to it."""
    data = copy.deepcopy(base)
    for key, value in sorted(combination.changes.items(), key=lambda change: change[0].count(".")):
        if key == "name":
            raise ConfigError("name: is that of the whole sweep, and of its folder; it cannot be an axis")
        assign(data, key, copy.deepcopy(value), f"sweep, {key}")
    return Config.model_validate(data, context={"folder": path.resolve().parent})


def _which(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"point {names[0]}"
    return f"{len(names)} points ({names[0]}, {'' if len(names) == 2 else '... '}{names[-1]})"


def _refuse_twins(path: Path, points: Sequence[Point]) -> None:
    seen: dict[str, Point] = {}
    for point in points:
        twin = seen.setdefault(point.id, point)
        if twin is not point:
            keys = twin.axes.keys() | point.axes.keys()
            differ = sorted(key for key in keys if twin.axes.get(key) != point.axes.get(key))
            what = ", ".join(differ) or "a value that is there twice"
            raise ConfigError(f"{path}: sweep: points {twin.name} and {point.name} come to the same configuration, "
                              f"so one of them says nothing: look at {what}")  # fmt: skip


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Dotted key → as much of its end as tells it from the others."""
    short = {}
    for key in keys:
        parts = key.split(".")
        ends = (".".join(parts[-n:]) for n in range(1, len(parts) + 1))
        short[key] = next(end for end in ends if sum(f".{other}".endswith(f".{end}") for other in keys) == 1
                          or end == key)  # fmt: skip
    return short


def _name(combination: Combination, short: dict[str, str]) -> str:
    """A named point is called so, not by what it changes."""
    named = combination.axes.get(POINT)
    own = combination.changes.keys() & combination.axes.keys() if named is None else _beside_named(combination)
    parts = [f"{short[key]}={plain(combination.axes[key])}" for key in combination.axes if key in own]
    return " ".join([*parts, *([str(named)] if named is not None else [])]) or "base"


def _beside_named(combination: Combination) -> set[str]:
    keys = list(combination.axes)
    return set(keys[: keys.index(POINT)])


def plain(value: Any) -> str:
    """As one writes it in YAML."""
    return value if isinstance(value, str) else json.dumps(value)
