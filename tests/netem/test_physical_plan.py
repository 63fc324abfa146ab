"""What a wish for a real interface turns into, as text; and which wishes are refused."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from experiments.cli.netem import app
from experiments.interface import link_from
from netem.errors import LinkError
from netem.physical import Shaping, renew, shape
from netem.physical.plan import ifb_name, plan
from netem.physical.shaping import Found
from netem.script import interface_script
from netem.spec import LinkSpec

SPEC = LinkSpec(up={"delay_ms": 10}, down={"delay_ms": 25, "rate_mbps": 8})
NIC = Found("fq_codel", "fq_codel", {"generic-segmentation-offload": True, "generic-receive-offload": False})


def commands(**wish: Any) -> list[str]:
    shaping = Shaping(**{"interface": "eth0", "peer": "10.0.0.2", "spec": SPEC, **wish})
    return [" ".join(step.argv) for step in plan(shaping, NIC).steps]


def test_ssh_is_let_by_before_any_filter_that_shapes_is_there() -> None:
    for wish in ({}, {"ports": (5555,)}, {"peer": "fd00::2"}, {"role": "edge"}):
        for parent in ("d55d:", "ffff:"):
            filters = [line for line in commands(**wish) if f"filter add dev eth0 parent {parent} " in line]
            orders = [line.split(" prio ")[1].split()[0] for line in filters]
            assert orders == sorted(orders) and orders[:2] == ["10", "10"]
            assert all(" 22 0xffff " in line for line in filters[:2])
            spared = [line for line, order in zip(filters, orders) if order == "10"]
            assert all("mirred" not in line and not line.endswith("d55d:2") for line in spared)


def test_only_the_peers_traffic_is_shaped_and_only_its_ports() -> None:
    shaping = [line for line in commands(ports=(5555, 5556)) if line.endswith("d55d:2") or "mirred" in line]
    assert len(shaping) == 2 * 2 * 2 * 2  # ways, ports, protocols, sides
    for line in shaping:
        peer_is = "src" if "mirred" in line else "dst"
        assert f"match ip {peer_is} 10.0.0.2/32 match ip protocol " in line
        assert " 5555 0xffff" in line or " 5556 0xffff" in line
    everything = [line for line in commands() if line.endswith("d55d:2") or "mirred" in line]
    assert len(everything) == 2


def test_a_peer_with_an_ipv6_address_is_matched_as_such() -> None:
    (line,) = [line for line in commands(peer="fd00::2") if line.endswith("d55d:2")]
    assert "protocol ipv6" in line and "match ip6 dst fd00::2/128" in line


def test_how_an_ipv6_peer_is_found_is_not_shaped() -> None:
    for parent in ("d55d:", "ffff:"):
        spared = [
            line
            for line in commands(peer="fd00::2", exempt_ports=())
            if f"parent {parent} " in line and " prio 10 " in line
        ]
        assert [int(line.split(" icmp_type ")[1].split()[0]) for line in spared] == [133, 134, 135, 136, 137]
        assert all("match ip6 protocol 58 0xff" in line for line in spared)
    assert not [line for line in commands() if "icmp" in line]


def test_the_role_says_which_direction_leaves() -> None:
    def delays(role: str) -> tuple[str, str]:
        found = {("ifb" if "dev ifb" in line else "out"): line for line in commands(role=role) if " netem " in line}
        return found["out"].split("delay ")[1].split()[0], found["ifb"].split("delay ")[1].split()[0]

    assert delays("device") == ("10ms", "25ms") and delays("edge") == ("25ms", "10ms")


def test_one_way_leaves_the_other_alone() -> None:
    assert not [line for line in commands(only="egress") if "ifb" in line or "ingress" in line]
    assert not [line for line in commands(only="ingress") if "root handle d55d:" in line]


def test_all_other_traffic_waits_in_the_queue_it_had() -> None:
    assert "tc qdisc add dev eth0 parent d55d:1 handle d55e: fq_codel" in commands()
    (root,) = [line for line in commands() if "prio bands" in line]
    assert root.endswith("priomap" + 16 * " 0")


def test_a_profiles_file_is_read_once_and_found_from_everywhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("link: {rtt_ms: 30, jitter_ms: 2, up: {gilbert: {mean_loss_pct: 1, mean_burst: 3}}}")
    monkeypatch.chdir(tmp_path)
    for spec in (link_from(None, "mine.yaml", []), link_from(None, None, ["link.profile=mine.yaml"])):
        assert spec.profile == str(mine)
        shaping = Shaping("eth0", "10.0.0.2", spec, (5555,), (22, 2222), "edge", "ingress")
        told = shaping.describe()
    mine.write_text("link: {rtt_ms: 1, rate_mbps: 3}")
    assert Shaping.from_description(told) == shaping
    mine.unlink()
    assert Shaping.from_description(told) == shaping


@pytest.mark.parametrize("seconds", [-100.0, 0.0, 0.3, 1.9, 1e10, float("inf"), float("nan")])
def test_a_timer_that_is_none_is_refused_everywhere(
    seconds: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DSSD_STATE_DIR", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    shaping, folder = Shaping("eth0", "10.0.0.2", SPEC), tmp_path / "@eth0"
    with pytest.raises(LinkError, match="dead-man timer of"):
        shape(shaping, seconds)
    with pytest.raises(LinkError, match="dead-man timer of"):
        interface_script(shaping, seconds)
    folder.mkdir()
    (folder / "state.json").write_text(json.dumps({**shaping.describe(), "dead_man_s": 120}))
    (folder / "deadline").write_text("never")
    with pytest.raises(LinkError, match="dead-man timer of"):
        renew("eth0", seconds)
    assert (folder / "deadline").read_text() == "never"
    where = ["--iface", "eth0", "--peer", "10.0.0.2", "--set", "link.rtt_ms=4"]
    for timed in (["plan", "--script", *where], ["plan"]):  # which without an interface has no timer
        said = CliRunner().invoke(app, [*timed, f"--dead-man-s={seconds}"])
        assert said.exit_code == 1 and "dead-man" in said.output


def test_a_timer_is_never_shorter_than_was_asked_for() -> None:
    for seconds in (2, 2.01, 2.5, 119.9):
        (line,) = [
            line
            for line in interface_script(Shaping("eth0", "10.0.0.2", SPEC), seconds).splitlines()
            if line.startswith("DEAD_MAN_S=")
        ]
        assert seconds <= int(line.partition("=")[2]) < seconds + 1


def test_undo_restores_values_not_guesses() -> None:
    features = {
        "tcp-segmentation-offload": True,
        "tx-tcp-segmentation": True,
        "tx-tcp-mangleid-segmentation": False,
        "generic-receive-offload": True,
    }
    shaping = Shaping("eth0", "10.0.0.2", SPEC)
    undo = [" ".join(step.argv) for step in plan(shaping, Found("fq_codel", "fq_codel", features)).undo]
    assert undo == [
        "tc qdisc del dev eth0 ingress",
        "tc qdisc del dev eth0 root handle d55d:",
        "ip link del ifb-eth0",
        "ethtool -K eth0 tx-tcp-segmentation on tx-tcp-mangleid-segmentation off generic-receive-offload on",
    ]


def test_a_queue_older_than_todays_default_comes_back_all_the_same() -> None:
    """The kernel makes a fresh default of whatever `net.core.default_qdisc` says at that moment."""
    undo = [" ".join(step.argv) for step in plan(Shaping("eth0", "10.0.0.2", SPEC), Found("pfifo_fast", "fq", {})).undo]
    at = undo.index("tc qdisc del dev eth0 root handle d55d:")
    assert undo[at - 1].endswith("default_qdisc=pfifo_fast") and undo[at + 1].endswith("default_qdisc=fq")


def test_an_ifb_has_a_name_that_fits() -> None:
    names = [ifb_name(name) for name in ("eth0", "enp129s0f0np0v1", "enp129s0f0np0v2")]
    assert all(len(name) <= 15 for name in names) and len(set(names)) == 3


def test_an_interface_is_named_by_what_is_one_word_to_every_shell() -> None:
    for name in ("eth0", "enp129s0f0np0v1", "eth0.100", "br-lan", "wg_home"):
        assert any(f"dev {name} " in line for line in commands(interface=name))
    for name in (
        "",
        "-d",
        "..",
        "a" * 16,
        *(f"eth{sign}0" for sign in {*string.punctuation, *string.whitespace} - {*"_.-"}),
    ):
        with pytest.raises(LinkError, match="not the name of an interface"):
            commands(interface=name)


@pytest.mark.parametrize(
    ("wish", "complaint"),
    [
        ({"interface": "lo"}, "loopback"),
        ({"interface": "eth0; reboot"}, "not the name of an interface"),
        ({"peer": "edge.local"}, "not an IP address"),
        ({"peer": "127.0.0.1"}, "not another machine"),
        ({"peer": "fe80::2%eth0"}, "leave out '%eth0'"),
        ({"ports": (22,)}, "port 22 is exempt"),
        ({"ports": (70000,)}, "between 1 and 65535"),
        ({"spec": LinkSpec()}, "nothing is declared"),
        ({"spec": LinkSpec(up={"delay_ms": 5}), "only": "ingress"}, "nothing is declared"),
        ({"spec": LinkSpec(rtt_ms=5, tcp={"initcwnd": 20})}, "link.tcp"),
        ({"spec": LinkSpec(rtt_ms=5, backend="uml")}, "link.backend 'uml'"),
    ],
)
def test_what_cannot_be_is_refused(wish: dict[str, Any], complaint: str) -> None:
    with pytest.raises(LinkError, match=complaint):
        commands(**wish)
