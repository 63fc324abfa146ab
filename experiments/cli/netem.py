"""`dssd netem`: the emulated link."""

from __future__ import annotations

import json as jsonlib
from typing import Annotated

import typer

from experiments.cli.answers import ConfigPath, Json, Overrides, answer, plain_errors, table, take_rights_for

app = typer.Typer(help="The emulated link: profiles, the commands behind a link, a check.", no_args_is_help=True)


@app.command("profiles")
def netem_profiles(json: Json = False) -> None:
    """Named links, with their numbers and where they come from."""
    with plain_errors():
        from experiments.doctor import profile_records

        answer(profile_records(), json, lambda rows: table(rows, list(rows[0])))


@app.command("plan")
def netem_plan(config: ConfigPath, overrides: Overrides = None) -> None:
    """Print the commands that would build a configuration's link."""
    with plain_errors():
        from experiments.run import link_commands
        from experiments.schema import load_config

        print("\n".join(link_commands(load_config(config, overrides or []))))


@app.command("check")
def netem_check(config: ConfigPath, overrides: Overrides = None, json: Json = False) -> None:
    """Build a configuration's link, measure it, take it down: declared, applied, observed."""
    with plain_errors():
        from experiments.run import check_only
        from experiments.schema import load_config

        loaded = load_config(config, overrides or [])
        take_rights_for(loaded.link)
        link = check_only(loaded)
        answer(link, json, lambda found: print(jsonlib.dumps(found, indent=1)))
        if link["problems"]:
            raise typer.Exit(1)


LabName = Annotated[str, typer.Option("--name", help="Of the lab.")]


@app.command("up")
def netem_up(config: ConfigPath, name: LabName = "lab", overrides: Overrides = None, json: Json = False) -> None:
    """Build a configuration's link and keep it until `dssd netem down`."""
    with plain_errors():
        from experiments.schema import load_config
        from netem.keeper import up

        state = up(load_config(config, overrides or []).link, name)
        answer(state, json, lambda found: print(jsonlib.dumps(found, indent=1)))


@app.command("down")
def netem_down(name: LabName = "lab") -> None:
    """Take a kept link down."""
    with plain_errors():
        from netem.keeper import down

        down(name)
