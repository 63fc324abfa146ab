"""`sweep:` of a configuration: which keys take which values.

    sweep:
      grid: {draft_length: [2, 4, 8], link.rtt_ms: [0, 20, 50]}    every combination
      zip: {link.up.rate_mbps: [10, 50], link.down.rate_mbps: [30, 100]}    first with first, second with second
      points: {gentle: {sampling.temperature: 0.5}, wild: {sampling.temperature: 1.5}}    by name
      repeats: 2                                                    passes over all of them

Together they multiply: grid × rows of zip × points. Keys are dotted as for `--set`. A mapping in place of a list gives
its values labels: `link: {good: wifi_good, poor: {up: {rate_mbps: 1}}}`. Knows nothing of what the keys mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from experiments.reading import Strict

POINT = "point"  # the axis of named points; no key of a configuration is called so


@dataclass(frozen=True)
class Value:
    """A value of an axis, and what it is called in tables: its label, itself where it is a scalar, else its text."""

    value: Any
    shown: str | int | float | bool | None


@dataclass(frozen=True)
class Combination:
    """What one point changes in the base configuration."""

    axes: dict[str, Any] = field(default_factory=dict)  # dotted key (or `point`) → value or label
    changes: dict[str, Any] = field(default_factory=dict)  # dotted key → value


def _values(written: Any) -> list[Value]:
    if isinstance(written, Mapping):
        if not all(isinstance(label, str) for label in written):
            raise ValueError("a mapping gives values labels, and a label is text: quote it")
        values = [Value(value, label) for label, value in written.items()]
    elif isinstance(written, list):
        values = [Value(value, _text(value)) for value in written]
    else:
        raise ValueError(f"needs a list of values, or a mapping of labels to values, not {written!r}")
    if not values:
        raise ValueError("has no values")
    return values


def _text(value: Any) -> str | int | float | bool | None:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True).strip()


Axis = Annotated[
    list[Value],
    BeforeValidator(_values),
    WithJsonSchema({"anyOf": [{"type": "array", "minItems": 1}, {"type": "object", "minProperties": 1}]}),
]


class SweepSection(Strict):
    grid: dict[str, Axis] | None = Field(default=None, description="every combination of these")
    zip: dict[str, Axis] | None = Field(default=None, description="these go together, one by one")
    points: dict[str, dict[str, Any]] | None = Field(default=None, description="by name: keys, values")
    repeats: int = Field(default=1, ge=1, description="passes over all points, in an order that cancels drift")

    @model_validator(mode="after")
    def _makes_sense(self) -> SweepSection:
        empty = next((part for part in ("grid", "zip", "points") if getattr(self, part) == {}), None)
        if empty:
            raise ValueError(f"{empty}: is empty; name a key in it, or leave it out")
        if self.repeats == 1 and not (self.grid or self.zip or self.points):
            raise ValueError("varies nothing: give grid, zip, points, or repeats above 1")
        lengths = {key: len(axis) for key, axis in (self.zip or {}).items()}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{key} has {n}" for key, n in lengths.items())
            raise ValueError(f"zip: its keys go together one by one, so they need as many values each: {counts}")
        owners: dict[str, str] = {}
        for part, keys in (("grid", self.grid or {}), ("zip", self.zip or {}), ("points", self._named_keys)):
            for key in keys:
                if not all(key.split(".")):
                    raise ValueError(f"{part}: {key!r} is not a key: write it as section.key")
                if owners.setdefault(key, part) != part:
                    raise ValueError(f"{key} is in {owners[key]} and in {part}: keep one of them")
        return self

    @property
    def _named_keys(self) -> list[str]:
        return list(dict.fromkeys(key for changes in (self.points or {}).values() for key in changes))

    @property
    def keys(self) -> list[str]:
        """Every dotted key that some point changes."""
        return [*(self.grid or {}), *(self.zip or {}), *self._named_keys]

    def combinations(self) -> Iterator[Combination]:
        """In the order of the file, the last axis changing fastest."""
        axes = [[Combination({key: v.shown}, {key: v.value}) for v in axis] for key, axis in (self.grid or {}).items()]
        if self.zip:
            rows = zip(*self.zip.values())
            axes.append([
                Combination({k: v.shown for k, v in zip(self.zip, row)}, {k: v.value for k, v in zip(self.zip, row)})
                for row in rows
            ])  # fmt: skip
        if self.points:
            axes.append([
                Combination({POINT: name, **{key: _text(value) for key, value in changes.items()}}, dict(changes))
                for name, changes in self.points.items()
            ])  # fmt: skip
        for parts in product(*axes):
            yield Combination(
                {key: shown for part in parts for key, shown in part.axes.items()},
                {key: value for part in parts for key, value in part.changes.items()},
            )
