"""How far a sweep is: every point's runs, and how long what is left will take. From the folder alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.sweep.folder import RUN_LOG, Attempt, SweepFolder
from experiments.sweep.order import Turn, turns

TRIES = 2  # a run that failed is tried once more, then recorded as failed


@dataclass(frozen=True)
class Standing:
    """What became of every turn."""

    order: list[Turn]  # all turns, as they take place
    done: dict[Turn, Attempt]
    failures: Counter[Turn]
    attempts: list[Attempt]

    @property
    def failed(self) -> list[Turn]:
        return [turn for turn in self.order if turn not in self.done and self.failures[turn] >= TRIES]

    def left(self, again: bool = False) -> list[Turn]:
        """What is still to be run; `again`: the failed ones too. Within a pass, what failed once comes last."""
        open_turns = [t for t in self.order if t not in self.done and (again or self.failures[t] < TRIES)]
        return sorted(open_turns, key=lambda turn: (turn.repeat, self.failures[turn] > 0))


def standing(folder: SweepFolder) -> Standing:
    definition = folder.definition
    order = turns(folder.id, [point["id"] for point in definition["points"]], definition["repeats"])
    attempts = folder.attempts()
    done = {attempt.turn: attempt for attempt in attempts if attempt.state == "done"}
    return Standing(order, done, Counter(a.turn for a in attempts if a.state == "failed"), attempts)


def seconds_left(folder: SweepFolder, done: Iterable[Attempt], left: Sequence[Turn], jobs: int) -> float | None:
    """A point that was run takes as long again; another as long as its requests do at the rate of those that were.
    None before anything was run."""
    requests = {point["id"]: point["requests"] for point in folder.definition["points"]}
    taken: dict[str, list[float]] = {}
    for attempt in done:
        if attempt.seconds is not None:
            taken.setdefault(attempt.turn.point, []).append(attempt.seconds)
    if not taken:
        return None
    means = {point: sum(seconds) / len(seconds) for point, seconds in taken.items()}
    known = sum(requests.get(point, 0) for point in means)
    per_request = sum(means.values()) / known if known else 0.0
    return sum(means.get(turn.point, per_request * requests.get(turn.point, 0)) for turn in left) / jobs


def describe(folder: SweepFolder) -> dict[str, Any]:
    """What `dssd sweep status` tells."""
    found = standing(folder)
    pid = folder.running_pid()
    running = [attempt for attempt in found.attempts if attempt.state == "running"] if pid is not None else []
    left = [turn for turn in found.left() if turn not in {attempt.turn for attempt in running}]
    at_work = [attempt.turn for attempt in running]
    jobs = max([1, *(attempt.about["jobs"] for attempt in running)])
    seconds = seconds_left(folder, found.done.values(), [*at_work, *left], jobs)
    if seconds is not None and running:
        spent = sum(time.time() - attempt.began_s for attempt in running if attempt.began_s)
        seconds = max(0.0, seconds - spent / jobs)
    ended = "complete" if not found.failed else "ended, not everything worked"
    return {
        "name": folder.definition["name"], "sweep": folder.id, "folder": str(folder.path),
        "state": "running" if pid is not None else "stopped" if left else ended,
        "pid": pid, "repeats": folder.definition["repeats"], "runs": len(found.order),
        "done": sum(turn in found.done for turn in found.order), "running": len(running), "left": len(left),
        "failed": len(found.failed), "seconds_left": seconds,
        "points": [_point(point, found, at_work) for point in folder.definition["points"]],
    }  # fmt: skip


def _point(point: dict[str, Any], found: Standing, at_work: Sequence[Turn]) -> dict[str, Any]:
    mine = [attempt for attempt in found.attempts if attempt.turn.point == point["id"]]
    order = [turn for turn in found.order if turn.point == point["id"]]
    done = [found.done[turn] for turn in order if turn in found.done]
    failures = [attempt for attempt in mine if attempt.state == "failed"]
    seconds = [attempt.seconds for attempt in done if attempt.seconds is not None]
    failed = sum(turn in found.failed for turn in order)
    working = any(turn in at_work for turn in order)
    return {
        "point": point["name"], "id": point["id"], "axes": point["axes"],
        "state": "running" if working else "done" if len(done) == len(order) else "failed" if failed else "left",
        "done": len(done), "of": len(order), "failed": failed, "failed_attempts": len(failures),
        "seconds": sum(seconds) / len(seconds) if seconds else None,
        "folders": [str(attempt.folder.path) for attempt in done],
        "error": failures[-1].status.removeprefix("failed: ") if failures else None,
        "log": str(failures[-1].folder.path / RUN_LOG) if failures else None,
    }  # fmt: skip


def duration_text(seconds: float) -> str:
    """`40 s`, `12 min`, `3 h 20 min`"""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
