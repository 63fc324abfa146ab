"""A real interface's link -> commands. Pure, as netem.plan is.

    egress   prio d55d: ── d55d:1  all other traffic, under the discipline it had (d55e:)
                        └─ d55d:2  netem (d55f:), for what a filter sends there: the peer's traffic
    ingress  ffff: ── the peer's traffic is redirected to an ifb of our own, whose root is netem (d55f:)

The netem band comes last, so the shaped traffic never holds up anything else. SSH is filtered out first, both ways, and
with it what finds an IPv6 peer (IPv4's ARP is not IP, and passes anyhow).
Everything hangs on the two qdiscs and the ifb: deleting these three undoes all but the offloads. The kernel puts its
default discipline back when ours is deleted.
"""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

from netem.physical.shaping import Found, Shaping
from netem.plan import Plan, Step, netem_argv

ROOT, OTHERS, NETEM, INGRESS = "d55d:", "d55e:", "d55f:", "ffff:"
EXEMPT_FIRST, SHAPED_SECOND = "10", "20"  # order in which filters are asked
TCP, UDP, ICMPV6 = "6", "17", "58"
NEIGHBOUR_DISCOVERY = range(133, 138)  # ICMPv6 types: router and neighbour solicitation and advertisement, redirect
BANDS = ("prio", "bands", "2", "priomap", *("0" for _ in range(16)))  # only a filter leads to the second
OFFLOADS = ("tso", "gso", "gro", "lro")  # netem would lose, delay and time packets of 64 kB
FEATURE_OF = {
    "tso": "tcp-segmentation-offload",
    "gso": "generic-segmentation-offload",
    "gro": "generic-receive-offload",
    "lro": "large-receive-offload",
}
DEFAULT_QDISC = "net.core.default_qdisc"


def ifb_name(interface: str) -> str:
    name = f"ifb-{interface}"
    return name if len(name) <= 15 else f"ifb-{crc32(interface.encode()):08x}"


def plan(shaping: Shaping, found: Found) -> Plan:
    """Undo is complete from the first step on: what is not there yet, or any more, is no trouble to remove."""
    steps = list(offloads_off(shaping, found))
    if shaping.egress.is_shaped:
        steps += egress(shaping, found)
    if shaping.ingress.is_shaped:
        steps += ingress(shaping)
    return Plan(_here(steps), _here(undo(shaping, found)))


def offloads_off(shaping: Shaping, found: Found) -> Iterator[list[str]]:
    words = [word for name in OFFLOADS if found.offloads.get(FEATURE_OF[name]) for word in (name, "off")]
    if words:
        yield ["ethtool", "-K", shaping.interface, *words]


def egress(shaping: Shaping, found: Found) -> Iterator[list[str]]:
    add = ["tc", "qdisc", "add", "dev", shaping.interface]
    yield [*add, "root", "handle", ROOT, *BANDS]
    if found.discipline != "noqueue":
        yield [*add, "parent", f"{ROOT}1", "handle", OTHERS, found.discipline]
    yield [*add, "parent", f"{ROOT}2", "handle", NETEM, "netem", *netem_argv(shaping.egress)]
    for match in exempt(shaping):
        yield [*_filter(shaping, ROOT, EXEMPT_FIRST), *match, "flowid", f"{ROOT}1"]
    for match in shaped(shaping, "dst"):
        yield [*_filter(shaping, ROOT, SHAPED_SECOND), *match, "flowid", f"{ROOT}2"]


def ingress(shaping: Shaping) -> Iterator[list[str]]:
    ifb = ifb_name(shaping.interface)
    yield ["ip", "link", "add", ifb, "type", "ifb"]
    yield ["tc", "qdisc", "add", "dev", ifb, "root", "handle", NETEM, "netem", *netem_argv(shaping.ingress)]
    yield ["ip", "link", "set", ifb, "up"]
    yield ["tc", "qdisc", "add", "dev", shaping.interface, "handle", INGRESS, "ingress"]
    for match in exempt(shaping):
        yield [*_filter(shaping, INGRESS, EXEMPT_FIRST), *match, "flowid", f"{INGRESS}1"]
    redirect = ["action", "mirred", "egress", "redirect", "dev", ifb]
    for match in shaped(shaping, "src"):
        yield [*_filter(shaping, INGRESS, SHAPED_SECOND), *match, *redirect]


def exempt(shaping: Shaping) -> Iterator[list[str]]:
    for port in shaping.exempt_ports:
        for side in ("sport", "dport"):
            yield ["u32", *_match(shaping, "protocol", TCP, "0xff"), *_match(shaping, side, str(port), "0xffff")]
    for kind in NEIGHBOUR_DISCOVERY if shaping.family == "ip6" else ():
        yield ["u32", *_match(shaping, "protocol", ICMPV6, "0xff"), *_match(shaping, "icmp_type", str(kind), "0xff")]


def shaped(shaping: Shaping, peer_is: str) -> Iterator[list[str]]:
    bits = 32 if shaping.family == "ip" else 128
    peer = ["u32", *_match(shaping, peer_is, f"{shaping.peer}/{bits}")]
    if not shaping.ports:
        yield peer
    for port in shaping.ports:
        for protocol in (TCP, UDP):
            for side in ("sport", "dport"):
                yield [
                    *peer,
                    *_match(shaping, "protocol", protocol, "0xff"),
                    *_match(shaping, side, str(port), "0xffff"),
                ]


def undo(shaping: Shaping, found: Found) -> Iterator[list[str]]:
    """Traffic first (nothing is redirected to an ifb that is gone), then what carried it, then the offloads."""
    interface = shaping.interface
    if shaping.ingress.is_shaped:
        yield ["tc", "qdisc", "del", "dev", interface, "ingress"]
    if shaping.egress.is_shaped:
        other = found.discipline not in ("noqueue", found.fresh) and found.fresh is not None
        if other:
            yield ["sysctl", "-q", "-w", f"{DEFAULT_QDISC}={found.discipline}"]
        yield ["tc", "qdisc", "del", "dev", interface, "root", "handle", ROOT]
        if other:
            yield ["sysctl", "-q", "-w", f"{DEFAULT_QDISC}={found.fresh}"]
    if shaping.ingress.is_shaped:
        yield ["ip", "link", "del", ifb_name(interface)]
    if any(found.offloads.get(FEATURE_OF[name]) for name in OFFLOADS):
        parts = {name: on for name, on in found.offloads.items() if name != FEATURE_OF["tso"]}  # which is a group
        words = [word for name, on in parts.items() for word in (name, "on" if on else "off")]
        yield ["ethtool", "-K", interface, *words]


def _filter(shaping: Shaping, parent: str, order: str) -> list[str]:
    protocol = "ip" if shaping.family == "ip" else "ipv6"
    return ["tc", "filter", "add", "dev", shaping.interface, "parent", parent, "protocol", protocol, "prio", order]


def _match(shaping: Shaping, *words: str) -> list[str]:
    return ["match", shaping.family, *words]


def _here(argvs: Iterator[list[str]] | list[list[str]]) -> tuple[Step, ...]:
    return tuple(Step("here", tuple(argv)) for argv in argvs)
