"""One node by hand, and the keys it needs."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Annotated, Optional

import typer

from experiments.cli.answers import (
    ConfigPath,
    Control,
    Json,
    KeysDir,
    Overrides,
    Plain,
    note,
    plain_errors,
    print_json,
)

RESULTS = Path("results")
EDGE_FILES = "edge.json, power.edge.jsonl, tcp.edge.jsonl"

app = typer.Typer()
edge = typer.Typer(help="The edge node by hand.", no_args_is_help=True)
device = typer.Typer(help="The device node by hand.", no_args_is_help=True)
app.add_typer(edge, name="edge")
app.add_typer(device, name="device")


@edge.command("serve")
def edge_serve(
    config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help="An experiment's YAML file; without one, every published system on the bundled target.",
                       metavar="[CONFIG]"),
    ] = None,
    bind: Annotated[str, typer.Option(help="Where to listen.")] = "tcp://127.0.0.1:5555",
    control: Control = None,
    keys: KeysDir = None,
    plain: Plain = False,
    overrides: Overrides = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", help="Folder for this node's records; by default a new one in results/edge."),
    ] = None,
) -> None:  # fmt: skip
    """Serve any number of devices, until Ctrl-C."""
    with plain_errors():
        from experiments.launch import write_told
        from experiments.schema import load_config, open_config
        from nodes.engine import torchrun
        from nodes.process import main as node_main

        secrets = _secrets(keys, plain)
        loaded = load_config(config, overrides or []) if config else open_config(overrides or [])
        with ExitStack() as stack:
            if torchrun.rank(loaded.edge_engine) in (None, 0):
                folder = _edge_folder(out)
            else:  # it only computes
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dssd-rank-")))
            told = ["--spec", str(write_told(loaded, folder)), "--out", str(folder)]
            raise typer.Exit(node_main(["edge", *told, "--bind", bind, *_control(control), *secrets]))


@device.command("run")
def device_run(
    config: ConfigPath,
    connect: Annotated[str, typer.Option(help="Where the edge listens.")] = "tcp://127.0.0.1:5555",
    control: Control = None,
    interface: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--interface", help="The one to the edge: its bytes are counted, for the radio model too."),
    ] = None,
    keys: KeysDir = None,
    plain: Plain = False,
    overrides: Overrides = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", help="Folder for this run; by default a new one in results/NAME."),
    ] = None,
    json: Json = False,
) -> None:
    """Run a configuration's requests against an edge that is already there."""
    with plain_errors():
        from experiments.run import run_device
        from experiments.schema import config_id, load_config
        from experiments.store import begin_run, create_run, take_folder
        from experiments.table import print_table

        words = [*_control(control), *(["--interface", interface] if interface else []), *_secrets(keys, plain)]
        loaded = load_config(config, overrides or [])
        resolved = loaded.resolved()
        folder = begin_run(take_folder(out), resolved) if out else create_run(RESULTS, resolved, config_id(resolved))
        summary = run_device(loaded, folder, connect, words)
        print_table(summary)
        note(f"\nfiles: {folder.path}\nreport: {folder.path / 'report.html'}")
        note(f"with the edge's own files ({EDGE_FILES}) copied beside them: dssd report {folder.path}")
        if json:
            print_json(summary)


@app.command()
def keys(directory: Annotated[Path, typer.Argument(help="Where to write them; existing keys are kept.")]) -> None:
    """Make CURVE key pairs for an edge and a device, and the edge's allow-list."""
    with plain_errors():
        from transport.keys import make_keys

        for path in make_keys(directory):
            print(path)


def _edge_folder(out: Path | None) -> Path:
    from experiments.store import fresh_folder, point_latest, take_folder

    if out is not None:
        return take_folder(out)
    parent = RESULTS / "edge"
    folder = fresh_folder(parent, f"{datetime.now():%Y%m%d-%H%M%S}")
    point_latest(parent, folder.name)
    note(f"records: {folder}")
    return folder


def _secrets(keys: Path | None, plain: bool) -> list[str]:
    if (keys is None) != plain:
        raise typer.BadParameter("give --keys DIR (made by `dssd keys DIR`), or --plain for no encryption at all")
    return ["--keys", str(keys)] if keys else []


def _control(address: str | None) -> list[str]:
    return ["--control", address] if address else []
