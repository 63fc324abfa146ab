"""`dssd`: the command line. Progress goes to stderr; with --json the last line on stdout is one JSON document.

Nothing heavy is imported before a command needs it: `dssd --help` has to answer in a blink.
"""

from __future__ import annotations

import json as jsonlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn, Optional

import typer

app = typer.Typer(
    name="dssd",
    help="A laboratory for device-edge speculative decoding: real models, ZeroMQ, a real tc netem link, power traces.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
)
netem_app = typer.Typer(help="The emulated link: profiles, the commands behind a link, a check.", no_args_is_help=True)
probes_app = typer.Typer(help="Power and compute probes of this machine.", no_args_is_help=True)
app.add_typer(netem_app, name="netem")
app.add_typer(probes_app, name="probes")

OWN_NAMESPACES = "DSSD_ENTER_OWN_NAMESPACES"  # set for the process that `_take_rights_for` starts
WIDTH_IN_FILES = 200  # of a table that nobody's terminal limits
Json = Annotated[bool, typer.Option("--json", help="The last line on stdout is one JSON document.")]
ConfigPath = Annotated[Path, typer.Argument(help="An experiment's YAML file.", metavar="CONFIG")]
Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045  typer reads this at run time, on Python 3.10 too
    typer.Option("--set", help="Override a key: --set link.rtt_ms=20", metavar="KEY=VALUE"),
]
KeysDir = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--keys", help="Directory of CURVE keys (`dssd keys DIR` makes one)."),
]
Control = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Of the control line, which compares the clocks; by default any port beside the link."),
]
Plain = Annotated[bool, typer.Option("--plain", help="No encryption, no authentication; recorded as such.")]


# Experiments ----------------------------------------------------------------------------------------------------------


@app.command()
def run(
    config: ConfigPath,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option("--out", help="Where runs are kept.")] = Path("results"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be run; change nothing.")] = False,
    json: Json = False,
) -> None:
    """Run an experiment: build the link, check it, start both nodes, print one table."""
    with _plain_errors():
        from experiments.run import describe_run, run_experiment
        from experiments.schema import load_config
        from experiments.table import print_table

        loaded = load_config(config, overrides or [])
        if dry_run:
            _answer(describe_run(loaded), json, lambda plan: print("\n".join(plan["lines"])))
            return
        _take_rights_for(loaded.link)
        folder, summary = run_experiment(loaded, out)
        print_table(summary)
        _note(f"\nfiles: {folder.path}\nreport: {folder.path / 'report.html'}")
        if json:
            _print_json(summary)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run's folder, or results/NAME for its latest run.")],
    json: Json = False,
) -> None:
    """Make a run's summary, table and report page again from its records."""
    with _plain_errors():
        from experiments.run import sum_up
        from experiments.store import find_run
        from experiments.table import print_table

        found = find_run(folder)
        summary = sum_up(found)
        print_table(summary)
        _note(f"\nreport: {found.path / 'report.html'}")
        if json:
            _print_json(summary)


@app.command()
def quality(
    folder: Annotated[Path, typer.Argument(help="A run's folder, or results/NAME for its latest run.")],
    seconds: Annotated[float, typer.Option("--seconds", help="Stop scoring after so long.")] = 600.0,
    json: Json = False,
) -> None:
    """Ask a run's target how probable every answer is to it: what systems that are not exact cost in quality."""
    with _plain_errors():
        from experiments.quality import measure_quality
        from experiments.run import sum_up
        from experiments.store import find_run

        found = find_run(folder)
        scores = measure_quality(found, seconds)
        sum_up(found)
        _note(f"{scores['scored']} of {scores['requests']} answers scored by {scores['target']}")
        rows = [{"system": name, **figures} for name, figures in scores["systems"].items()]
        _answer(scores, json, lambda _: _table(rows, list(rows[0])))


@app.command()
def energy(
    folder: Annotated[Path, typer.Argument(help="A run's folder, or results/NAME for its latest run.")],
    by: Annotated[str, typer.Option(help="system or request.")] = "system",
    json: Json = False,
) -> None:
    """A run's joules again, from its traces: by node, phase and system, and what was spent for nothing."""
    with _plain_errors():
        from experiments.energy_files import run_energy
        from experiments.energy_table import check_by, energy_lines, energy_table
        from experiments.store import find_run

        check_by(by)
        found = run_energy(find_run(folder))
        rows = energy_table(found, by)
        if json:
            _print_json({**found.block, "rows": rows})
            return
        if rows:
            _table(rows, [name for name in rows[0] if name not in ("step_s", "windows_outside")])
        print("\n".join(energy_lines(found)))


@app.command()
def systems(json: Json = False) -> None:
    """The systems there are: what each is made of, its paper, whether it is exact."""
    with _plain_errors():
        from nodes.composition import load_system, system_names

        records = [_system_record(load_system(name)) for name in system_names()]
        _answer(records, json, lambda rows: _table(rows, ["name", "title", "paper", "method", "schedule", "exact"]))


@app.command()
def models(json: Json = False) -> None:
    """The models that ship with the project."""
    with _plain_errors():
        from nodes.engine.make import list_models

        columns = ["name", "kind", "parameters", "vocab_size", "bytes", "sha256", "path"]
        _answer(list_models(), json, lambda rows: _table(rows, columns))


@app.command()
def bench(
    only: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--only", help="One part: speed, overhead, link, bytes, work, energy. Repeatable."),
    ] = None,
    out: Annotated[Optional[Path], typer.Option("--out", help="Also write the records to this file.")] = None,  # noqa: UP045
    json: Json = False,
) -> None:
    """Measure what the project promises, side by side, and say whether it holds."""
    with _plain_errors():
        from experiments.bench import run_bench

        records = run_bench(only or [])
        if out:
            out.write_text(jsonlib.dumps(records, indent=1) + "\n", encoding="utf-8")
        _answer(records, json, lambda rows: _table(rows, ["name", "value", "bound", "unit", "ok", "note"]))
        if not all(record["ok"] for record in records):
            raise typer.Exit(1)


# One node by hand -----------------------------------------------------------------------------------------------------


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
    with _plain_errors():
        from transport.keys import make_keys

        for path in make_keys(directory):
            print(path)


@app.command()
def doctor(
    clean: Annotated[bool, typer.Option("--clean", help="Remove what a killed run left behind.")] = False,
    json: Json = False,
) -> None:
    """What this machine can do, what it cannot, and the command that mends it."""
    with _plain_errors():
        from experiments.doctor import clean_up, diagnose

        if clean:
            for line in clean_up():
                _note(line)
        _answer(diagnose(), json, lambda rows: _table(rows, ["name", "ok", "detail", "remedy"]))


# Link and probes ------------------------------------------------------------------------------------------------------


@netem_app.command("profiles")
def netem_profiles(json: Json = False) -> None:
    """Named links, with their numbers and where they come from."""
    with _plain_errors():
        from experiments.doctor import profile_records

        _answer(profile_records(), json, lambda rows: _table(rows, list(rows[0])))


@netem_app.command("plan")
def netem_plan(config: ConfigPath, overrides: Overrides = None) -> None:
    """Print the commands that would build a configuration's link."""
    with _plain_errors():
        from experiments.run import link_commands
        from experiments.schema import load_config

        print("\n".join(link_commands(load_config(config, overrides or []))))


@netem_app.command("check")
def netem_check(config: ConfigPath, overrides: Overrides = None, json: Json = False) -> None:
    """Build a configuration's link, measure it, take it down: declared, applied, observed."""
    with _plain_errors():
        from experiments.run import check_only
        from experiments.schema import load_config

        loaded = load_config(config, overrides or [])
        _take_rights_for(loaded.link)
        link = check_only(loaded)
        _answer(link, json, lambda found: print(jsonlib.dumps(found, indent=1)))
        if link["problems"]:
            raise typer.Exit(1)


LabName = Annotated[str, typer.Option("--name", help="Of the lab.")]


@netem_app.command("up")
def netem_up(config: ConfigPath, name: LabName = "lab", overrides: Overrides = None, json: Json = False) -> None:
    """Build a configuration's link and keep it until `dssd netem down`."""
    with _plain_errors():
        from experiments.schema import load_config
        from netem.keeper import up

        state = up(load_config(config, overrides or []).link, name)
        _answer(state, json, lambda found: print(jsonlib.dumps(found, indent=1)))


@netem_app.command("down")
def netem_down(name: LabName = "lab") -> None:
    """Take a kept link down."""
    with _plain_errors():
        from netem.keeper import down

        down(name)


@probes_app.command("list")
def probes_list(json: Json = False) -> None:
    """Every probe: what a trial read found here, and the remedy where there is one."""
    with _plain_errors():
        from dataclasses import asdict

        from nodes.probes import find_probes

        rows = [asdict(finding) for finding in find_probes()]
        _answer(rows, json, lambda rows: _table(rows, ["probe", "status", "resolution_ms", "detail", "remedy"]))


Probes = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--probe", help="A probe to read, all by default. Repeatable.", metavar="NAME[:OPTION=VALUE,...]"),
]


@probes_app.command("record")
def probes_record(
    command: Annotated[list[str], typer.Argument(help="What to run, after --.", metavar="-- COMMAND...")],
    out: Annotated[Path, typer.Option("--out", help="The trace, a new file.")],
    probe: Probes = None,
    interval_ms: Annotated[float, typer.Option("--interval-ms", min=1.0, help="Between two reads.")] = 20.0,
    json: Json = False,
) -> None:
    """Trace any program: run it, write what the probes say meanwhile, end with its exit code."""
    with _plain_errors():
        from experiments.probing import record_command

        found = record_command(command, out, probe or [], interval_ms)
        joules = f"{found['status']}, no joules" if found["joules"] is None else (
            f"{found['joules']:.4g} J {found['status']} by {found['source']}")  # fmt: skip
        _note(f"{found['seconds']:.2f} s, {joules} ({found['reason']}): {out}")
        if json:
            _print_json(found)
        if found["returncode"]:
            raise typer.Exit(found["returncode"] if found["returncode"] > 0 else 128 - found["returncode"])


@probes_app.command("calibrate")
def probes_calibrate(
    probe: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--probe", help="The sensor; by default the first that measures.", metavar="NAME[:OPTION=VALUE]"),
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=1.0, help="Of rest, of load, and of rest again.")] = 10.0,
    json: Json = False,
) -> None:
    """Watts of this machine at rest and with all cores busy, for `energy:` of a configuration without a sensor."""
    with _plain_errors():
        from experiments.probing import calibrate_machine

        def show(found: dict[str, Any]) -> None:
            print(f"idle_w: {found['idle_w']:.3g}\nfull_w: {found['full_w']:.3g}")
            _note(f"by {found['probe']}; at rest {found['idle_before_w']:.3g} W before, "
                  f"{found['idle_after_w']:.3g} W after")  # fmt: skip

        _answer(calibrate_machine(probe, seconds), json, show)


# Helpers --------------------------------------------------------------------------------------------------------------


def _node(
    node: str,
    config: Path,
    overrides: list[str] | None,
    out: Path,
    where: list[str],
    keys: Path | None,
    plain: bool,
) -> None:
    with _plain_errors():
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


def _system_record(system: Any) -> dict[str, Any]:
    paper = f"{system.paper.authors} {system.paper.year}" if system.paper else ""
    parts = {key: getattr(system, key) for key in ("method", "schedule", "up", "down", "stop", "upload", "options")}
    url = system.paper.url if system.paper else ""
    record = {"name": system.name, "title": system.title, "paper": paper, "url": url, "exact": system.exact}
    return {**record, **parts, "letters": system.letters, "notes": system.notes}


def _answer(result: Any, json: bool, show: Callable[[Any], None]) -> None:
    if json:
        _print_json(result)
    else:
        show(result)


def _print_json(result: Any) -> None:
    print(jsonlib.dumps(result, default=str))


def _table(rows: list[dict[str, Any]], columns: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    console = Console(width=None if sys.stdout.isatty() else WIDTH_IN_FILES)
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def _take_rights_for(link: Any) -> None:
    """A user who is not root builds a lab inside namespaces of their own. A process enters those before it has a
    second thread, and numpy starts some: so the command begins again, and `main` goes in first."""
    from netem.rootless import needs_own_namespaces

    if needs_own_namespaces(link):
        again = [sys.executable, "-m", "experiments.cli", *sys.argv[1:]]
        os.execve(sys.executable, again, {**os.environ, OWN_NAMESPACES: "1"})


def _note(text: str) -> None:
    print(text, file=sys.stderr)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """What a user can mend is told in one line, without a traceback; anything else is a bug and shows one."""
    from experiments.failures import expected_failures

    try:
        yield
    except expected_failures() as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    _note(f"dssd: {message}")
    raise typer.Exit(1)


def main() -> None:
    if os.environ.pop(OWN_NAMESPACES, None):
        from netem.errors import BackendError
        from netem.rootless import enter_own_namespaces

        try:
            enter_own_namespaces()
        except BackendError as error:
            sys.exit(f"dssd: {error}")
    app()


if __name__ == "__main__":
    main()
