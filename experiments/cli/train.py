"""`dssd train`: the small parts of systems that are trained from a pair of models."""

from __future__ import annotations

import typer

app = typer.Typer(help="Train a system's small parts from a pair of models.", no_args_is_help=True)


@app.callback()
def train() -> None:
    """A group even while it has one command."""
