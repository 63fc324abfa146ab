"""What every command shares: its common options, how it answers, and what an error looks like."""

from __future__ import annotations

import json as jsonlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Optional

import typer

if TYPE_CHECKING:
    from experiments.store import RunFolder

OWN_NAMESPACES = "DSSD_ENTER_OWN_NAMESPACES"  # set for the process that `take_rights_for` starts
WIDTH_IN_FILES = 200  # of a table that nobody's terminal limits
Json = Annotated[bool, typer.Option("--json", help="The last line on stdout is one JSON document.")]
ConfigPath = Annotated[Path, typer.Argument(help="An experiment's YAML file.", metavar="CONFIG")]
Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045  typer reads this at run time, on Python 3.10 too
    typer.Option("--set", help="Override a key: --set link.rtt_ms=20", metavar="KEY=VALUE"),
]
HostsFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--hosts", help="An inventory of two machines, instead of this one.", metavar="FILE"),
]
KeysDir = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--keys", help="Directory of CURVE keys (`dssd keys DIR` makes one)."),
]
Control = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Of the control line, which compares the clocks; by default any port beside the link."),
]
Plain = Annotated[bool, typer.Option("--plain", help="No encryption, no authentication; recorded as such.")]


def hosts_setting(hosts: Path | None) -> list[str]:
    """`--hosts FILE` as the override it is short for."""
    return [f"hosts={jsonlib.dumps(str(hosts.resolve()))}"] if hosts else []


def answer(result: Any, json: bool, show: Callable[[Any], None]) -> None:
    if json:
        print_json(result)
    else:
        show(result)


def print_json(result: Any) -> None:
    print(jsonlib.dumps(result, default=str))


def table(rows: list[dict[str, Any]], columns: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(Text(_cell(row.get(column))) for column in columns))
    console = Console(width=None if sys.stdout.isatty() else WIDTH_IN_FILES)
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def take_rights_for(link: Any) -> None:
    """A user who is not root builds a lab inside namespaces of their own. A process enters those before it has a
    second thread, and numpy starts some: so the command begins again, and `main` goes in first."""
    from netem.rootless import needs_own_namespaces

    if needs_own_namespaces(link):
        again = [sys.executable, "-m", "experiments.cli", *sys.argv[1:]]
        os.execve(sys.executable, again, {**os.environ, OWN_NAMESPACES: "1"})


def tell_damage(run: RunFolder) -> None:
    """What a kill left of its files, where it left less than whole lines."""
    from experiments.store import damage

    for line in damage(run):
        note(line)


def note(text: str) -> None:
    print(text, file=sys.stderr)


@contextmanager
def plain_errors() -> Iterator[None]:
    """What a user can mend is told in one line, without a traceback; anything else is a bug and shows one."""
    from experiments.failures import in_a_line

    try:
        yield
    except Exception as error:
        if (line := in_a_line(error)) is None:
            raise
        fail(line)


def make_place(path: Path) -> None:
    """For a file that is written after minutes of work. Raises OSError where it cannot be; what is there stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.open("r+b").close()
    else:
        tempfile.TemporaryFile(dir=path.parent).close()


def fail(message: str) -> NoReturn:
    note(f"dssd: {message}")
    raise typer.Exit(1)
