"""Looks at an interface: is it free to be shaped, what has to be put back, where does SSH come in?"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from netem.apply import execute
from netem.errors import BackendError, CommandError, LinkError
from netem.physical.plan import ifb_name
from netem.physical.shaping import SSH_PORT, Found

OFFLOAD = re.compile(r"tcp-segmentation-offload|generic-.*-offload|large-receive-offload|tx-tcp.*|rx-gro-.*")
DEFAULT_QDISC = Path("/proc/sys/net/core/default_qdisc")
NO_HANDLE = "0:"  # of every discipline the kernel chose itself: one made by anybody has a handle


def look_at(interface: str) -> Found:
    """Raises LinkError when the interface is not there, not up, or shaped by somebody already."""
    (link,) = json.loads(_told(["ip", "-j", "link", "show", "dev", interface], interface))
    if "UP" not in link["flags"]:
        raise LinkError(f"{interface} is down: ip link set {interface} up")
    ours = ifb_name(interface)
    if ours in [each["ifname"] for each in json.loads(execute(["ip", "-j", "link", "show"]))]:
        raise LinkError(f"there is an interface {ours} already, which would be ours: ip link del {ours}")
    qdiscs = qdiscs_of(interface)
    if foreign := [qdisc for qdisc in qdiscs if qdisc["handle"] != NO_HANDLE]:
        raise LinkError(_refusal(interface, foreign))
    kinds = [qdisc["kind"] for qdisc in qdiscs if qdisc["kind"] != "mq"]
    fresh = DEFAULT_QDISC.read_text().strip() if DEFAULT_QDISC.exists() else None
    wanted = {
        name: bool(feature["active"] or feature["requested"])  # on without being asked for; asked for, but for now off
        for name, feature in features_of(interface).items()
        if OFFLOAD.fullmatch(name) and not feature["fixed"]
    }
    return Found(kinds[0] if kinds else "noqueue", fresh, wanted)


def qdiscs_of(interface: str) -> list[dict[str, Any]]:
    return list(json.loads(_told(["tc", "-j", "qdisc", "show", "dev", interface], interface) or "[]"))


def features_of(interface: str) -> dict[str, dict[str, Any]]:
    """`{name: {active, fixed, requested}}` as ethtool tells."""
    (features,) = json.loads(_told(["ethtool", "--json", "-k", interface], interface))
    features.pop("ifname", None)
    return dict(features)


def snapshot(interface: str) -> dict[str, Any]:
    """What has to be the same after shaping as before: disciplines, filters, and every feature."""
    filters = {
        parent: _told(["tc", "filter", "show", "dev", interface, parent], interface) for parent in ("root", "ingress")
    }
    return {"qdiscs": qdiscs_of(interface), "filters": filters, "features": features_of(interface)}


def make_ifb_possible() -> None:
    """Load the module without the two devices it makes by itself. Where that fails `ip link add` will tell."""
    if not Path("/sys/module/ifb").exists():
        try:
            execute(["modprobe", "ifb", "numifbs=0"])
        except CommandError:
            return


def ssh_ports() -> tuple[int, ...]:
    """22, what any sshd here listens on, and the port of the SSH connection this process came in by."""
    ports = {SSH_PORT}
    try:
        listening = execute(["ss", "-Hltnp"])
    except CommandError:
        listening = ""
    for line in listening.splitlines():
        if '"sshd' in line:
            ports.add(int(line.split()[3].rpartition(":")[2]))
    return tuple(sorted(ports | _ports_we_came_by(os.getpid())))


def _ports_we_came_by(pid: int) -> set[int]:
    """SSH_CONNECTION (client, its port, server, its port) of ourselves and all above us: sudo hides it from us."""
    ports = set()
    while pid > 1:
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            break
        for variable in variables:
            name, _, value = variable.partition(b"=")
            if name == b"SSH_CONNECTION" and (words := value.split())[3:]:
                ports.add(int(words[3]))
        pid = int(stat.rpartition(")")[2].split()[1])
    return ports


def _told(argv: list[str], interface: str) -> str:
    try:
        return execute(argv)
    except CommandError as error:
        if "not installed" in error.said:
            raise BackendError(f"{error.said}: apt install iproute2 ethtool") from None
        if "Cannot find" in error.said or "does not exist" in error.said or "No such device" in error.said:
            raise LinkError(f"no interface named {interface}: `ip -br link` lists them") from None
        raise


def _refusal(interface: str, foreign: list[dict[str, Any]]) -> str:
    found = ", ".join(f"{qdisc['kind']} {qdisc['handle']}" for qdisc in foreign)
    incoming = {qdisc["kind"] for qdisc in foreign} & {"ingress", "clsact"}
    places = sorted(incoming) + (["root"] if len(incoming) < len(foreign) else [])
    removal = "; ".join(f"tc qdisc del dev {interface} {place}" for place in places)
    return (
        f"{interface} has a queueing discipline that somebody made ({found}), and it is left as it is. If nobody needs"
        f" it, remove it first: {removal}"
    )
