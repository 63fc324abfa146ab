"""Run an experiment; sum up, judge and bill one that has been run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.answers import (
    ConfigPath,
    HostsFile,
    Json,
    Overrides,
    answer,
    fail,
    hosts_setting,
    note,
    plain_errors,
    print_json,
    table,
    take_rights_for,
    tell_damage,
)
from experiments.cli.sweep import run_whole_sweep

app = typer.Typer()
RunPath = Annotated[Path, typer.Argument(help="A run's folder, or results/NAME for its latest run.", metavar="RUN")]


@app.command()
def run(
    config: ConfigPath,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option("--out", help="Where runs are kept.")] = Path("results"),
    hosts: HostsFile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be run; change nothing.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Of a sweep: so many runs at once, if they may.")] = 1,
    fresh: Annotated[bool, typer.Option("--fresh", help="Of a sweep: begin again, in another folder.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Of a sweep: what failed, once more.")] = False,
    json: Json = False,
) -> None:
    """Run an experiment: build the link, check it, start both nodes, print one table. With a `sweep:`, many of them."""
    with plain_errors():
        from experiments.run import describe_run, run_experiment
        from experiments.schema import load_config
        from experiments.sweep.points import load_sweep
        from experiments.table import print_table

        settings = [*hosts_setting(hosts), *(overrides or [])]
        if sweep := load_sweep(config, settings):
            run_whole_sweep(sweep, out, dry_run=dry_run, json=json, jobs=jobs, fresh=fresh, again=retry_failed)
            return
        if jobs > 1 or fresh or retry_failed:
            fail(f"--jobs, --fresh and --retry-failed are for a sweep, and {config} has no `sweep:`")
        loaded = load_config(config, settings)
        if dry_run:
            answer(describe_run(loaded), json, lambda plan: print("\n".join(plan["lines"])))
            return
        if not loaded.hosts:
            take_rights_for(loaded.link)
        folder, summary = run_experiment(loaded, out)
        print_table(summary)
        note(f"\nfiles: {folder.path}\nreport: {folder.path / 'report.html'}")
        if json:
            print_json(summary)


@app.command()
def quality(
    folder: RunPath,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="Stop scoring after so long.")] = 600.0,
    json: Json = False,
) -> None:
    """Ask a run's target how probable every answer is to it: what systems that are not exact cost in quality."""
    with plain_errors():
        from experiments.quality import measure_quality
        from experiments.run import sum_up
        from experiments.store import find_run

        found = find_run(folder)
        tell_damage(found)
        scores = measure_quality(found, seconds)
        sum_up(found)
        note(f"{scores['scored']} of {scores['requests']} answers scored by {scores['target']}")
        rows = [{"system": name, **figures} for name, figures in scores["systems"].items()]
        answer(scores, json, lambda _: table(rows, list(rows[0])))


@app.command()
def energy(
    folder: RunPath,
    by: Annotated[str, typer.Option(help="system or request.")] = "system",
    json: Json = False,
) -> None:
    """A run's joules again, from its traces: by node, phase and system, and what was spent for nothing."""
    with plain_errors():
        from experiments.energy_files import run_energy
        from experiments.energy_table import check_by, energy_lines, energy_table
        from experiments.store import find_run

        check_by(by)
        run = find_run(folder)
        tell_damage(run)
        found = run_energy(run)
        rows = energy_table(found, by)
        if json:
            print_json({**found.block, "rows": rows})
            return
        if rows:
            table(rows, [name for name in rows[0] if name not in ("step_s", "windows_outside")])
        print("\n".join(energy_lines(found)))
