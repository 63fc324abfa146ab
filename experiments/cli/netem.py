"""`dssd netem`: the emulated link."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from experiments.cli.answers import (
    Json,
    Overrides,
    answer,
    fail,
    note,
    plain_errors,
    table,
    take_rights_for,
)

app = typer.Typer(help="The emulated link: profiles, the commands behind a link, a check.", no_args_is_help=True)


LabName = Annotated[Optional[str], typer.Option("--name", help="Of the lab; by default lab.")]  # noqa: UP045
Iface = Annotated[Optional[str], typer.Option("--iface", help="A real interface, such as eth0.")]  # noqa: UP045
OneIface = Annotated[str, typer.Option("--iface", help="The shaped interface.")]
OptionalConfig = Annotated[Optional[Path], typer.Argument(help="An experiment's YAML file.", metavar="[CONFIG]")]  # noqa: UP045
Peer = Annotated[Optional[str], typer.Option("--peer", help="The other machine's IP address.")]  # noqa: UP045
Ports = Annotated[
    Optional[list[int]],  # noqa: UP045
    typer.Option("--port", help="Shape only TCP and UDP of this port, on either side; may be repeated."),
]
Exempt = Annotated[
    Optional[list[int]],  # noqa: UP045
    typer.Option("--exempt-port", help="Never shape TCP of this port, as SSH's; may be repeated."),
]
Link = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--link", help="A profile, or a YAML file with `link:`.", metavar="PROFILE|FILE"),
]
Role = Annotated[Optional[str], typer.Option(help="This end of the link: device (default) or edge.")]  # noqa: UP045
Only = Annotated[Optional[str], typer.Option(help="Shape one way: egress or ingress.")]  # noqa: UP045
DeadMan = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        "--dead-man-s", help="Undo everything after this time, 2 s or more, unless confirmed or renewed; default 120."
    ),
]


@app.command("profiles")
def netem_profiles(json: Json = False) -> None:
    """Named links, with their numbers and where they come from."""
    with plain_errors():
        from experiments.doctor import profile_records

        answer(profile_records(), json, lambda rows: table(rows, list(rows[0])))


@app.command("plan")
def netem_plan(
    config: OptionalConfig = None,
    iface: Iface = None,
    peer: Peer = None,
    port: Ports = None,
    exempt_port: Exempt = None,
    link: Link = None,
    role: Role = None,
    only: Only = None,
    dead_man_s: DeadMan = None,
    script: Annotated[
        bool, typer.Option("--script", help="A shell script that stands alone: up, down, status.")
    ] = False,
    name: LabName = None,
    overrides: Overrides = None,
) -> None:
    """Print the commands that would build a link, in a lab or, with --iface, on a real interface; run none."""
    with plain_errors():
        if iface is None:
            _only_with("--iface", peer=peer, port=port, exempt_port=exempt_port, link=link, role=role, only=only)
            _only_with("--iface", dead_man_s=dead_man_s)
            _only_with("--script", name=None if script else name)
            print(_lab_commands(config, script, name, overrides or []))
            return
        _only_with("a lab, without --iface", name=name)
        shaping = _shaping(config, iface, peer, port, exempt_port, link, role, only, overrides or [], here=not script)
        if script:
            from netem.physical import DEAD_MAN_S
            from netem.script import interface_script

            print(interface_script(shaping, DEAD_MAN_S if dead_man_s is None else dead_man_s), end="")
        else:
            from experiments.interface import describe_shaping

            _show_commands(describe_shaping(shaping))


@app.command("check")
def netem_check(
    config: OptionalConfig = None,
    link: Link = None,
    name: Annotated[Optional[str], typer.Option("--name", help="A lab that `up` made, as it is now.")] = None,  # noqa: UP045
    plot: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--plot", help="Measured against declared, as a picture: .png, .pdf or .svg.", metavar="FILE"),
    ] = None,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Measure a link, built for the purpose or kept by `up`: declared, applied, observed. Exit code 1 if it is off."""
    with plain_errors():
        from experiments.interface import link_from
        from experiments.link_check import check_kept, check_new, show_check
        from experiments.report.link_plot import require_drawable, write_link_plot

        if plot:
            require_drawable(plot)  # before anything is measured
        if name is not None:
            _only_with("a link built for the check, without --name", config=config, link=link, set=overrides)
            found = check_kept(name)
        else:
            spec = link_from(config, link, overrides or [])
            take_rights_for(spec)
            found = check_new(spec)
        if plot:
            write_link_plot(found, plot)
        answer(found, json, show_check)
        if found["problems"]:
            raise typer.Exit(1)


@app.command("up")
def netem_up(
    config: OptionalConfig = None,
    name: LabName = None,
    iface: Iface = None,
    peer: Peer = None,
    port: Ports = None,
    exempt_port: Exempt = None,
    link: Link = None,
    role: Role = None,
    only: Only = None,
    dead_man_s: DeadMan = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands, run none.")] = False,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Build a link that stays: a lab of this machine, or, with --iface, on a real interface."""
    with plain_errors():
        if iface is None:
            _only_with("--iface", peer=peer, port=port, exempt_port=exempt_port, link=link, role=role, only=only)
            _only_with("--iface", dead_man_s=dead_man_s, dry_run=dry_run)
            state = _lab_up(config, name or "lab", overrides or [])
            answer(state, json, lambda found: print(jsonlib.dumps(found, indent=1)))
            return
        _only_with("a lab, without --iface", name=name)
        shaping = _shaping(config, iface, peer, port, exempt_port, link, role, only, overrides or [])
        if dry_run:
            from experiments.interface import describe_shaping

            answer(describe_shaping(shaping), json, _show_commands)
            return
        from netem import physical

        state = physical.shape(shaping, physical.DEAD_MAN_S if dead_man_s is None else dead_man_s)
        answer(state, json, _show_interface)


@app.command("down")
def netem_down(name: LabName = None, iface: Iface = None) -> None:
    """Take a kept lab down, or the link off a real interface: all is as it was before."""
    with plain_errors():
        if iface is not None:
            from netem.physical import restore

            _only_with("a lab, without --iface", name=name)
            restore(iface)
            return
        from netem.keeper import down

        down(name or "lab")


@app.command("status")
def netem_status(name: LabName = None, iface: Iface = None, json: Json = False) -> None:
    """What is up: kept labs and shaped interfaces, declared and as the kernel tells now."""
    with plain_errors():
        from netem.keeper import kept_labs
        from netem.physical import shaped_interfaces, status

        interfaces = [iface] if iface else [] if name else shaped_interfaces()
        labs = [name] if name else [] if iface else kept_labs()
        found = {"interfaces": [status(each) for each in interfaces], "labs": [_lab_state(each) for each in labs]}
        answer(found, json, _show_status)


@app.command("renew")
def netem_renew(
    iface: OneIface,
    seconds: Annotated[Optional[float], typer.Option(help="By default as long as the first time.")] = None,  # noqa: UP045
    json: Json = False,
) -> None:
    """Start a shaped interface's timer again."""
    with plain_errors():
        from netem.physical import renew

        answer(renew(iface, seconds), json, _show_interface)


@app.command("confirm")
def netem_confirm(iface: OneIface, json: Json = False) -> None:
    """The link of a shaped interface is good: it stays until `down`."""
    with plain_errors():
        from netem.physical import confirm

        answer(confirm(iface), json, _show_interface)


def _only_with(what: str, **options: Any) -> None:
    for option, value in options.items():
        if value is not None and value is not False and value != []:  # 0 is something given
            fail(f"--{option.replace('_', '-')} is for {what}")


def _lab_commands(config: Path | None, script: bool, name: str | None, overrides: list[str]) -> str:
    if config is None:
        fail("give a configuration whose lab to plan, or --iface and --peer for a real interface")
    from experiments.run import link_commands
    from experiments.schema import load_config

    loaded = load_config(config, overrides)
    if not script:
        return "\n".join(link_commands(loaded))
    from netem.backend import choose_congestion
    from netem.script import lab_script

    return lab_script(loaded.link, name or "lab", choose_congestion(loaded.link.tcp.congestion)).rstrip()


def _lab_up(config: Path | None, name: str, overrides: list[str]) -> dict[str, Any]:
    if config is None:
        fail("give a configuration to build its lab, or --iface and --peer to shape a real interface")
    from experiments.schema import load_config
    from netem.keeper import up

    return up(load_config(config, overrides).link, name)


def _shaping(
    config: Path | None,
    iface: str,
    peer: str | None,
    ports: list[int] | None,
    exempt: list[int] | None,
    link: str | None,
    role: str | None,
    only: str | None,
    overrides: list[str],
    here: bool = True,
) -> Any:
    """`here`: the SSH servers of this machine are exempt, not only port 22."""
    from experiments.interface import link_from
    from netem.physical import SSH_PORT, Shaping, ssh_ports

    if peer is None:
        fail("--iface needs --peer: the address of the machine at the other end, whose traffic alone is shaped")
    if role not in (None, "device", "edge"):
        fail(f"--role is device or edge, not '{role}'")
    if only not in (None, "egress", "ingress"):
        fail(f"--only is egress or ingress, not '{only}'")
    never = tuple(sorted({*(ssh_ports() if here else (SSH_PORT,)), *(exempt or ())}))
    spec = link_from(config, link, overrides)
    return Shaping(iface, peer, spec, tuple(ports or ()), never, role or "device", only)  # type: ignore[arg-type]


def _lab_state(name: str) -> dict[str, Any]:
    from netem.keeper import attached

    with attached(name) as lab:
        return lab.describe()


def _show_commands(found: dict[str, Any]) -> None:
    print("\n".join([*found["commands"], "", "# and to undo it:", *found["undo"]]))


def _show_status(found: dict[str, Any]) -> None:
    if not found["interfaces"] and not found["labs"]:
        print("nothing is up")
    for state in found["interfaces"]:
        _show_interface(state)
    for state in found["labs"]:
        print(f"lab {state['name']} ({state['backend']})")
        _show_ways({which: (state["declared"][which], state["applied"][which]) for which in ("up", "down")})


def _show_interface(state: dict[str, Any]) -> None:
    from netem.physical import Shaping

    what = f"ports {', '.join(map(str, state['ports']))}" if state["ports"] else "everything"
    if state["confirmed"]:
        timer = f"until `dssd netem down --iface {state['interface']}`"
    else:
        timer = f"undone in {state['left_s']:g} s unless confirmed or renewed"
    exempt = ", ".join(map(str, state["exempt_ports"]))
    print(f"{state['interface']}, with {state['peer']}: {what} but TCP ports {exempt}; {timer}")
    ways = Shaping.from_description(state).directions
    _show_ways({way: (state["declared"][ways[way]], state["applied"][way]) for way in ("egress", "ingress")})
    for problem in state["problems"]:
        note(f"not as declared any more: {problem}")
    if state["guard"] is None:
        note("the guard was killed: the next link, or `dssd doctor --clean`, undoes this one")


def _show_ways(ways: dict[str, tuple[dict[str, Any], dict[str, Any]]]) -> None:
    rows = []
    for way, (declared, applied) in ways.items():
        wish = {key: value for key, value in declared.items() if value not in (None, 0, 0.0, "uniform")}
        rows.append({"way": way, "declared": _values(wish), "applied": _values(applied)})
    table(rows, ["way", "declared", "applied"])


def _values(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items()) or "not shaped"
