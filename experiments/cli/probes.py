"""`dssd probes`: power and compute probes of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from experiments.cli.answers import Json, answer, note, plain_errors, print_json, table

app = typer.Typer(help="Power and compute probes of this machine.", no_args_is_help=True)


@app.command("list")
def probes_list(json: Json = False) -> None:
    """Every probe: what a trial read found here, and the remedy where there is one."""
    with plain_errors():
        from dataclasses import asdict

        from nodes.probes import find_probes

        rows = [asdict(finding) for finding in find_probes()]
        answer(rows, json, lambda rows: table(rows, ["probe", "status", "resolution_ms", "detail", "remedy"]))


Probes = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--probe", help="A probe to read, all by default. Repeatable.", metavar="NAME[:OPTION=VALUE,...]"),
]


@app.command("record")
def probes_record(
    command: Annotated[list[str], typer.Argument(help="What to run, after --.", metavar="-- COMMAND...")],
    out: Annotated[Path, typer.Option("--out", help="The trace, a new file.")],
    probe: Probes = None,
    interval_ms: Annotated[float, typer.Option("--interval-ms", min=1.0, help="Between two reads.")] = 20.0,
    json: Json = False,
) -> None:
    """Trace any program: run it, write what the probes say meanwhile, end with its exit code."""
    with plain_errors():
        from experiments.probing import record_command

        found = record_command(command, out, probe or [], interval_ms)
        joules = f"{found['status']}, no joules" if found["joules"] is None else (
            f"{found['joules']:.4g} J {found['status']} by {found['source']}")  # fmt: skip
        note(f"{found['seconds']:.2f} s, {joules} ({found['reason']}): {out}")
        if json:
            print_json(found)
        if found["returncode"]:
            raise typer.Exit(found["returncode"] if found["returncode"] > 0 else 128 - found["returncode"])


@app.command("calibrate")
def probes_calibrate(
    probe: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--probe", help="The sensor; by default the first that measures.", metavar="NAME[:OPTION=VALUE]"),
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=1.0, help="Of rest, of load, and of rest again.")] = 10.0,
    json: Json = False,
) -> None:
    """Watts of this machine at rest and with all cores busy, for `energy:` of a configuration without a sensor."""
    with plain_errors():
        from experiments.probing import calibrate_machine

        def show(found: dict[str, Any]) -> None:
            print(f"idle_w: {found['idle_w']:.3g}\nfull_w: {found['full_w']:.3g}")
            note(f"by {found['probe']}; at rest {found['idle_before_w']:.3g} W before, "
                  f"{found['idle_after_w']:.3g} W after")  # fmt: skip

        answer(calibrate_machine(probe, seconds), json, show)
