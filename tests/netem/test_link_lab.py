"""Labs that are really built. Delays are judged by medians of kernel-stamped probes: a busy machine is no excuse."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Sequence

import pytest
from conftest import need

from netem import check
from netem.errors import BackendError, LinkError
from netem.lab import Host, Lab, open_lab
from netem.spec import LinkSpec

pytestmark = pytest.mark.lab


def python_on(host: Host, code: str, *arguments: object) -> str:
    argv = host.wrap([sys.executable, "-I", "-S", "-c", code, *(str(word) for word in arguments)])
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def delays_ms(lab: Lab, count: int = 80) -> dict[str, float]:
    heard = check._ask(lab, count, 4.0)
    return {name: statistics.median(heard.column_ms(column)) for name, column in (("rtt", 2), ("up", 3), ("down", 4))}


def quickest_ms(lab: Lab) -> float:
    return min(check._ask(lab, 80, 4.0).column_ms(2))


def lost_of(lab: Lab, count: int) -> int:
    return count - len(check._ask(lab, count, 2.0).answers)


def test_delay_each_way_is_the_declared_one(lab: Lab) -> None:
    lab.change(LinkSpec(backend=lab.backend, up={"delay_ms": 20}, down={"delay_ms": 20}))
    assert delays_ms(lab) == pytest.approx({"rtt": 40, "up": 20, "down": 20}, abs=1.0)
    lab.change(LinkSpec(backend=lab.backend, up={"delay_ms": 5}, down={"delay_ms": 60}))
    assert delays_ms(lab) == pytest.approx({"rtt": 65, "up": 5, "down": 60}, abs=1.0)


def test_an_unshaped_lab_adds_little(lab: Lab) -> None:
    """The quickest of many probes, since a test is no place for timing: `dssd bench link` has the median."""
    assert quickest_ms(lab) < 1.0
    assert lab.applied == {"up": {}, "down": {}} and lab.exec_counters() == {}


def test_applied_is_what_the_kernel_says(lab: Lab) -> None:
    up = {"delay_ms": 30, "jitter_ms": 4, "distribution": "normal", "rate_mbps": 4, "loss_pct": 1.5}
    down = {"delay_ms": 10, "gilbert": {"mean_loss_pct": 2, "mean_burst": 5}, "duplicate_pct": 1, "corrupt_pct": 0.5}
    lab.change(LinkSpec(backend=lab.backend, up=up, down=down))
    assert lab.applied["up"] == pytest.approx(
        {"queue_packets": 1000, "delay_ms": 30, "jitter_ms": 4, "rate_mbps": 4, "loss_pct": 1.5}, rel=1e-3
    )
    assert lab.applied["down"]["gilbert_leave_pct"] == pytest.approx(20, rel=1e-3)
    assert lab.applied["down"]["duplicate_pct"] == pytest.approx(1, rel=1e-3)


EVERYTHING = [
    {"delay_ms": 10, "jitter_ms": 2, "correlation_pct": 25, "ecn": True,
     "loss_states": {"mean_loss_pct": 3, "mean_burst": 6, "burst_density_pct": 70, "good_run": 2}},
    {"delay_ms": 10, "gilbert": {"mean_loss_pct": 3, "mean_burst": 5, "bad_loss_pct": 80, "good_loss_pct": 0.5},
     "duplicate_pct": 1, "duplicate_correlation_pct": 20, "corrupt_pct": 1, "corrupt_correlation_pct": 10,
     "reorder_pct": 5, "reorder_correlation_pct": 50, "reorder_gap": 3,
     "rate_mbps": 5, "rate_overhead_bytes": -10, "rate_cell_bytes": 48, "rate_cell_overhead_bytes": 5},
    {"delay_ms": 10, "slot": {"min_ms": 5, "max_ms": 10, "packets": 20, "bytes": 30000}},
    {"delay_ms": 10, "slot": {"mean_ms": 5, "jitter_ms": 1, "distribution": "normal"}},
    {"delay_ms": 10, "slot": {"mean_ms": 5}},
    {"delay_ms": 10, "slot": {"mean_ms": 5, "jitter_ms": 5, "packets": 9}},
    {"delay_ms": 3},
]  # fmt: skip


def test_every_parameter_of_netem_is_taken_and_read_back(lab: Lab) -> None:
    """`change` raises where the kernel says something else than was declared."""
    for up in EVERYTHING:
        lab.change(LinkSpec(backend=lab.backend, up=up))
    assert lab.applied["up"] == {"queue_packets": 1000, "delay_ms": 3}


def test_what_a_change_takes_away_is_gone(lab: Lab) -> None:
    lab.change(LinkSpec(backend=lab.backend, rtt_ms=4, rate_mbps=1, up={"duplicate_pct": 50, "corrupt_pct": 50}))
    lab.change(LinkSpec(backend=lab.backend, rtt_ms=4))
    assert lab.applied["up"] == {"queue_packets": 1000, "delay_ms": 2}
    heard = check._ask(lab, 200, 1.0)
    assert len(heard.answers) == len(heard.arrived_numbers) == 200


def test_change_keeps_packets_in_flight(lab: Lab) -> None:
    lab.change(LinkSpec(backend=lab.backend, up={"delay_ms": 2000}))
    with check._answerer(lab.edge) as (port, finish):
        sender = subprocess.Popen(check._command(lab.device, ["stream", lab.edge.address, port, 20, 50]))
        assert sender.wait(timeout=30) == 0
        lab.change(LinkSpec(backend=lab.backend, up={"delay_ms": 2100}))
        assert lab.exec_counters()["up"]["qlen"] > 0, "they should still be under way"
        while lab.exec_counters()["up"]["qlen"]:
            pass
        assert finish()["numbers"] == list(range(20))


def test_jitter_keeps_the_order_and_reordering_is_there_when_asked_for(lab: Lab) -> None:
    for more, overtaken in (({}, False), ({"rate_mbps": 50}, False), ({"reorder_pct": 20}, True)):
        lab.change(LinkSpec(backend=lab.backend, up={"delay_ms": 20, "jitter_ms": 10, **more}))
        numbers = check._ask(lab, 400, 0.5).arrived_numbers
        assert sorted(numbers) == list(range(400))
        assert (numbers != sorted(numbers)) is overtaken, more


def test_counters_count_frames(lab: Lab) -> None:
    before = lab.device.read_counters(), lab.edge.read_counters()
    check._ask(lab, 50, 1.0)
    after = lab.device.read_counters(), lab.edge.read_counters()
    for old, new in zip(before, after):
        grown = {key: new[key] - old[key] for key in new}
        assert grown == {"rx_packets": 50, "tx_packets": 50, "rx_bytes": 50 * 106, "tx_bytes": 50 * 106}


@pytest.mark.parametrize("cut", ["up", "down", None])
def test_cut_drops_at_once_what_it_should_and_mend_ends_it(lab: Lab, cut) -> None:
    lab.change(LinkSpec(backend=lab.backend, rtt_ms=4))
    lab.cut(cut)
    with check._answerer(lab.edge) as (port, finish):
        said = check._run(lab.device, ["ask", lab.edge.address, port, 20, 1000, 0], 20)
        arrived = len(finish()["numbers"])
    assert said["answers"] == []
    assert arrived == (20 if cut == "down" else 0)
    lab.mend()
    assert lost_of(lab, 20) == 0


TCP_OF_A_CONNECTION = """
import socket, sys
server = socket.create_server((sys.argv[1], 0))
client = socket.create_connection(server.getsockname())
accepted, _ = server.accept()
print(client.getsockopt(6, 13, 16).rstrip(bytes(1)).decode(), accepted.getsockopt(6, 13, 16).rstrip(bytes(1)).decode())
"""
SERVE = """
import socket, sys
server = socket.create_server((sys.argv[1], 0)); print(server.getsockname()[1], flush=True)
peer, _ = server.accept(); print(peer.getsockopt(6, 13, 16).rstrip(bytes(1)).decode(), flush=True)
"""
CONNECT = """
import socket, sys
peer = socket.create_connection((sys.argv[1], int(sys.argv[2])))
info = peer.getsockopt(6, 11, 256)
print(peer.getsockopt(6, 13, 16).rstrip(bytes(1)).decode(), int.from_bytes(info[80:84], sys.byteorder))
"""


def test_a_connection_gets_the_pinned_tcp_settings() -> None:
    """Also a congestion control that this machine does not allow in namespaces by default."""
    need("netns", shaped=False)
    spec = LinkSpec(backend="netns", tcp={"congestion": "cubic", "slow_start_after_idle": False, "initcwnd": 23})
    with open_lab(spec) as lab:
        argv = lab.edge.wrap([sys.executable, "-I", "-S", "-c", SERVE, lab.edge.address])
        server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        assert python_on(lab.device, CONNECT, lab.edge.address, port) == "cubic 23"
        assert server.stdout.readline().strip() == "cubic"
        server.communicate(timeout=10)
        for host in ("device", "edge"):
            said = lab.tcp[host]
            assert (said["congestion"], said["initcwnd"]) == ("cubic", 23)
            assert said["slow_start_after_idle"] is False and said["no_metrics_save"] is True
            assert said["offloads"] == {"tso": False, "gso": False, "gro": False}
            assert said["mtu_bytes"] == 1500 and said["pinned"]


def test_unshaped_namespaces_need_no_netem() -> None:
    need("netns", shaped=False)
    with open_lab(LinkSpec(backend="netns")) as lab:
        assert quickest_ms(lab) < 1.0
        lab.cut()
        with pytest.raises(LinkError, match="is the link cut"):
            check.check_link(lab)
        lab.mend()
        assert lost_of(lab, 10) == 0


def test_loopback_is_a_lab_without_a_link() -> None:
    with open_lab(LinkSpec()) as lab:
        assert (lab.backend, lab.device.address, lab.edge.wrap(["a", "b"])) == ("loopback", "127.0.0.1", ["a", "b"])
        assert set(lab.edge.read_counters()) == {"rx_bytes", "tx_bytes", "rx_packets", "tx_packets"}
        assert lab.tcp["edge"]["pinned"] is False
        assert check.check_link(lab).observed["rtt_ms"]["min"] < 1
        for forbidden in (lab.cut, lambda: lab.change(LinkSpec(rtt_ms=2))):
            with pytest.raises(LinkError, match="on loopback"):
                forbidden()


@pytest.mark.parametrize("link", [{"rtt_ms": 5}, {"tcp": {"initcwnd": 5}}, {"down": {"loss_pct": 1}}])
def test_shaping_loopback_is_refused(link: dict) -> None:
    with pytest.raises(BackendError, match="loopback cannot"), open_lab(LinkSpec(backend="loopback", **link)):
        pass


def test_unknown_congestion_control_is_refused_before_anything_is_made() -> None:
    need("netns", shaped=False)
    with pytest.raises(BackendError, match=r"'nosuch'.*modprobe tcp_nosuch"):
        with open_lab(LinkSpec(backend="netns", tcp={"congestion": "nosuch"}), name="refused"):
            pass
    assert not any("refused" in name for name in namespaces())


def namespaces() -> Sequence[str]:
    listing = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in listing.splitlines()]


def test_two_labs_side_by_side_do_not_meet(lab: Lab) -> None:
    lab.change(LinkSpec(backend=lab.backend, rtt_ms=20))
    with open_lab(LinkSpec(backend=lab.backend, rtt_ms=50)) as other:
        assert other.device.address != lab.device.address
        first, second = delays_ms(lab), delays_ms(other)
        assert (first["rtt"], second["rtt"]) == pytest.approx((20, 50), abs=1.0)
        with pytest.raises(LinkError, match="is up already"), open_lab(other.spec, name=other.name):
            pass
        assert delays_ms(other)["rtt"] == pytest.approx(50, abs=1.0), "the refused lab must not touch the living one"
    assert delays_ms(lab)["rtt"] == pytest.approx(20, abs=1.0)
