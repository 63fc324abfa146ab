"""A sweep, run: one process a run, one after another, until every turn is done or has failed twice.

Killed at any instant and begun again it goes on where it was: what is done is a folder in its place, moved there by one
rename (folder.py); everything else is run, or, where it was recorded to its end, only summed up.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experiments.store import RunFolder, StoreError
from experiments.sweep.folder import RUN_LOG, WIND_UP_WITHIN_S, SweepError, SweepFolder, read_attempt
from experiments.sweep.order import Turn
from experiments.sweep.points import Sweep
from experiments.sweep.progress import SweepProgress
from experiments.sweep.status import TRIES, seconds_left, standing
from netem.lab import exit_on_sigterm

LOOK_EVERY_S = 0.05
TOLD_TO_STOP = {code for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) for code in (-number, 128 + number)}


@dataclass
class Run:
    """A child at work."""

    turn: Turn
    folder: RunFolder
    process: subprocess.Popen[bytes]
    began_s: float = field(default_factory=time.monotonic)


def why_not_at_once(sweep: Sweep) -> str | None:
    """Runs at the same time share this machine's cores and its link, so they would slow one another down and every
    figure with time in it would be wrong. None where no figure has: both nodes are toys that take no time of their
    own (what one counts are tokens, rounds and bytes), nothing is shaped, no core is set aside."""
    for point in sweep.points:
        config = point.config
        for node, engine in (("device", config.device_engine), ("edge", config.edge_engine)):
            if engine["engine"] != "toy":
                return f"point {point.name} runs {engine['engine']} on the {node}, and its speed is a result"
            if engine.get("pace"):
                return f"point {point.name} has a paced {node}, and its speed is a result"
        if config.hosts is not None:
            return f"point {point.name} runs on machines of its own, and what they do in what time is a result"
        if config.link.is_shaped or config.link.backend in ("netns", "uml"):
            return f"point {point.name} builds a link, and what it carries in what time is a result"
        if config.device.cpus or config.device.cpu_share or config.device.cpu_max_mhz:
            return f"point {point.name} holds the device to a part of this machine"
    return None


def check_jobs(sweep: Sweep, jobs: int) -> None:
    """Raises SweepError where runs at the same time would disturb one another."""
    cores = len(os.sched_getaffinity(0))
    if jobs > cores:
        raise SweepError(f"--jobs {jobs}: this process may use {cores} cores; give it {cores} at most")
    if jobs > 1 and (why := why_not_at_once(sweep)):
        raise SweepError(f"--jobs {jobs}: {why}, so runs at the same time would disturb one another: leave --jobs out")


def run_sweep(sweep: Sweep, folder: SweepFolder, jobs: int = 1, again: bool = False) -> None:
    """Run what is left of it; `again`: what failed, too. Raises StoreError; SystemExit after Ctrl-C or SIGTERM, with
    everything down and the folder ready to be gone on with."""
    check_jobs(sweep, jobs)
    with folder.locked() as lock, exit_on_sigterm(), SweepProgress(sweep.name, folder.path) as progress:
        try:
            folder.wish(sweep.repeats)
            _Runner(sweep, folder, jobs, again, lock, progress).run()
        except (KeyboardInterrupt, SystemExit) as stop:
            progress.stopped()
            raise SystemExit(130 if isinstance(stop, KeyboardInterrupt) else stop.code) from None
        except OSError as error:
            raise SweepError(
                f"{folder.path}: {error.strerror} ({error.filename or 'while writing'}): nothing that was recorded is "
                "lost; mend it, and give the same command again"
            ) from None


class _Runner:
    def __init__(
        self, sweep: Sweep, folder: SweepFolder, jobs: int, again: bool, lock: int, progress: SweepProgress
    ) -> None:
        self.sweep, self.folder, self.jobs, self.lock, self.progress = sweep, folder, jobs, lock, progress
        leftovers = folder.left_over()
        self.standing = standing(folder)
        self.unfinished = {a.turn: a.folder for a in self.standing.attempts if a.folder.path in _paths(leftovers)}
        self.queue = self.standing.left(again)
        self.failures = self.standing.failures.copy()
        self.tries = {turn: TRIES if again else TRIES - self.failures[turn] for turn in self.queue}
        self.done = dict(self.standing.done)
        self.at_work: list[Run] = []

    def run(self) -> None:
        self.progress.begin(len(self.standing.order), len(self.done))
        try:
            while self.queue or self.at_work:
                while self.queue and len(self.at_work) < self.jobs:
                    self.at_work.append(self._start(self.queue.pop(0)))
                time.sleep(LOOK_EVERY_S)
                for run in [run for run in self.at_work if run.process.poll() is not None]:
                    self.at_work.remove(run)
                    self._settle(run)
                self.progress.show(self._lines(), self._seconds_left())
        finally:
            self._stop()

    def _start(self, turn: Turn) -> Run:
        point = self.sweep.point(turn.point)
        folder = self.unfinished.pop(turn, None) or self.folder.begin(point, turn, self.failures[turn] + 1, self.jobs)
        argv = [sys.executable, "-m", "experiments.sweep.child", str(folder.path), str(os.getpid())]
        with (folder.path / RUN_LOG).open("ab") as log:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[self.lock],  # whoever goes on after this process was killed waits for its runs
                start_new_session=True,  # Ctrl-C is the sweep's to handle
            )
        return Run(turn, folder, process)

    def _settle(self, run: Run) -> None:
        code = run.process.returncode
        if code == 0:
            self._finish(run)
        elif code in TOLD_TO_STOP:
            self._set_aside(run)
            raise SweepError(
                f"a run of {self.folder.path} was told to stop from outside (code {code}), so the sweep stops too; "
                "the same command goes on with it"
            )
        else:
            self._fail(run, _why(run))

    def _finish(self, run: Run) -> None:
        moved = self.folder.move(run.folder, "done")
        if attempt := read_attempt(moved.path, "done"):
            self.done[run.turn] = attempt
        self.progress.finished(self.sweep.point(run.turn.point).name, run.turn, self._taken(run), self._seconds_left())

    def _fail(self, run: Run, why: str) -> None:
        moved = self.folder.move(run.folder, "failed", f"failed: {why}")
        self.failures[run.turn] += 1
        self.tries[run.turn] -= 1
        again = self.tries[run.turn] > 0
        if again:  # after the rest of its pass: what was in its way may be over by then
            later = [i for i, turn in enumerate(self.queue) if turn.repeat > run.turn.repeat]
            self.queue.insert(later[0] if later else len(self.queue), run.turn)
        told = why.replace(str(run.folder.path), str(moved.path))
        self.progress.failed(self.sweep.point(run.turn.point).name, run.turn, told, moved.path / RUN_LOG, again)

    def _set_aside(self, run: Run) -> None:
        status = run.folder.manifest()["status"]
        if status == "complete":
            return  # stays in running/: only its summary is missing, and whoever goes on makes it
        self.folder.move(run.folder, "interrupted", "interrupted")

    def _stop(self) -> None:
        """Tell what is at work to stop, wait until it has taken its link down, set it aside."""
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        try:
            for run in self.at_work:
                run.process.terminate()
            for run in self.at_work:
                try:
                    run.process.wait(WIND_UP_WITHIN_S)
                except subprocess.TimeoutExpired:
                    run.process.kill()
                    run.process.wait()
                self._set_aside(run)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)

    # What it shows --------------------------------------------------------------------------------------------

    def _lines(self) -> list[tuple[str, str]]:
        """What is at work, and the last line of each one's log."""
        return [(self.sweep.point(run.turn.point).name, _last_line(run.folder.path)) for run in self.at_work]

    def _seconds_left(self) -> float | None:
        turns = [*(run.turn for run in self.at_work), *self.queue]
        seconds = seconds_left(self.folder, self.done.values(), turns, self.jobs)
        spent = sum(self._taken(run) for run in self.at_work) / self.jobs
        return None if seconds is None else max(0.0, seconds - spent)

    @staticmethod
    def _taken(run: Run) -> float:
        return time.monotonic() - run.began_s


def _paths(folders: Sequence[RunFolder]) -> set[Path]:
    return {folder.path for folder in folders}


def _last_line(folder: Path) -> str:
    lines = _log_lines(folder)
    return lines[-1].strip() if lines else ""


def _why(run: Run) -> str:
    """What a user can mend is the line that begins with `dssd:`, and what follows it; a crash is its last line."""
    try:
        status = str(run.folder.manifest().get("status", ""))
    except StoreError:
        status = ""
    code = run.process.returncode
    if code < 0:
        return f"its process was killed by {signal.Signals(-code).name}"
    if status.startswith("failed: "):
        return status.removeprefix("failed: ")
    lines = _log_lines(run.folder.path)
    last = next((line.removeprefix("dssd: ") for line in reversed(lines) if line.startswith("dssd: ")), None)
    return last or (lines[-1].strip() if lines else f"its process ended with code {code}")


def _log_lines(folder: Path) -> list[str]:
    path = folder / RUN_LOG
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - 4096))
        return [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
