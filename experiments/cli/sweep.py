"""Many runs from one configuration: what `dssd run` does with a `sweep:`, and how far one is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.cli.answers import Json, answer, note, plain_errors, print_json, table, take_rights_for

if TYPE_CHECKING:
    from experiments.sweep.points import Sweep

app = typer.Typer(help="Many runs from one configuration (`dssd run` runs them): how far it is.", no_args_is_help=True)
SweepPath = Annotated[
    Path, typer.Argument(help="A sweep's folder; of an experiment or of all results: their newest.", metavar="[DIR]")
]


@app.command()
def status(folder: SweepPath = Path("results"), json: Json = False) -> None:
    """How far a sweep is: done, at work, failed, left, and for how long."""
    with plain_errors():
        from experiments.sweep.folder import find_sweep
        from experiments.sweep.status import describe

        answer(describe(find_sweep(folder)), json, _print_status)


def run_whole_sweep(
    sweep: Sweep, results: Path, *, dry_run: bool, json: bool, jobs: int, fresh: bool, again: bool
) -> None:
    """What `dssd run` does with a configuration that has a `sweep:`."""
    from experiments.report.many import write_sweep_report
    from experiments.sweep.folder import commit_here, open_sweep
    from experiments.sweep.runner import check_jobs, run_sweep
    from experiments.sweep.status import describe
    from experiments.sweep.table import print_sweep, sweep_rows
    from netem.backend import choose_backend

    check_jobs(sweep, jobs)
    if dry_run:
        answer(_plan(sweep), json, _print_plan)
        return
    here = [point.config.link for point in sweep.points if point.config.hosts is None]
    for link in here:
        take_rights_for(link)
    for link in {link.model_dump_json(): link for link in here}.values():
        choose_backend(link)  # what this machine cannot build is said now, not at its turn
    folder, was_there = open_sweep(sweep, results, fresh)
    if was_there:
        note(f"{folder.path} is gone on with (--fresh begins another)")
        if (commit := commit_here()) != folder.commit:
            note(f"it was begun by commit {folder.commit} of this program, which is {commit} now: its runs may differ")
    run_sweep(sweep, folder, jobs, again)
    found, rows = describe(folder), sweep_rows(folder)
    print_sweep(folder, rows)
    note(f"\nfiles: {folder.path}, a folder a run; `dssd report RUN` makes a run's page")
    if rows:
        note(f"report: {write_sweep_report(folder.path)}")
    for point in found["points"]:
        if point["failed"]:
            note(f"failed: {point['point']}: {point['error']}\n  log: {point['log']}")
    if json:
        print_json({**found, "rows": rows})
    if found["failed"]:
        note(f"dssd: {found['failed']} of {found['runs']} runs failed; --retry-failed tries them again")
        raise typer.Exit(1)


def _plan(sweep: Sweep) -> dict[str, Any]:
    points = [
        {"point": point.name, "id": point.id, "axes": point.axes, "requests": point.requests} for point in sweep.points
    ]
    return {
        "name": sweep.name, "sweep": sweep.id, "repeats": sweep.repeats, "runs": len(points) * sweep.repeats,
        "requests": sweep.repeats * sum(point.requests for point in sweep.points), "points": points,
    }  # fmt: skip


def _print_plan(plan: dict[str, Any]) -> None:
    passes = f" × {plan['repeats']} passes" if plan["repeats"] > 1 else ""
    print(f"sweep {plan['name']}, {plan['sweep']}: {len(plan['points'])} points{passes}, {plan['runs']} runs, "
          f"{plan['requests']} requests (warm-up included)\n")  # fmt: skip
    table(plan["points"], ["id", "point", "requests"])


def _print_status(found: dict[str, Any]) -> None:
    from experiments.sweep.status import duration_text

    by = f" by process {found['pid']}" if found["pid"] else ""
    seconds = found["seconds_left"]
    left = f", about {duration_text(seconds)}" if seconds and found["state"] in ("running", "stopped") else ""
    print(f"sweep {found['name']}, {found['sweep']}: {found['state']}{by}")
    print(f"{found['done']} of {found['runs']} runs done, {found['running']} at work, {found['failed']} failed, "
          f"{found['left']} left{left}\n{found['folder']}\n")  # fmt: skip
    rows = []
    for point in found["points"]:
        runs, error = f"{point['done']}/{point['of']}", (point["error"] or "").partition("\n")[0]
        rows.append({**point, "runs": runs, "s a run": point["seconds"], "error": error})
    columns = ["id", "point", "state", "runs", "s a run"]
    table(rows, [*columns, "error", "log"] if any(row["error"] for row in rows) else columns)
