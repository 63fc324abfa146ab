"""Spec -> commands. Pure: nothing here runs, reads a file or knows whether it is root.

The topology is the same in both backends, so the same commands shape the link in both:

    device namespace            router                    edge namespace
    link0 198.18.x.1 ──── to_device   to_edge ──── link0 198.19.x.1
                          └ netem: down └ netem: up

The router is a third namespace of this kernel (`netns`) or a user-mode Linux guest (`uml`). netem sits on
the router and never on the sender: TCP's small-queue limit would otherwise see the emulated delay as its
own queue and throttle. Everything lives in the three namespaces; the machine's own namespace is never
touched, so deleting them undoes all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from shlex import join
from zlib import crc32

from netem.qdisc import (
    HANDLE,
    NEVER_LIMITS,
    PORTS,
    Place,
    Step,
    bucket_bps,
    netem_argv,
    reshape,
    retune,
    shape,
)
from netem.spec import DIRECTIONS, MTU_BYTES, Direction, LinkSpec, TcpSpec

__all__ = ["HANDLE", "NEVER_LIMITS", "PORTS", "LabNames", "Place", "Plan", "Step"]
__all__ += ["bucket_bps", "netem_argv", "reshape", "retune"]


INTERFACE = "link0"  # the hosts' end
NO_IPV6 = "net.ipv6.conf.all.disable_ipv6=1"
OFFLOADS = ("tso", "gso", "gro")


@dataclass(frozen=True)
class Plan:
    """Commands in order, and those that undo them (in the order to run them)."""

    steps: tuple[Step, ...]
    undo: tuple[Step, ...] = field(default=())


@dataclass(frozen=True)
class LabNames:
    """Every name and address of one lab, derived from its id: distinct for labs that run side by side."""

    lab_id: str

    def namespace(self, place: Place) -> str:
        return f"dssd-{self.lab_id}-{place}"

    @property
    def namespaces(self) -> tuple[str, str, str]:
        return (self.namespace("device"), self.namespace("router"), self.namespace("edge"))

    def address(self, place: Place, toward: Place | None = None) -> str:
        """198.18.0.0/15 is reserved for benchmarks, so no real network is hidden; /30 per side."""
        subnet = 4 * (crc32(self.lab_id.encode()) % 16384)
        side, last = (toward, 2) if place == "router" else (place, 1)
        return f"198.{18 if side == 'device' else 19}.{subnet >> 8}.{(subnet & 255) + last}"

    def subnet(self, place: Place) -> str:
        network, _, last = self.address(place).rpartition(".")
        return f"{network}.{int(last) - 1}/30"


MAC = {("device", None): 1, ("router", "device"): 2, ("router", "edge"): 3, ("edge", None): 4}


def mac(place: Place, toward: Place | None = None) -> str:
    """Locally administered, the same in every lab: each lives on its own wires."""
    return f"02:d5:5d:00:00:{MAC[place, toward]:02x}"


def namespaces(names: LabNames) -> Plan:
    """Three empty namespaces; without IPv6, so that no discovery traffic is in the counters."""
    steps = []
    for name in names.namespaces:
        quiet = ("nsenter", f"--net=/run/netns/{name}", "--", "sysctl", "-q", "-e", "-w", NO_IPV6)
        for argv in (("ip", "netns", "add", name), ("ip", "-n", name, "link", "set", "lo", "up"), quiet):
            steps.append(Step("here", argv))
    return Plan(tuple(steps), tuple(Step("here", ("ip", "netns", "del", name)) for name in names.namespaces))


def veth_wires(names: LabNames) -> list[Step]:
    """Two cables from the router namespace."""
    router = names.namespace("router")
    return [
        Step(
            "here",
            (
                "ip",
                "-n",
                router,
                "link",
                "add",
                f"to_{end}",
                "type",
                "veth",
                "peer",
                "name",
                INTERFACE,
                "netns",
                names.namespace(end),
            ),
        )
        for end in ENDS
    ]


def tap_wires(names: LabNames) -> tuple[list[Step], list[Step]]:
    """Taps made in the router namespace, where the guest opens them; then moved to the hosts as their
    interfaces.
    """
    router = names.namespace("router")
    make = [Step("here", ("ip", "-n", router, "tuntap", "add", "dev", f"to_{end}", "mode", "tap")) for end in ENDS]
    move = [
        Step(
            "here",
            (
                "ip",
                "-n",
                router,
                "link",
                "set",
                "dev",
                f"to_{end}",
                "netns",
                names.namespace(end),
                "name",
                INTERFACE,
            ),
        )
        for end in ENDS
    ]
    return make, move


ENDS: tuple[Place, Place] = ("device", "edge")


def host(names: LabNames, place: Place, tcp: TcpSpec, congestion: str) -> list[Step]:
    """Address, route, neighbour and TCP settings of one host.

    Neighbours are permanent, so no ARP exchange is delayed or lost on the link. The congestion control goes
    on the route: a namespace's sysctl refuses what the machine's owner has not allowed, a route does not.
    """
    peer: Place = "edge" if place == "device" else "device"
    router = names.address("router", place)
    route = [
        "ip",
        "route",
        "replace",
        names.subnet(peer),
        "via",
        router,
        "dev",
        INTERFACE,
        "congctl",
        congestion,
    ]
    route += ["initcwnd", str(tcp.initcwnd)]
    settings = [
        "net.ipv4.tcp_no_metrics_save=1",  # else the first connection's losses shape the next one's start
        f"net.ipv4.tcp_slow_start_after_idle={int(tcp.slow_start_after_idle)}",
        f"net.ipv4.tcp_ecn={1 if tcp.ecn else 2}",
        f"net.ipv4.tcp_rmem=4096 {min(131072, tcp.rmem_bytes)} {tcp.rmem_bytes}",
        f"net.ipv4.tcp_wmem=4096 {min(16384, tcp.wmem_bytes)} {tcp.wmem_bytes}",
    ]
    argvs: list[list[str]] = [
        ["ip", "link", "set", INTERFACE, "address", mac(place), "mtu", str(MTU_BYTES)],
        ["ip", "address", "add", f"{names.address(place)}/30", "dev", INTERFACE],
        ["ethtool", "-K", INTERFACE, *_off(OFFLOADS)],
        ["ip", "link", "set", INTERFACE, "up"],
        [
            "ip",
            "neighbour",
            "replace",
            router,
            "lladdr",
            mac("router", place),
            "dev",
            INTERFACE,
            "nud",
            "permanent",
        ],
        route,
        *(["sysctl", "-q", "-w", setting] for setting in settings),
    ]
    return [Step(place, tuple(argv)) for argv in argvs]


def router(names: LabNames, spec: LinkSpec) -> list[Step]:
    """Forwarding between the two ports, and netem on each."""
    argvs: list[list[str]] = []
    for end in ENDS:
        port = f"to_{end}"
        argvs += [
            ["ip", "link", "set", port, "address", mac("router", end), "mtu", str(MTU_BYTES)],
            ["ip", "address", "add", f"{names.address('router', end)}/30", "dev", port],
            ["ethtool", "-K", port, *_off(OFFLOADS)],
            ["ip", "link", "set", port, "up"],
            [
                "ip",
                "neighbour",
                "replace",
                names.address(end),
                "lladdr",
                mac(end),
                "dev",
                port,
                "nud",
                "permanent",
            ],
        ]
    argvs.append(["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"])
    shapes = [step for which in DIRECTIONS for step in shape(which, spec.direction(which).at_start())]
    return [Step("router", tuple(argv)) for argv in argvs] + shapes


def cut(names: LabNames, which: Direction) -> list[Step]:
    """Drop, silently and at once, all that this direction still has to forward; what netem already holds
    arrives.
    """
    end: Place = "edge" if which == "up" else "device"
    return [Step("router", ("ip", "route", "replace", "blackhole", f"{names.address(end)}/32"))]


def mend(names: LabNames, which: Direction) -> list[Step]:
    end: Place = "edge" if which == "up" else "device"
    return [Step("router", ("ip", "route", "del", "blackhole", f"{names.address(end)}/32"))]


def in_place(step: Step, names: LabNames) -> list[str]:
    """The command as it is run from this machine.

    Entering only the network namespace leaves /sys, and with it the cgroups and power counters that a node
    may read, as they are (`ip netns exec` would cover them).
    """
    if step.place == "here":
        return list(step.argv)
    return ["nsenter", f"--net=/run/netns/{names.namespace(step.place)}", "--", *step.argv]


def netns_plan(names: LabNames, spec: LinkSpec, congestion: str) -> Plan:
    """The whole lab in this kernel: what `open_lab` runs, and what can be shown without running it."""
    made = namespaces(names)
    steps = [*made.steps, *veth_wires(names), *router(names, spec)]
    steps += [step for end in ENDS for step in host(names, end, spec.tcp, congestion)]
    return Plan(tuple(steps), made.undo)


def shell_lines(steps: Iterable[Step], names: LabNames) -> list[str]:
    """The same commands as text for a shell."""
    return [join(in_place(step, names)) for step in steps]


def _off(features: Sequence[str]) -> list[str]:
    return [word for feature in features for word in (feature, "off")]
