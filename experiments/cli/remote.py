"""`dssd remote`: the two machines of a run, before and after it."""

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
    table,
)

app = typer.Typer(help="The two machines of a run: what they have, what is left on them.", no_args_is_help=True)


@app.command()
def check(config: ConfigPath, hosts: HostsFile = None, overrides: Overrides = None, json: Json = False) -> None:
    """Deploy to both machines, ask them what they have, and say what would stop a run; run nothing."""
    with plain_errors():
        from experiments.remote.run import check_hosts
        from experiments.schema import load_config

        loaded = load_config(config, [*hosts_setting(hosts), *(overrides or [])])
        if loaded.hosts is None:
            fail(f"{config} names no hosts: give --hosts FILE")
        rows = check_hosts(loaded)
        answer(rows, json, lambda rows: table(rows, ["host", "name", "ok", "detail", "remedy"]))
        if any(row["ok"] is False for row in rows):
            raise typer.Exit(1)


@app.command()
def collect(
    folder: Annotated[Path, typer.Argument(help="The run's folder, or results/NAME for its latest.", metavar="RUN")],
) -> None:
    """Fetch what a run recorded on its machines and could not fetch when it ended; sum it up."""
    with plain_errors():
        from experiments.run import collect_run
        from experiments.store import find_run

        for line in collect_run(find_run(folder)):
            note(line)
