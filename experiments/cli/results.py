"""What runs came to: a page over one or many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from experiments.cli.answers import Json, note, plain_errors, print_json, table, tell_damage

app = typer.Typer()
Folders = Annotated[
    list[Path],
    typer.Argument(help="Run folders, sweep folders, results/NAME or results; any mix.", metavar="DIR..."),
]


@app.command()
def report(
    folders: Folders,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", help="Where the page over several runs goes; by default report.html in the one DIR."),
    ] = None,
    json: Json = False,
) -> None:
    """One run: its summary, table and page again, from its records. Several: one page that compares them."""
    with plain_errors():
        from experiments.collection import collect
        from experiments.report.many import write_many_report
        from experiments.store import RunFolder, StoreError

        if len(folders) == 1 and out is None and (folders[0] / "config.yaml").is_file():
            _one(folders[0], json)
            return
        if len(folders) > 1 and out is None:
            raise StoreError("several folders have no place in common: say where the page goes, --out compared.html")
        found = collect(folders)
        path = out or folders[0] / "report.html"
        write_many_report(found, path)
        for line in found.left_out:
            note(f"left out: {line}")
        for run in found.runs:
            tell_damage(RunFolder(run.path))
        rows = [_figures(found.runs[row.run].label, row) for row in found.rows]
        note(f"{len(found.runs)} runs, {len(rows)} rows, differing in: {', '.join(found.all_axes) or 'nothing'}")
        note(f"\nreport: {path}")
        if json:
            print_json({"report": str(path), "axes": found.all_axes, "left_out": found.left_out, "rows": rows})
        else:
            columns = ["run", "system", *found.all_axes, "exact", "tokens_per_s", "speedup_over_edge_ar"]
            table(rows, columns)


def _one(folder: Path, json: bool) -> None:
    from experiments.run import sum_up
    from experiments.store import find_run
    from experiments.table import print_table

    found = find_run(folder)
    found.close()
    summary = sum_up(found)
    print_table(summary)
    note(f"\nreport: {found.path / 'report.html'}")
    if json:
        print_json(summary)


def _figures(label: str, row: Any) -> dict[str, Any]:
    return {"run": label, **row.axes, **row.figures}
