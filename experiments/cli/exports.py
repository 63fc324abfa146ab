"""`dssd export`: runs for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from experiments.cli.answers import Json, answer, note, plain_errors, table, tell_damage
from experiments.cli.results import Folders

app = typer.Typer(help="Runs for other programs: Parquet, aiperf's JSONL, MLflow.", no_args_is_help=True)
Out = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--out", help="Where it goes; by default a folder `export` in the one DIR."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]


@app.command()
def parquet(folders: Folders, out: Out = None, force: Force = False, json: Json = False) -> None:
    """Tables: runs, systems, requests, rounds, tokens, for pandas, polars, DuckDB and whatever reads Parquet."""
    with plain_errors():
        from experiments.collection import collect

        try:
            from experiments.exports.tables import write_tables
        except ImportError:
            raise _store_error("pyarrow is not installed: pip install 'dssd-testbed[report]'") from None
        told: list[str] = []
        where = _out(folders, out)
        rows = write_tables(collect(folders), where, force, told)
        _tell(told)
        found = [{"file": str(where / f"{name}.parquet"), "rows": count} for name, count in rows.items()]
        answer(found, json, lambda found: table(found, ["file", "rows"]))


@app.command()
def aiperf(folders: Folders, out: Out = None, force: Force = False, json: Json = False) -> None:
    """Every request in the shape of aiperf's profile_export.jsonl: a file for each system of each run."""
    with plain_errors():
        from experiments.collection import collect
        from experiments.exports.aiperf import write_aiperf

        told: list[str] = []
        files = write_aiperf(collect(folders), _out(folders, out), force, told)
        _tell(told)
        found = [{"file": path, "requests": count} for path, count in files.items()]
        answer(found, json, lambda found: table(found, ["file", "requests"]))


@app.command()
def mlflow(
    folders: Folders,
    uri: Annotated[str, typer.Option(help="MLflow's tracking store or server.")] = "sqlite:///mlflow.db",
    experiment: Annotated[str, typer.Option(help="MLflow's name for what belongs together.")] = "dssd",
    force: Force = False,
    json: Json = False,
) -> None:
    """An MLflow run for each system of each run: configuration, figures, report."""
    with plain_errors():
        from experiments.collection import collect
        from experiments.exports.tracking import write_mlflow
        from experiments.store import RunFolder

        found = collect(folders)
        rows = write_mlflow(found, uri, experiment, force)
        _tell([f"left out: {line}" for line in found.left_out])
        for run in found.runs:
            tell_damage(RunFolder(run.path))
        answer(rows, json, lambda rows: table(rows, ["run", "system", "mlflow_run"]))


def _out(folders: list[Path], out: Path | None) -> Path:
    if out is None and len(folders) > 1:
        raise _store_error("several folders have no place in common: say where the export goes, --out FOLDER")
    return out or folders[0] / "export"


def _store_error(text: str) -> Any:
    from experiments.store import StoreError

    return StoreError(text)


def _tell(lines: list[str]) -> None:
    for line in lines:
        note(line)
