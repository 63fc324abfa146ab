"""What is asked of a real interface, and what was found on it. Impossible wishes are errors."""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from netem.errors import LinkError
from netem.spec import Direction, DirectionSpec, LinkSpec, TcpSpec

INTERFACE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")  # a word to every shell, and no option
SSH_PORT = 22
LEAST_TIMER_S, LONGEST_TIMER_S = 2, 10**9  # to see that the link is good, and what any shell can count

Role = Literal["device", "edge"]
Way = Literal["egress", "ingress"]


@dataclass(frozen=True)
class Shaping:
    """The traffic with one peer, on one interface, is to go over a link.

    ports: only TCP and UDP from or to these, on either side; none means all traffic with the peer. exempt_ports:
    TCP never shaped, SSH among them. role: which end of the link this machine is, so which direction leaves it.
    only: shape one way and leave the other to the peer.
    """

    interface: str
    peer: str
    spec: LinkSpec
    ports: tuple[int, ...] = ()
    exempt_ports: tuple[int, ...] = (SSH_PORT,)
    role: Role = "device"
    only: Way | None = None

    def __post_init__(self) -> None:
        if not INTERFACE_NAME.fullmatch(self.interface):
            raise LinkError(
                f"'{self.interface}' is not the name of an interface (up to 15 letters, digits, '_', '.', '-'): `ip -br"
                " link` lists them, `ip link set OLD name NEW` gives another"
            )
        if self.interface == "lo":
            raise LinkError("loopback is not shaped (every packet would be impaired twice): use a lab, `up CONFIG`")
        try:
            address = ipaddress.ip_address(self.peer)
        except ValueError:
            raise LinkError(f"peer '{self.peer}' is not an IP address: filters need its address, not a name") from None
        if "%" in self.peer:
            zone = self.peer.partition("%")[2]
            raise LinkError(f"peer {self.peer}: filters match an address alone: leave out '%{zone}'")
        if address.is_loopback or address.is_unspecified or address.is_multicast:
            raise LinkError(f"peer {self.peer} is not another machine's address")
        for port in (*self.ports, *self.exempt_ports):
            if not 0 < port < 65536:
                raise LinkError(f"port {port} is not between 1 and 65535")
        if both := sorted(set(self.ports) & set(self.exempt_ports)):
            raise LinkError(f"port {both[0]} is exempt (SSH, or --exempt-port) and cannot be shaped too")
        if self.spec.tcp != TcpSpec():
            raise LinkError(
                "link.tcp is pinned in labs only: on a real interface set it yourself and leave it out here"
            )
        if self.spec.backend != "auto":
            raise LinkError(f"link.backend '{self.spec.backend}' is for labs: leave it out for a real interface")
        if self.spec.changes_while_it_runs:
            raise LinkError(
                "link.trace and link.outages are played by a run in its lab; a real interface keeps one shape: leave"
                " them out here"
            )
        if not (self.egress.is_shaped or self.ingress.is_shaped):
            raise LinkError(
                "nothing is declared for this interface, so there is nothing to shape: give --link or --set"
            )

    @property
    def family(self) -> Literal["ip", "ip6"]:
        return "ip" if ipaddress.ip_address(self.peer).version == 4 else "ip6"

    @property
    def directions(self) -> dict[Way, Direction]:
        """What leaves this machine and what comes in, as the link's directions."""
        return {"egress": "up", "ingress": "down"} if self.role == "device" else {"egress": "down", "ingress": "up"}

    def way(self, which: Way) -> DirectionSpec:
        return DirectionSpec() if self.only not in (None, which) else self.spec.direction(self.directions[which])

    @property
    def egress(self) -> DirectionSpec:
        return self.way("egress")

    @property
    def ingress(self) -> DirectionSpec:
        return self.way("ingress")

    def describe(self) -> dict[str, Any]:
        return {
            "interface": self.interface,
            "peer": self.peer,
            "ports": list(self.ports),
            "exempt_ports": list(self.exempt_ports),
            "role": self.role,
            "only": self.only,
            "declared": self.spec.model_dump(),
        }

    @classmethod
    def from_description(cls, data: dict[str, Any]) -> Shaping:
        """Reads no profile again: whatever has become of its file, the link is the one that was declared."""
        spec = LinkSpec(**{**data["declared"], "profile": None})
        return cls(
            data["interface"],
            data["peer"],
            spec.model_copy(update={"profile": data["declared"]["profile"]}),
            tuple(data["ports"]),
            tuple(data["exempt_ports"]),
            data["role"],
            data["only"],
        )


def timer_s(seconds: float) -> int:
    """Whole seconds, rounded up, until a link is taken off again. Raises LinkError for what is no such time."""
    if not LEAST_TIMER_S <= seconds <= LONGEST_TIMER_S:
        raise LinkError(
            f"dead-man timer of {seconds:g} s: give {LEAST_TIMER_S} to {LONGEST_TIMER_S:,} s, and confirm once the link"
            " is good"
        )
    return math.ceil(seconds)


@dataclass(frozen=True)
class Found:
    """An interface as it was, as far as shaping it has to know.

    discipline: the kind of queue its traffic waits in; it goes on doing so for all that is not shaped. fresh: the kind
    the kernel would give it today (`net.core.default_qdisc`), None where that cannot be read. offloads: every feature
    that the segmentation offloads consist of, with its value, fixed ones left out.
    """

    discipline: str
    fresh: str | None
    offloads: dict[str, bool]
