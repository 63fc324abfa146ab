"""Figures and tables for papers, from runs that lie there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from experiments.cli.answers import Json, answer, note, plain_errors, print_json, table
from experiments.cli.results import Folders

app = typer.Typer()
Out = Annotated[
    Optional[Path],  # noqa: UP045  typer reads this at run time, on Python 3.10 too
    typer.Option("--out", help="Folder of the files; by default figures/ in the one DIR."),
]


@app.command()
def figure(
    kind: Annotated[str, typer.Argument(help="What to draw; --list names the kinds.", metavar="KIND")] = "",
    folders: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Argument(help="Run folders, sweep folders, results/NAME or results; any mix.", metavar="DIR..."),
    ] = None,
    by: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--by", help="The horizontal axis, as link.rtt_ms; by default the first that varies."),
    ] = None,
    panels: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--panels", help="An axis with a panel for each of its values."),
    ] = None,
    where: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--where", help="Only runs at this place: --where link.rate_mbps=10", metavar="AXIS=VALUE"),
    ] = None,
    systems: Annotated[str, typer.Option("--systems", help="Only these, with commas between.")] = "",
    width: Annotated[str, typer.Option("--width", help="single (3.4 in, a column) or double (7 in).")] = "single",
    out: Out = None,
    list_them: Annotated[bool, typer.Option("--list", help="The kinds; with DIR also the axes of its runs.")] = False,
    json: Json = False,
) -> None:
    """A figure as PDF and SVG, its numbers as CSV and LaTeX: dssd figure speedup --by link.rtt_ms DIR"""
    with plain_errors():
        from experiments.report.papers import Choice, FigureError, make_picture, write_picture

        if list_them:
            answer(_what_there_is([Path(kind), *(folders or [])] if kind else []), json, _print_list)
            return
        if not kind or not folders:
            raise FigureError("say what to draw and where the runs are: dssd figure KIND DIR; --list names the kinds")
        target = _target(folders, out)
        found = _collect(folders)
        chosen = [name for name in systems.split(",") if name]
        picture = make_picture(found, kind, Choice(by, panels, _places(where or []), chosen))
        files = write_picture(picture, target, width)
        for line in picture.notes:
            note(line)
        if json:
            print_json({"files": [str(path) for path in files], "by": picture.by, "notes": list(picture.notes),
                        "systems": list(picture.systems), "left_out": list(found.left_out)})  # fmt: skip
        else:
            for path in files:
                print(path)


@app.command("table")
def headline_table(folders: Folders, out: Out = None, json: Json = False) -> None:
    """The headline figures of every system of every run, as headline.csv and headline.tex; beside a paper's own numbers
    where runs are at its setting, as paper-settings.csv and .tex."""
    with plain_errors():
        from experiments.report.papers import write_headline, write_reported

        found, target = _collect(folders), _target(folders, out)
        files = [*write_headline(found, target), *write_reported(found, target)]
        answer([str(path) for path in files], json, lambda paths: print("\n".join(paths)))


def _collect(folders: list[Path]) -> Any:
    from experiments.collection import collect

    found = collect(folders)
    for line in found.left_out:
        note(f"left out: {line}")
    return found


def _target(folders: list[Path], out: Path | None) -> Path:
    from experiments.report.papers import FigureError

    if out is None and len(folders) > 1:
        raise FigureError("several folders have no place in common: say where the files go, --out figures")
    return out or folders[0] / "figures"


def _places(where: list[str]) -> dict[str, str]:
    from experiments.report.papers import FigureError

    found = {}
    for setting in where:
        axis, equals, value = setting.partition("=")
        if not equals:
            raise FigureError(f"--where {setting}: write it as AXIS=VALUE")
        found[axis] = value
    return found


def _what_there_is(folders: list[Path]) -> dict[str, Any]:
    from experiments.axes import value_text
    from experiments.report.papers import KINDS, WIDTHS_IN, axes_of

    axes = axes_of(_collect(folders)) if folders else {}
    return {
        "kinds": [{"kind": name, "shows": str(kind)} for name, kind in KINDS.items()],
        "axes": [{"axis": axis, "values": ", ".join(map(value_text, values))} for axis, values in axes.items()],
        "widths_in": WIDTHS_IN,
    }


def _print_list(found: dict[str, Any]) -> None:
    table(found["kinds"], ["kind", "shows"])
    if found["axes"]:
        print()
        table(found["axes"], ["axis", "values"])
    else:
        print("\naxes: those in which your runs differ; dssd figure --list DIR names them")
