"""Drives edge halves. All sessions that wait for target rows share one forward; the batch policy says when."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nodes.engine import Dists, Engine, EngineLost, SessionRefused
from nodes.methods import Reply, Score, Serving, Speculate
from nodes.policies.batch import Age, Immediate, Size
from nodes.sampling import Coins
from nodes.session import Session
from transport.messages import Proposal, Verdict


@dataclass
class Task:
    """A round being served: the method's edge half, and what it may touch.

    `settled` are the tokens both nodes agree on when the round begins; replies move them on. `deliver(down, last)`
    sends a reply and says whether the request goes on.
    """

    serving: Serving
    session: Session  # the target's cache
    settled: list[int]
    proposed: list[int]  # up.tokens: a verdict's n_accepted counts into these
    deliver: Callable[[Task, Verdict, bool], bool]
    speculate: Callable[[Task, Coins, int], Any]
    fail: Callable[[Task, Exception], None]
    arrived_ns: int
    waiting: bool = False  # for the device's next leg
    queue_ns: int = 0  # for the engine, while others had it, and for the batch to fire
    compute_ns: int = 0  # drafting here included
    draft_ns: int = 0
    batch: int = 0
    tokens: list[int] = field(default_factory=list)  # settled, as of the last reply


Waiting = tuple[Task, Score, int]  # a task, what it wants scored, and since when it waits, its own work left out (ns)


class Batcher:
    """One engine, many tasks."""

    def __init__(self, engine: Engine, policy: Immediate | Size | Age) -> None:
        self.engine, self.policy = engine, policy
        self._pending: list[Waiting] = []

    def start(self, task: Task) -> None:
        task.tokens = list(task.settled)
        self._take_up(task, None)

    def follow_up(self, task: Task, up: Proposal, arrived_ns: int) -> None:
        """The device's next leg."""
        task.waiting, task.arrived_ns = False, arrived_ns
        task.compute_ns = task.draft_ns = 0
        self._take_up(task, up)

    def drop(self, task: Task) -> None:
        """Nobody waits for this any more."""
        self._pending = [entry for entry in self._pending if entry[0] is not task]
        task.serving.close()

    def due_ns(self) -> int | None:
        """When to fire next, on the monotonic clock; None while nobody waits."""
        if not self._pending:
            return None
        return self.policy.due_ns(sorted(since_ns for _, _, since_ns in self._pending))

    def fire(self) -> None:
        """One forward for all who wait."""
        batch, self._pending = self._pending, []
        for task, score, _ in batch:
            task.session.become([*task.settled, *score.tokens])
            task.session.rewind(len(score.tokens) + 1)
        began_ns = time.monotonic_ns()
        try:
            dists = self._forward(batch)
        except EngineLost:
            raise
        except Exception as error:
            for task, _, _ in batch:
                task.fail(task, error)
            return
        took_ns = time.monotonic_ns() - began_ns
        for (task, _, since_ns), rows in zip(batch, dists):
            task.queue_ns = began_ns - since_ns
            task.compute_ns += took_ns
            task.batch = len(batch)
            self._advance(task, rows)

    def _forward(self, batch: list[Waiting]) -> list[Dists]:
        """The engine may refuse one session of the batch; the others are not touched by that. `batch` loses it."""
        while batch:
            try:
                return self.engine.forward(
                    [task.session for task, _, _ in batch], [len(score.tokens) + 1 for _, score, _ in batch]
                )
            except SessionRefused as error:
                refused = next(entry for entry in batch if entry[0].session is error.session)
                batch.remove(refused)
                refused[0].fail(refused[0], error)
        return []

    def _take_up(self, task: Task, up: Proposal | None) -> None:
        """A message came; it may have waited for a forward of others to end."""
        task.queue_ns = time.monotonic_ns() - task.arrived_ns
        self._advance(task, up)

    def _advance(self, task: Task, answer: Any) -> None:
        """Run an edge half until it needs a forward, needs the device, or is done."""
        try:
            while True:
                try:
                    effect = task.serving.send(answer)
                except StopIteration as stop:
                    self._settle(task, stop.value)
                    task.deliver(task, stop.value, True)
                    return
                if isinstance(effect, Score):
                    self._pending.append((task, effect, time.monotonic_ns() - task.queue_ns))
                    return
                if isinstance(effect, Speculate):
                    answer = task.speculate(task, effect.coins, effect.limit)
                elif isinstance(effect, Reply):
                    self._settle(task, effect.down)
                    goes_on = task.deliver(task, effect.down, False)
                    if effect.follow_up:
                        task.waiting = True
                        return
                    if not goes_on:
                        task.serving.close()
                        return
                    # A stream: the next reply follows these tokens, and counts no draft of the device's.
                    task.settled, task.proposed, answer = task.tokens, [], None
        except EngineLost:
            raise
        except Exception as error:  # a method's bug or a hostile Up must not stop the edge
            task.fail(task, error)

    @staticmethod
    def _settle(task: Task, down: Verdict) -> None:
        task.tokens = [*task.settled, *task.proposed[: down.n_accepted], *down.tail]
