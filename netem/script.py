"""A link as a shell script that stands alone, for a machine without Python: `./link.sh up|down|status`.

The templates in scripts/ are scripts themselves; what is filled in are the lines of `NAME=value` at the top of
interface.sh, and the commands of lab.sh. Pure: text in, text out.
"""

from __future__ import annotations

from pathlib import Path
from shlex import join, quote

from netem.errors import LinkError
from netem.physical.plan import ifb_name
from netem.physical.shaping import Shaping, timer_s
from netem.plan import LabNames, in_place, netem_argv, netns_plan
from netem.spec import DirectionSpec, LinkSpec

FOLDER = Path(__file__).parent / "scripts"


def interface_script(shaping: Shaping, dead_man_s: float) -> str:
    """The link on a real interface. It looks at the interface when it is run, as `physical.shape` does."""
    values = {
        "IFACE": shaping.interface,
        "PEER": shaping.peer,
        "FAMILY": shaping.family,
        "PORTS": " ".join(map(str, shaping.ports)),
        "EXEMPT": " ".join(map(str, shaping.exempt_ports)),
        "EGRESS": _netem(shaping.egress),
        "INGRESS": _netem(shaping.ingress),
        "DEAD_MAN_S": str(timer_s(dead_man_s)),
        "IFB": ifb_name(shaping.interface),
    }
    lines = (FOLDER / "interface.sh").read_text().splitlines(keepends=True)
    places = {line.partition("=")[0]: number for number, line in reversed(list(enumerate(lines)))}  # of the first such
    for name, value in values.items():
        lines[places[name]] = f"{name}={quote(value)}\n"
    return "".join(lines)


def lab_script(spec: LinkSpec, name: str, congestion: str) -> str:
    """The lab of three namespaces. Raises LinkError for a link that needs none, or changes while it is up."""
    if spec.changes_while_it_runs:
        raise LinkError("link.trace and link.outages are played by `dssd run`, not by a script: leave them out here")
    if not spec.is_shaped:
        raise LinkError("nothing is declared, so there is no link to build: shape it")
    names = LabNames(name)
    commands = [join(in_place(step, names)) for step in netns_plan(names, spec, congestion).steps]
    text = (FOLDER / "lab.sh").read_text()
    device, router, edge = names.namespaces
    text = text.replace("'DEVICE ROUTER EDGE'", quote(f"{device} {router} {edge}"))
    text = text.replace("/run/netns/DEVICE", f"/run/netns/{device}")
    text = text.replace("# LINK\n", f"# Addresses: {names.address('device')} and {names.address('edge')}\n")
    return text.replace("    # COMMANDS\n", "".join(f"    {line}\n" for line in commands))


def _netem(spec: DirectionSpec) -> str:
    return " ".join(netem_argv(spec)) if spec.is_shaped else ""
