"""Progress of a sweep on stderr: a line per run that ended, and a bar: what is at work, how long is left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from experiments.sweep.order import Turn
from experiments.sweep.status import duration_text

WIDEST = 36  # of a point's name, and of what it is at


class SweepProgress:
    """A context manager. Off a terminal: the lines, no bar."""

    def __init__(self, name: str, folder: Path) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.console.print(f"sweep [bold]{escape(name)}[/] → {escape(str(folder))}", soft_wrap=True)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, left="")
        self._total = self._done = 0

    def __enter__(self) -> SweepProgress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def begin(self, total: int, done: int) -> None:
        self._total, self._done = total, done
        self._bar.update(self._task, total=total, completed=done)
        if done:
            self.console.print(f"  {done} of {total} runs were done before")

    def show(self, at_work: Sequence[tuple[str, str]], seconds_left: float | None) -> None:
        """`at_work`: points, and what each is at."""
        text = escape(" | ".join(f"{point[:WIDEST]}: {doing[:WIDEST]}" for point, doing in at_work))
        self._bar.update(self._task, completed=self._done, description=text, left=_left(seconds_left))

    def finished(self, point: str, turn: Turn, seconds: float, seconds_left: float | None) -> None:
        self._done += 1
        left = f", {text}" if (text := _left(seconds_left)) and self._done < self._total else ""
        self._line(f"{self._done}/{self._total}  {_name(point, turn)}  {duration_text(seconds)}{left}")

    def failed(self, point: str, turn: Turn, why: str, log: Path, again: bool) -> None:
        then = "it is tried once more" if again else "the rest goes on"
        self._line(f"failed: {_name(point, turn)}: {why}\n    log: {log}\n    {then}", style="yellow")

    def stopped(self) -> None:
        self._line(f"stopped after {self._done} of {self._total} runs; the same command goes on with it")

    def _line(self, text: str, style: str = "") -> None:
        self.console.print(f"  {escape(text)}", style=style, soft_wrap=True)


def _name(point: str, turn: Turn) -> str:
    return point if turn.repeat == 1 else f"{point} (pass {turn.repeat})"


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f"about {duration_text(seconds)} left"
