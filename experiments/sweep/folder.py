"""A sweep's folder. Where a run lies says how it stands, and one rename moves it: no instant has it in two places.

results/<name>/sweep-<id>/          -2, -3 ... where it was begun afresh
  sweep.json                        base, axes, points, repeats
  <run>/                            done: an ordinary run's folder, complete and summed up
  running/<run>/                    at work, or left by a sweep that was killed
  failed/<run>/ interrupted/<run>/  set aside with their logs; nothing is ever deleted
  sweep.lock                        held by the process that runs the sweep
  runs.lock                         held by that process and by every run, so that a new one waits for the old ones

A run's manifest says which turn it is: `sweep: {id, point, name, axes, repeat, attempt, jobs}`.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from experiments.locks import lock_holder, open_lock, try_lock
from experiments.manifest import ROOT, git_state
from experiments.store import RunFolder, StoreError, make_folder, point_latest, replacing
from experiments.sweep.order import Turn
from experiments.sweep.points import Point, Sweep

FORMAT = 1  # of sweep.json and of the places above; another program's folder is refused, not guessed at
SWEEP_JSON = "sweep.json"
SWEEP_FOLDER = re.compile(r"sweep-(?P<id>[0-9a-f]{8})(-(?P<number>[0-9]+))?")
RUN_LOG = "run.log"
WIND_UP_WITHIN_S = 90.0  # a run that is told to stop takes its link down first
State = Literal["done", "running", "failed", "interrupted"]
PLACES: dict[State, str] = {"done": ".", "running": "running", "failed": "failed", "interrupted": "interrupted"}


class SweepError(StoreError):
    """A sweep that cannot be run or read as asked; the message names its folder and what to do."""


@dataclass(frozen=True)
class Attempt:
    """A run's folder and where it lies."""

    folder: RunFolder
    state: State
    turn: Turn
    about: dict[str, Any]  # the manifest's `sweep`
    status: str  # the manifest's
    began_s: float | None  # wall clock
    seconds: float | None  # from the manifest's first writing to its last


class SweepFolder:
    """An existing sweep's folder. Raises SweepError where there is none, or one of another format."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.definition = self._read()

    def _read(self) -> dict[str, Any]:
        path = self.path / SWEEP_JSON
        try:
            definition = json.loads(path.read_text(encoding="utf-8"))
        except OSError:
            raise SweepError(f"{self.path} is not the folder of a sweep: it has no {SWEEP_JSON}") from None
        except ValueError as error:
            raise SweepError(f"{path} is not JSON ({error}): restore it, or begin again with --fresh") from None
        found = definition.get("format") if isinstance(definition, dict) else None
        if found != FORMAT:
            raise SweepError(
                f"{path} has format {found}, this program writes {FORMAT}: read it with the version that made it "
                f"(commit {_commit(definition)}), or begin again with --fresh"
            )
        return definition

    @property
    def id(self) -> str:
        return str(self.definition["id"])

    @property
    def commit(self) -> str:
        """Of the program that began it."""
        return _commit(self.definition)

    # Reading -----------------------------------------------------------------------------------------------

    def attempts(self) -> list[Attempt]:
        """Every run that got as far as a manifest, oldest first: the folder's name begins with the time."""
        found = [attempt for state in PLACES for path in self._folders(state) if (attempt := read_attempt(path, state))]
        return sorted(found, key=lambda attempt: attempt.folder.run_id)

    def _folders(self, state: State) -> list[Path]:
        place = self.path / PLACES[state]
        if not place.is_dir():
            return []
        paths = sorted(path for path in place.iterdir() if path.is_dir() and not path.is_symlink())
        return paths if state != "done" else [path for path in paths if (path / "config.yaml").is_file()]

    def running_pid(self) -> int | None:
        """Of the process that runs this sweep now; 0 where it is in a place whose processes this one cannot see."""
        return lock_holder(self.path / "sweep.lock")

    # Writing: only with the lock ------------------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Nobody else runs this sweep meanwhile. Yields the descriptor that every run inherits. Raises StoreError."""
        with open_lock(self.path / "sweep.lock") as lock, open_lock(self.path / "runs.lock") as runs:
            if not try_lock(lock):
                pid = self.running_pid()
                raise SweepError(
                    f"{self.path} is being run by process {pid or 'that is not visible from here'}: "
                    f"wait for it, stop it (kill {pid or 'PID'}), or look at it with `dssd sweep status`"
                )
            deadline = time.monotonic() + WIND_UP_WITHIN_S
            while not try_lock(runs):
                if time.monotonic() > deadline:
                    raise SweepError(
                        f"{self.path}: a run of this sweep, left by a process that was killed, has not ended within "
                        f"{WIND_UP_WITHIN_S:.0f} s: end it (its log is in {self.path / 'running'}), and try again"
                    )
                time.sleep(0.05)
            yield runs

    def wish(self, repeats: int) -> None:
        """So many passes from now on: the one number of a sweep that may change between two commands."""
        if self.definition["repeats"] != repeats:
            self.definition["repeats"] = repeats
            _write(self.path / SWEEP_JSON, self.definition)

    def begin(self, point: Point, turn: Turn, attempt: int, jobs: int) -> RunFolder:
        """A new run's folder in running/, saying whose turn it is before anything of it runs."""
        stem, number = f"{datetime.now():%Y%m%d-%H%M%S}-{point.id}", 1
        name = stem
        while any((self.path / place / name).exists() for place in PLACES.values()):
            number += 1
            name = f"{stem}-{number}"
        folder = make_folder(self.path / PLACES["running"], name, point.config.resolved())
        about: dict[str, Any] = {"id": self.id, "point": point.id, "name": point.name, "axes": point.axes}
        about |= {"repeat": turn.repeat, "attempt": attempt, "jobs": jobs}
        folder.write_manifest({"name": point.config.name, "run_id": name, "status": "starting", "sweep": about})
        return folder

    def move(self, folder: RunFolder, state: State, status: str | None = None) -> RunFolder:
        """Everything of it on the disk first, then the rename that makes it so. `status` goes into its manifest."""
        to = self.path / PLACES[state] / folder.path.name
        if status is not None:
            told = status.replace(str(folder.path), str(to))
            folder.write_manifest({**_manifest(folder.path), "status": told})
        to.parent.mkdir(exist_ok=True)
        _settle(folder.path)
        folder.path.rename(to)
        _sync(to.parent)
        return RunFolder(to)

    def left_over(self) -> list[RunFolder]:
        """What a killed sweep left in running/ that is worth going on with: recorded to its end, not yet summed up
        or moved. The others are set aside as interrupted."""
        complete = []
        for path in self._folders("running"):
            attempt = read_attempt(path, "running")
            if attempt and attempt.status == "complete":
                complete.append(attempt.folder)
            elif attempt and attempt.status.startswith("failed"):
                self.move(attempt.folder, "failed")
            elif attempt:
                self.move(attempt.folder, "interrupted", "interrupted: the sweep was killed")
            else:  # killed before it said whose turn it was
                aside = self.path / PLACES["interrupted"]
                aside.mkdir(exist_ok=True)
                path.rename(aside / path.name)
        return complete


def open_sweep(sweep: Sweep, results: Path, fresh: bool) -> tuple[SweepFolder, bool]:
    """The newest folder of this very sweep, or, where there is none or `fresh` is wished, a new one; and whether it
    was there before. Raises SweepError."""
    parent = Path(results) / sweep.name
    numbers = {number: path for path in _sweep_folders(parent) if (number := _number(path, sweep.id))}
    newest = max(numbers, default=0)
    definition = {
        "format": FORMAT, "name": sweep.name, "id": sweep.id, "source": str(sweep.source),
        "created": datetime.now().astimezone().isoformat(timespec="seconds"), "software": {"git": git_state(ROOT)},
        "repeats": sweep.repeats, "base": sweep.base, "sweep": sweep.section,
        "points": [{"id": p.id, "name": p.name, "axes": p.axes, "requests": p.requests} for p in sweep.points],
    }  # fmt: skip
    try:
        if newest and not fresh and (numbers[newest] / SWEEP_JSON).is_file():
            return SweepFolder(numbers[newest]), True
        number = newest if newest and not fresh else newest + 1  # a folder without sweep.json was killed while made
        path = parent / (f"sweep-{sweep.id}" if number == 1 else f"sweep-{sweep.id}-{number}")
        path.mkdir(parents=True, exist_ok=True)
        _write(path / SWEEP_JSON, definition)
    except OSError as error:
        raise SweepError(f"cannot make a sweep's folder in {parent}: {error.strerror}") from None
    point_latest(parent, path.name)
    return SweepFolder(path), False


def find_sweep(path: Path) -> SweepFolder:
    """The sweep at `path`, or the newest of the experiment or of all results whose folder it is. Raises SweepError."""
    path = Path(path)
    if (path / SWEEP_JSON).is_file():
        return SweepFolder(path)
    below = [*path.glob(f"sweep-*/{SWEEP_JSON}"), *path.glob(f"*/sweep-*/{SWEEP_JSON}")]
    if not below:
        raise SweepError(f"{path} holds no sweep: give the folder of one, as in results/NAME/sweep-ID")
    return SweepFolder(max(below, key=lambda found: found.stat().st_mtime_ns).parent)


def read_attempt(path: Path, state: State) -> Attempt | None:
    """None for a folder that was made, and no more."""
    try:
        manifest = _manifest(path)
    except StoreError:
        if state == "done":
            raise
        return None
    if not (path / "config.yaml").is_file() or "sweep" not in manifest:
        return None
    about, began, ended = manifest["sweep"], manifest.get("clock"), manifest.get("clock_at_end")
    return Attempt(
        RunFolder(path), state, Turn(about["point"], about["repeat"]), about, str(manifest.get("status", "")),
        began["wall_ns"] / 1e9 if began else None,
        (ended["monotonic_ns"] - began["monotonic_ns"]) / 1e9 if began and ended else None,
    )  # fmt: skip


def _manifest(path: Path) -> dict[str, Any]:
    return RunFolder(path).manifest()


def _commit(definition: Any) -> str:
    software = definition.get("software") if isinstance(definition, dict) else None
    return str((software or {}).get("git", {}).get("commit", "unknown"))[:12]


def commit_here() -> str:
    return _commit({"software": {"git": git_state(ROOT)}})


def _sweep_folders(parent: Path) -> list[Path]:
    return [path for path in parent.glob("sweep-*") if path.is_dir()]


def _number(path: Path, sweep_id: str) -> int | None:
    match = SWEEP_FOLDER.fullmatch(path.name)
    return int(match["number"] or 1) if match and match["id"] == sweep_id else None


def _write(path: Path, definition: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(definition, indent=1, default=str) + "\n", encoding="utf-8")
        _sync(temporary)
    _sync(path.parent)


def _settle(folder: Path) -> None:
    for path in folder.rglob("*"):
        if not path.is_symlink():
            _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
