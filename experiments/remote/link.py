"""The link between two machines: shaped on their own interfaces, never for good, measured before it is believed.

Each machine shapes what it sends, where its kernel can; where only one can, that one shapes what comes in as well. A
process of ours on each holds the shape (hold.py): it restores the interface when its standard input ends.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.launch import Outcome, Progress
from experiments.remote.hold import DEAD_MAN_S
from experiments.remote.inventory import HostsSpec, Role
from experiments.remote.ssh import RemoteError
from experiments.schema import Config
from netem.check import LinkReport, check_link
from netem.journal import undisturbed
from netem.spec import Direction, LinkSpec

if TYPE_CHECKING:
    from experiments.remote.run import Machine

CONTROL_PORT = 5556  # never shaped: the clocks are compared over it
ANSWER_WITHIN_S = 30.0
RENEW_S = 20.0
SUDO = "let that user run commands as root there without a password (`sudo visudo`), and say sudo: passwordless"
SENDS: dict[Role, Direction] = {"device": "up", "edge": "down"}


@contextmanager
def shaped_link(
    config: Config, machines: list[Machine], folder: Path, progress: Progress, outcome: Outcome
) -> Iterator[None]:
    """Shape the link if one is declared, measure it, and take it off however the block ends. Raises LinkError when it
    is off, RemoteError when a host cannot shape or cannot be restored."""
    outcome.link = {"backend": "hosts", "declared": config.link.model_dump(), "applied": {}, "tcp": {}}
    holders: list[Holder] = []
    try:
        if config.link.is_shaped:
            progress("link", {})
            holders += _shape(config, machines, outcome)
        _check(config, machines, folder, progress, outcome)
        yield
    finally:
        with undisturbed():
            problems = [problem for holder in holders if (problem := holder.end())]
        for problem in problems:
            outcome.events.append({"event": "not_restored", "why": problem})
            print(problem, file=sys.stderr)
    if problems:
        raise RemoteError("\n".join(problems))


def _shape(config: Config, machines: list[Machine], outcome: Outcome) -> list[Holder]:
    assert config.hosts is not None
    holders: list[Holder] = []
    try:
        for machine in machines:
            holders.append(Holder(machine))
        shapes = who_shapes(config.link, {holder.role: holder.why_not for holder in holders})
        for holder in holders:
            ways = shapes[holder.role]
            if ways:
                only = None if len(ways) == 2 else "egress" if ways == [SENDS[holder.role]] else "ingress"
                state = holder.shape(_order(config, holder.role, only))
                ours = {"egress": SENDS[holder.role], "ingress": SENDS[_other(holder.role)]}
                outcome.link["applied"] |= {ours[way]: state["applied"][way] for way in ours if state["applied"][way]}
                outcome.link.setdefault("shaped_by", {}).update(dict.fromkeys(ways, holder.role))
    except BaseException:
        for holder in holders:
            holder.end()
        raise
    return holders


def who_shapes(link: LinkSpec, why_not: dict[Role, str]) -> dict[Role, list[Direction]]:
    """The directions each machine shapes: what it sends, or both where the other cannot. Raises RemoteError."""
    wanted: list[Direction] = [which for which in ("up", "down") if link.direction(which).is_shaped]
    able = [role for role in SENDS if not why_not[role]]
    if not able:
        reasons = "\n  ".join(f"{role}: {reason}" for role, reason in why_not.items())
        raise RemoteError(f"neither machine can shape the link, and one has to\n  {reasons}")
    if len(able) == 2:
        return {role: [which] if (which := SENDS[role]) in wanted else [] for role in SENDS}
    return {role: wanted if role in able else [] for role in SENDS}


def _order(config: Config, role: Role, only: str | None) -> dict[str, Any]:
    assert config.hosts is not None
    return {
        "interface": getattr(config.hosts, role).interface,
        "peer": address_on_link(config.hosts, _other(role)),
        "role": role,
        "only": only,
        "exempt_ports": [config.hosts.edge.control_port or CONTROL_PORT],
        "link": config.link.model_dump(exclude={"profile"}),
    }


def address_on_link(hosts: HostsSpec, role: Role) -> str:
    """Raises RemoteError for a name: filters need an address; and for one of IPv6, over which nothing is measured."""
    host = getattr(hosts, role)
    address = str(host.link_address or host.address)
    try:
        if ipaddress.ip_address(address).version == 4:
            return address
        problem = "is of IPv6, and a shaped link is measured over IPv4"
    except ValueError:
        problem = "is no IP address, and shaping needs one"
    raise RemoteError(f"{role} host {host.where}: '{address}' {problem}: give {role}.link_address")


def _other(role: Role) -> Role:
    return "edge" if role == "device" else "device"


class Holder:
    """Our process on a host that shapes its interface. Raises RemoteError, as all its methods do but `end`."""

    def __init__(self, machine: Machine) -> None:
        self.role, self._host, self._spec = machine.role, machine.host, machine.host.spec
        self.why_not, self._shaped = "", False
        self._over = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        if self._spec.interface is None:
            self.why_not = "the inventory names no interface"
            return
        rights = self._rights()
        if rights is None:
            self.why_not = f"shaping takes root, {self._host.where} is not and the inventory says sudo: no; {SUDO}"
            return
        argv = [*rights, machine.place.python, "-B", "-m", "experiments.remote.hold"]
        self._process = subprocess.Popen(
            self._host.wrap(argv, machine.place.source), text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.why_not = self._hear(self._process)["why_not"]

    def shape(self, order: dict[str, Any]) -> dict[str, Any]:
        """The interface's status, as read back."""
        assert self._process is not None and self._process.stdin is not None
        with suppress(BrokenPipeError):
            print(json.dumps(order), file=self._process.stdin, flush=True)
        state = self._hear(self._process)
        if "error" in state:
            raise RemoteError(f"{self.role} host {self._host.where}: {state['error']}")
        self._shaped = True
        threading.Thread(target=self._renew, daemon=True).start()
        return state

    def end(self) -> str:
        """Restore the interface; what went wrong, in words. Idempotent."""
        self._over.set()
        if self._process is None:
            return ""
        try:
            said, complaint = self._process.communicate(timeout=ANSWER_WITHIN_S)
        except (subprocess.TimeoutExpired, ValueError):
            self._process.kill()
            said, complaint = "", "no answer"
        if not self._shaped or '"restored"' in said:
            return ""
        self._shaped = False
        if '"error"' in said:
            complaint = json.loads(said.splitlines()[-1])["error"]
        interface = self._spec.interface
        return (
            f"{self.role} host {self._host.where}: {interface} was not seen to be restored ({complaint.strip()}). "
            f"Its own timer does it within {DEAD_MAN_S:.0f} s; there: sudo dssd netem down --iface {interface}"
        )

    def _rights(self) -> list[str] | None:
        """What goes before a command that needs root; None where the inventory rules it out."""
        if self._host.run(["id", "-u"]).strip() == "0":
            return []
        if self._spec.sudo == "no":
            return None
        try:
            self._host.run(["sudo", "-n", "true"])
        except RemoteError as error:
            raise RemoteError(f"{error}\n  remedy: shaping takes root: {SUDO}") from None
        return ["sudo", "-n"]

    def _hear(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout is not None and process.stderr is not None
        limit = threading.Timer(ANSWER_WITHIN_S, process.kill)
        limit.start()
        line = process.stdout.readline()
        limit.cancel()
        if not line:
            said = process.stderr.read().strip() or f"no answer within {ANSWER_WITHIN_S:.0f} s"
            raise RemoteError(f"{self.role} host {self._host.where}: what shapes its interface ended: {said}")
        return dict(json.loads(line))

    def _renew(self) -> None:
        assert self._process is not None and self._process.stdin is not None
        with suppress(OSError, ValueError):
            while not self._over.wait(RENEW_S):
                print("renew", file=self._process.stdin, flush=True)


@dataclass(frozen=True)
class Endpoint:
    """A machine as `check_link` wants it."""

    name: Role
    address: str
    prober: tuple[str, ...]
    machine: Machine = field(repr=False)

    def wrap(self, argv: Sequence[str]) -> list[str]:
        return self.machine.host.wrap(argv, self.machine.place.source)


@dataclass(frozen=True)
class Ends:
    device: Endpoint
    edge: Endpoint
    spec: LinkSpec
    applied: dict[str, Any]


def _check(config: Config, machines: list[Machine], folder: Path, progress: Progress, outcome: Outcome) -> None:
    """Measure the link before it is believed; what was measured is kept even if the link is refused."""
    assert config.hosts is not None
    report: LinkReport | None = None
    if config.link.is_shaped:
        progress("check", {})
        device, edge = (_endpoint(config.hosts, machine) for machine in machines)
        report = check_link(Ends(device, edge, config.link, outcome.link["applied"]), one_clock=False)
        outcome.link |= report.to_dict()
    (folder / "link.json").write_text(json.dumps(outcome.link, indent=1) + "\n", encoding="utf-8")
    if report:
        report.require()


def _endpoint(hosts: HostsSpec, machine: Machine) -> Endpoint:
    prober = (machine.place.python, "-I", "-S", f"{machine.place.source}/netem/probe.py")
    return Endpoint(machine.role, address_on_link(hosts, machine.role), prober, machine)
