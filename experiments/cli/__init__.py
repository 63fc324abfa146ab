"""`dssd`: the command line. Progress goes to stderr; with --json the last line on stdout is one JSON document.

Nothing heavy is imported before a command needs it: `dssd --help` has to answer in a blink.
"""

from __future__ import annotations

import os
import sys

import typer

from experiments.cli import (
    catalogue,
    chat,
    exports,
    figures,
    netem,
    nodes,
    probes,
    remote,
    results,
    runs,
    studies,
    sweep,
    trace,
    train,
)
from experiments.cli.answers import OWN_NAMESPACES

app = typer.Typer(
    name="dssd",
    help="A laboratory for device-edge speculative decoding: real models, ZeroMQ, a real tc netem link, power traces.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
)
for part in (runs, results, figures, catalogue, nodes, chat):
    app.add_typer(part.app)
netem.app.add_typer(trace.app, name="trace")
app.add_typer(exports.app, name="export")
app.add_typer(netem.app, name="netem")
app.add_typer(probes.app, name="probes")
app.add_typer(remote.app, name="remote")
app.add_typer(sweep.app, name="sweep")
app.add_typer(train.app, name="train")
app.add_typer(studies.app, name="study")


def main() -> None:
    if os.environ.pop(OWN_NAMESPACES, None):
        from netem.errors import BackendError
        from netem.rootless import enter_own_namespaces

        try:
            enter_own_namespaces()
        except BackendError as error:
            sys.exit(f"dssd: {error}")
    app()
