"""One node by hand, and the keys it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.answers import ConfigPath, Control, KeysDir, Overrides, Plain, plain_errors

app = typer.Typer()


@app.command()
def edge(
    config: ConfigPath,
    bind: Annotated[str, typer.Option(help="Where to listen.")] = "tcp://127.0.0.1:5555",
    control: Control = None,
    keys: KeysDir = None,
    plain: Plain = False,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option("--out", help="Where this node's records go.")] = Path("results/edge"),
) -> None:
    """Run the edge node alone, until Ctrl-C."""
    _node("edge", config, overrides, out, ["--bind", bind, *_control(control)], keys, plain)


@app.command()
def device(
    config: ConfigPath,
    connect: Annotated[str, typer.Option(help="Where the edge listens.")] = "tcp://127.0.0.1:5555",
    control: Control = None,
    keys: KeysDir = None,
    plain: Plain = False,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option("--out", help="Where this node's records go.")] = Path("results/device"),
) -> None:
    """Run the device node alone, against an edge that is already there."""
    _node("device", config, overrides, out, ["--connect", connect, *_control(control)], keys, plain)


@app.command()
def keys(directory: Annotated[Path, typer.Argument(help="Where to write them; existing keys are kept.")]) -> None:
    """Make CURVE key pairs for an edge and a device, and the edge's allow-list."""
    with plain_errors():
        from transport.keys import make_keys

        for path in make_keys(directory):
            print(path)


def _node(
    node: str,
    config: Path,
    overrides: list[str] | None,
    out: Path,
    where: list[str],
    keys: Path | None,
    plain: bool,
) -> None:
    with plain_errors():
        import msgspec

        from experiments.schema import load_config
        from nodes.process import main as node_main

        if (keys is None) != plain:
            raise typer.BadParameter("give --keys DIR (made by `dssd keys DIR`), or --plain for no encryption at all")
        out.mkdir(parents=True, exist_ok=True)
        spec = out / "run.json"
        spec.write_bytes(msgspec.json.encode(load_config(config, overrides or []).to_runspec()))
        secrets = ["--keys", str(keys)] if keys else []
        raise typer.Exit(node_main([node, "--spec", str(spec), "--out", str(out), *where, *secrets]))


def _control(address: str | None) -> list[str]:
    return ["--control", address] if address else []
