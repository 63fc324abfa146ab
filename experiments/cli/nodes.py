"""One node by hand, and the keys it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from experiments.cli.answers import ConfigPath, Control, KeysDir, Overrides, Plain, plain_errors

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
    out: Annotated[Path, typer.Option("--out", help="Where this node's records go.")] = Path("results/edge"),
) -> None:  # fmt: skip
    """Serve any number of devices, until Ctrl-C."""
    _node("edge", config, overrides, out, ["--bind", bind, *_control(control)], keys, plain)


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
    out: Annotated[Path, typer.Option("--out", help="Where this node's records go.")] = Path("results/device"),
) -> None:
    """Run a configuration's requests against an edge that is already there."""
    counted = ["--interface", interface] if interface else []
    _node("device", config, overrides, out, ["--connect", connect, *_control(control), *counted], keys, plain)


@app.command()
def keys(directory: Annotated[Path, typer.Argument(help="Where to write them; existing keys are kept.")]) -> None:
    """Make CURVE key pairs for an edge and a device, and the edge's allow-list."""
    with plain_errors():
        from transport.keys import make_keys

        for path in make_keys(directory):
            print(path)


def _node(
    node: str,
    config: Path | None,
    overrides: list[str] | None,
    out: Path,
    where: list[str],
    keys: Path | None,
    plain: bool,
) -> None:
    with plain_errors():
        import msgspec

        from experiments.schema import load_config, open_config
        from nodes.process import main as node_main

        if (keys is None) != plain:
            raise typer.BadParameter("give --keys DIR (made by `dssd keys DIR`), or --plain for no encryption at all")
        loaded = load_config(config, overrides or []) if config else open_config(overrides or [])
        out.mkdir(parents=True, exist_ok=True)
        spec = out / "run.json"
        spec.write_bytes(msgspec.json.encode(loaded.to_runspec()))
        secrets = ["--keys", str(keys)] if keys else []
        raise typer.Exit(node_main([node, "--spec", str(spec), "--out", str(out), *where, *secrets]))


def _control(address: str | None) -> list[str]:
    return ["--control", address] if address else []
