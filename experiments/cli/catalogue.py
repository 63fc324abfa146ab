"""What there is: systems, models, what this machine can do, what the project promises."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from experiments.cli.answers import Json, answer, make_place, note, plain_errors, table

app = typer.Typer()


@app.command()
def systems(json: Json = False) -> None:
    """The systems there are: what each is made of, its paper, whether it is exact."""
    with plain_errors():
        from nodes.composition import load_system, system_names

        records = [_system_record(load_system(name)) for name in system_names()]
        answer(records, json, lambda rows: table(rows, ["name", "title", "paper", "method", "schedule", "exact"]))


@app.command()
def models(json: Json = False) -> None:
    """The models that ship with the project."""
    with plain_errors():
        from nodes.engine.make import list_models

        columns = ["name", "kind", "parameters", "vocab_size", "bytes", "sha256", "path"]
        answer(list_models(), json, lambda rows: table(rows, columns))


@app.command()
def bench(
    parts: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(metavar="PART", help="Any of work, bytes, overhead, link, energy, report, speed; else all."),
    ] = None,
    only: Annotated[Optional[list[str]], typer.Option("--only", help="The same, as an option.", hidden=True)] = None,  # noqa: UP045
    out: Annotated[Optional[Path], typer.Option("--out", help="Also write the records to this file.")] = None,  # noqa: UP045
    json: Json = False,
) -> None:
    """Measure what the project promises, side by side, and say whether it holds."""
    with plain_errors():
        from experiments.bench import run_bench

        if out:
            make_place(out)
        records = run_bench([*(parts or []), *(only or [])])
        if out:
            out.write_text(jsonlib.dumps(records, indent=1) + "\n", encoding="utf-8")
        answer(records, json, lambda rows: table(rows, ["name", "value", "bound", "unit", "ok", "note"]))
        if not all(record["ok"] for record in records):
            raise typer.Exit(1)


@app.command()
def doctor(
    clean: Annotated[bool, typer.Option("--clean", help="Remove what a killed run left behind.")] = False,
    json: Json = False,
) -> None:
    """What this machine can do, what it cannot, and the command that mends it."""
    with plain_errors():
        from experiments.doctor import clean_up, diagnose

        if clean:
            for line in clean_up():
                note(line)
        answer(diagnose(), json, lambda rows: table(rows, ["name", "ok", "detail", "remedy"]))


def _system_record(system: Any) -> dict[str, Any]:
    paper = f"{system.paper.authors} {system.paper.year}" if system.paper else ""
    axes = ("method", "schedule", "up", "down", "stop", "upload", "route", "options")
    parts = {key: getattr(system, key) for key in axes}
    url = system.paper.url if system.paper else ""
    record = {"name": system.name, "title": system.title, "paper": paper, "url": url, "exact": system.exact}
    return {**record, **parts, "letters": system.letters, "notes": system.notes}
