"""What this machine can do about links, each finding with the command that mends it."""

from __future__ import annotations

import os
import platform
from typing import Any

from netem.apply import execute
from netem.backend import (
    available_congestion,
    choose_backend,
    why_no_netem,
    why_no_seed,
    why_no_tun,
    why_not,
    why_not_physical,
)
from netem.errors import BackendError, CommandError
from netem.initramfs import find_tool, guest_version
from netem.journal import journals, leftovers
from netem.spec import LinkSpec


def diagnose() -> list[dict[str, Any]]:
    """Checks as `{name, ok, detail, remedy}`; remedy is '' when ok. Changes nothing, needs no root."""
    return [
        _tools(),
        _finding("namespaces", why_not("netns", shaped=False), _as_whom()),
        _finding("netem in this kernel", why_no_netem(), "sch_netem answers"),
        _finding("/dev/net/tun", why_no_tun(), "can be opened"),
        _finding("user-mode Linux router", why_not("uml"), f"kernel {guest_version()}"),
        _finding("shaping a real interface", why_not_physical(), "netem, prio, ingress and ifb are there"),
        _congestion(),
        _seed(),
        _leftovers(),
        _choice(),
    ]


def _finding(name: str, problem: str | None, good: str) -> dict[str, Any]:
    """A problem is 'what is wrong: what mends it', as `backend` words it."""
    if problem is None:
        return {"name": name, "ok": True, "detail": good, "remedy": ""}
    detail, _, remedy = problem.rpartition(": ")
    return {"name": name, "ok": False, "detail": detail, "remedy": remedy}


def _tools() -> dict[str, Any]:
    missing = [name for name in ("ip", "tc", "ethtool", "sysctl", "nsenter", "unshare") if find_tool(name) is None]
    if missing:
        problem = f"missing {', '.join(missing)}: apt install iproute2 ethtool procps util-linux"
        return _finding("tools", problem, "")
    return _finding("tools", None, _version_of("tc"))


def _as_whom() -> str:
    return "made as root" if os.geteuid() == 0 else "made without root, in a user namespace"


def _congestion() -> dict[str, Any]:
    available = available_congestion()
    problem = None if "cubic" in available else f"only {', '.join(available)}: modprobe tcp_cubic"
    return _finding("TCP congestion controls", problem, ", ".join(available))


def _seed() -> dict[str, Any]:
    """Nothing mends it short of newer packages, and nothing here depends on it: a fact, not a failure."""
    here = why_no_netem() is None
    problem = why_no_seed(platform.release() if here else guest_version())
    detail = f"no: {problem.partition(':')[0]}; packets hit differ from run to run" if problem else "yes, link.up.seed"
    return _finding("repeatable losses (netem seed)", None, detail)


def _leftovers() -> dict[str, Any]:
    dead = [journal.lab_id for journal in leftovers()]
    living = len(journals()) - len(dead)
    problem = f"labs of dead processes: {', '.join(dead)}: dssd doctor --clean" if dead else None
    return _finding("leftovers", problem, f"none ({living} lab{'s' * (living != 1)} in use)")


def _choice() -> dict[str, Any]:
    name = "backend for a shaped link"
    try:
        backend = choose_backend(LinkSpec(rtt_ms=1))
    except BackendError as error:
        return {"name": name, "ok": False, "detail": str(error), "remedy": "mend one of the above"}
    why = {
        "netns": "this kernel has netem itself",
        "uml": "this kernel has no netem, a user-mode Linux router does",
    }
    return {"name": name, "ok": True, "detail": f"{backend}: {why[backend]}", "remedy": ""}


def _version_of(tool: str) -> str:
    try:
        return execute([tool, "-V"]).strip()
    except CommandError as error:
        return str(error)
