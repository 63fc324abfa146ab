"""Progress on stderr: a line per stage, then a bar that says which system is at work and how long is left."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

STAGES = {
    "connect": "connecting to both machines",
    "deploy": "sending them the code they do not have",
    "doctor": "asking them what they have",
    "collect": "fetching the records",
    "link": "building the link",
    "check": "measuring the link before it is believed",
    "edge": "starting the edge (loading the target model)",
    "device": "starting the device (loading the draft model), shaking hands",
}


class ProgressBar:
    """A context manager; `update(stage, fields)` is what the launcher calls. Off a terminal: plain lines, few."""

    def __init__(self, name: str, folder: str) -> None:
        self.console = Console(stderr=True)
        self.console.print(f"run [bold]{escape(name)}[/] → {escape(folder)}", highlight=False)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=None)
        self._told = -1

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def update(self, stage: str, fields: dict[str, Any]) -> None:
        if stage in STAGES:
            self.console.print(f"  {STAGES[stage]}", highlight=False)
        elif stage == "edge_restarted":
            self.console.print(f"  [yellow]the edge died (code {fields['code']}) and is started again[/]")
        elif stage == "request":
            self._request(fields)

    def _request(self, fields: dict[str, Any]) -> None:
        done, total = fields["done"], fields["total"]
        what = f"{fields['system']}{' (warm-up)' if fields['warmup'] else ''}"
        self._bar.update(self._task, completed=done, total=total, description=escape(f"{what:<26}"))
        tenth = 10 * done // total
        if self._bar.disable and tenth != self._told:
            self._told = tenth
            self.console.print(f"  {done}/{total} requests, last {what}", highlight=False, markup=False)
