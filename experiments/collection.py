"""Many runs together: where they lie, in what they differ, and one row for each system of each run.

    found = collect([Path("results/grid/sweep-1a2b3c4d"), Path("results/quickstart/latest")])
    found.axes     {"link.rtt_ms": [0.0, 20.0, 50.0], ...}   in what the runs differ: dotted keys and their values
    found.rows     a run's system each: its figures, its place on the axes

What cannot be taken in is left out and said: `left_out` has a line for each.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.axes import Value, differing, row_axes
from experiments.siblings import beside_siblings
from experiments.store import RunFolder, StoreError
from experiments.summary import FORMAT, summarise_run

ASIDE = ("running", "failed", "interrupted")  # where a sweep keeps runs that are not done
DEEPEST = 4  # folders below the one that was named: results/NAME/sweep-ID/RUN


@dataclass(frozen=True)
class Run:
    """A run that was summed up. `label` tells it from the collection's others."""

    path: Path
    label: str
    summary: Mapping[str, Any]
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    axes: Mapping[str, Value] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return str((self.manifest.get("machine") or {}).get("host", ""))

    @property
    def day(self) -> str:
        return str(self.manifest.get("started") or "")[:10]


@dataclass(frozen=True)
class Row:
    """One system of one run. `kind` is the published system it is made from, whatever it is called here."""

    run: int
    system: str
    kind: str
    figures: Mapping[str, Any]
    axes: Mapping[str, Value]  # the run's, and what belongs to the system: draft_length, threshold


@dataclass(frozen=True)
class Collection:
    runs: Sequence[Run]
    left_out: Sequence[str]
    axes: Mapping[str, Sequence[Value]]  # of the runs

    @cached_property
    def rows(self) -> list[Row]:
        rows = []
        for i, run in enumerate(self.runs):
            entries = {entry["as"]: entry for entry in run.config.get("systems", []) if isinstance(entry, dict)}
            for figures in run.summary["systems"]:
                entry = entries.get(figures["system"], {})
                own = row_axes(entry)
                kind = str(entry.get("system", figures["system"]))
                rows.append(Row(i, figures["system"], kind, figures, {**run.axes, **own}))
        return rows

    @cached_property
    def all_axes(self) -> dict[str, list[Value]]:
        """The runs' and the systems' own, each with its values in order."""
        found = {key: list(values) for key, values in self.axes.items()}
        for key in ("draft_length", "threshold"):
            values = {row.axes[key] for row in self.rows if row.axes.get(key) is not None}
            if len(values) > 1:
                found.setdefault(key, sorted(values, key=_order))
        return found

    @property
    def systems(self) -> list[str]:
        return list(dict.fromkeys(row.system for row in self.rows))


def collect(paths: Sequence[Path]) -> Collection:
    """All runs at or below `paths`. A run that is named itself is taken however it ended, one that was found only if it
    is complete. Raises StoreError where there is none."""
    left_out: list[str] = []
    folders: dict[Path, bool] = {}
    for path in paths:
        if not Path(path).is_dir():
            raise StoreError(f"{path}: no such folder")
        for folder in find_runs(Path(path), left_out):
            named = folder == Path(path)
            folders[folder.resolve()] = folders.get(folder.resolve(), False) or named
    runs = []
    for folder, named in folders.items():
        try:
            runs.append(read_run(RunFolder(folder), named))
        except StoreError as error:
            left_out.append(f"{folder}: {str(error).removeprefix(f'{folder} ')}")
    if not runs:
        why = "".join(f"\n  {line}" for line in left_out)
        raise StoreError(f"{', '.join(map(str, paths))}: no complete run there{':' + why if why else ''}")
    axes, places = differing([(run.config, run.manifest) for run in runs])
    labels = _labels([run.path for run in runs])
    runs = [
        Run(run.path, label, run.summary, run.config, run.manifest, where)
        for run, label, where in zip(runs, labels, places)
    ]
    runs = beside_siblings(runs)
    order = sorted(range(len(runs)), key=lambda i: str(runs[i].manifest.get("started") or ""))
    return Collection(
        [runs[i] for i in order], left_out, {key: sorted(values, key=_order) for key, values in axes.items()}
    )


def find_runs(path: Path, left_out: list[str], depth: int = 0) -> Iterator[Path]:
    """The folders of runs at or below `path`, links to them not followed; what a sweep has set aside is told."""
    if (path / "config.yaml").is_file():
        yield path
        return
    if depth == DEEPEST:
        return
    for child in sorted(path.iterdir()):
        if not child.is_dir() or child.is_symlink() or child.name.startswith("."):
            continue
        if child.name in ASIDE and (path / "sweep.json").is_file():
            left_out += [f"{run}: {child.name}" for run in find_runs(child, [], depth + 1)]
        else:
            yield from find_runs(child, left_out, depth + 1)


def read_run(folder: RunFolder, whatever: bool = False) -> Run:
    """Its summary as it lies there, or made again from the records where it is missing or another version's. Raises
    StoreError for a run that is not complete, unless `whatever`, or that has nothing to sum up."""
    folder.require_own_format()
    manifest = folder.manifest()
    status = str(manifest.get("status", ""))
    if status != "complete" and not whatever:
        raise StoreError(f"not complete: {status or 'its manifest says nothing'}")
    try:
        summary = folder.summary()
    except StoreError:
        summary = {}
    found = summary.get("format", 0)
    if found > FORMAT:
        raise StoreError(
            f"its summary has format {found}, this program knows up to {FORMAT}: read it with the version that made it"
        )
    if found != FORMAT:
        summary = summarise_run(folder)
    if not summary["systems"]:
        raise StoreError("nothing was recorded")
    return Run(folder.path, folder.run_id, summary, folder.config(), manifest)


def link_label(declared: Mapping[str, Any]) -> str:
    """A link in a few words: `lte`, `50 ms, 10/30 Mbit/s, 1 % loss`, `not shaped`."""
    up, down = (declared.get(way) or {} for way in ("up", "down"))
    rtt_ms = (up.get("delay_ms") or 0) + (down.get("delay_ms") or 0)
    rates = [way.get("rate_mbps") for way in (up, down)]
    losses = [((way.get("gilbert") or {}).get("mean_loss_pct") or way.get("loss_pct") or 0) for way in (up, down)]
    parts = [f"{rtt_ms:g} ms"] if rtt_ms or any(rates) else []
    parts += [f"{_both(rates)} Mbit/s"] if any(rates) else []
    parts += [f"{_both(losses)} % loss"] if any(losses) else []
    text = ", ".join(parts) or "not shaped"
    return f"{declared['profile']} ({text})" if declared.get("profile") else text


def link_size(declared: Mapping[str, Any]) -> tuple[float, float]:
    """What links are ordered by: round trip, then how slow the slower way is."""
    ways = [declared.get(way) or {} for way in ("up", "down")]
    rates = [way.get("rate_mbps") or math.inf for way in ways]
    return sum(float(way.get("delay_ms") or 0) for way in ways), -min(rates)


def _both(values: Sequence[float | None]) -> str:
    texts = ["∞" if value is None else f"{value:g}" for value in values]
    return texts[0] if texts[0] == texts[1] else "/".join(texts)


def _labels(paths: Sequence[Path]) -> list[str]:
    """As short as tells them apart: the folder's name, with its parents' in front where two are alike."""
    for parts in range(1, max((len(path.parts) for path in paths), default=1) + 1):
        labels = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(labels)) == len(labels):
            return labels
    return [str(path) for path in paths]


def _order(value: Value) -> tuple[int, float, str]:
    """Nothing, then numbers by size, then words."""
    if value is None:
        return 0, 0.0, ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 1, float(value), ""
    return 2, 0.0, json.dumps(value, default=str)
