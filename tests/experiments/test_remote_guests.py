"""Two whole machines: user-mode Linux guests with a kernel, a clock and an interface each, driven from outside over
ssh, the link shaped by each on what it sends."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from guest import Guest
from test_remote import cut

from experiments.launch import Outcome, RunError
from experiments.remote.run import run_on_hosts
from experiments.remote.ssh import RemoteError
from experiments.schema import load_config
from experiments.store import RunFolder, create_run
from netem.apply import execute
from netem.backend import why_not
from netem.errors import LinkError
from netem.uml import SSE_ONLY

pytestmark = [pytest.mark.lab, pytest.mark.slow]

CLONE_NEWNET = 0x40000000
PORT = 2222
# Old guests save the SSE registers only (see netem/uml.py), and OpenSSL asks the processor what it may use.
NO_AVX = "OPENSSL_ia32cap=~0x1c00100000000000:0"
SSHD = """
Port {port}
HostKey {folder}/host_key
PidFile none
UsePAM no
StrictModes no
PermitRootLogin yes
AuthorizedKeysFile {folder}/login.pub
SetEnv {tunables}
"""


class DeviceGuest(Guest): ...


class EdgeGuest(Guest):
    ADDRESS, PEER, OTHER = "10.55.0.11", "10.55.0.12", "10.55.0.13"


@pytest.fixture(scope="module")
def guests(tmp_path_factory) -> Iterator[tuple[Guest, Guest, Path]]:
    """The device's machine, the edge's, and the keys; this process sits in the namespace of the device's cable."""
    for problem in (
        why_not("uml"),
        None if shutil.which("/usr/sbin/sshd") else "needs: apt-get install openssh-server",
    ):
        if problem:
            pytest.skip(problem)
    folder = tmp_path_factory.mktemp("keys")
    for name in ("host_key", "login"):
        execute(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)])
    known = "".join(
        f"[{guest.ADDRESS}]:{PORT} {(folder / 'host_key.pub').read_text()}" for guest in (DeviceGuest, EdgeGuest)
    )
    (folder / "known_hosts").write_text(known)
    (folder / "ssh_config").write_text(f"Host *\n  UserKnownHostsFile {folder}/known_hosts\n")
    (folder / "sshd_config").write_text(SSHD.format(port=PORT, folder=folder, tunables=SSE_ONLY))
    libc, home = ctypes.CDLL(None, use_errno=True), os.open("/proc/self/ns/net", os.O_RDONLY)
    with ExitStack() as stack:
        device, edge = stack.enter_context(DeviceGuest()), stack.enter_context(EdgeGuest())
        join(device, edge)
        for guest in (device, edge):
            guest.run(f"mkdir -p /run/sshd && {NO_AVX} /usr/sbin/sshd -E /run/sshd.log -f {folder}/sshd_config")
        desk = os.open(f"/run/netns/{device._namespace}", os.O_RDONLY)
        assert libc.setns(desk, CLONE_NEWNET) == 0
        os.close(desk)
        try:
            yield device, edge, folder
        finally:
            assert libc.setns(home, CLONE_NEWNET) == 0
            os.close(home)


def join(device: Guest, edge: Guest) -> None:
    """Both cables in one segment."""
    device.outside(
        ["ip", "link", "add", "between", "type", "veth", "peer", "name", "between", "netns", edge._namespace]
    )
    for guest in (device, edge):
        guest.outside(["ip", "link", "add", "segment", "type", "bridge"])
        for port in ("cable", "between"):
            guest.outside(["ip", "link", "set", port, "master", "segment", "up"])
        guest.outside(["ip", "address", "flush", "dev", "cable"])
        guest.outside(["ip", "address", "add", f"{guest.PEER}/24", "dev", "segment"])
        guest.outside(["ip", "link", "set", "segment", "up"])
        for name in ("cable", "between", "segment"):  # a guest drops packets that are larger than the cable's
            guest.outside(["ethtool", "-K", name, "tx", "off", "tso", "off", "gso", "off", "gro", "off"])


@pytest.fixture
def as_before(guests) -> Iterator[None]:
    """Both guests have to look afterwards as they did before."""
    device, edge, _ = guests
    before = device.state(), edge.state()
    yield
    device.wait_for_state(before[0])
    edge.wait_for_state(before[1])


def run(
    guests, folder: Path, progress=lambda stage, fields: None, at_device: dict | None = None,
    at_edge: dict | None = None, **keys,
) -> tuple[RunFolder, Outcome]:  # fmt: skip
    """`at_device`, `at_edge`: changes to the inventory."""
    device, edge, secrets = guests
    common = {"port": PORT, "user": "root", "identity": str(secrets / "login"), "interface": Guest.INTERFACE,
              "ssh_config": str(secrets / "ssh_config"), "workdir": "/run/dssd-work", "python": python()}  # fmt: skip
    hosts = {
        "device": {"address": device.ADDRESS, **common, **(at_device or {})},
        "edge": {"address": edge.ADDRESS, **common, **(at_edge or {})},
    }
    path = folder / "mine.yaml"
    content = {"engine": "toy", "systems": ["dssd"], "workload": {"prompts": ["t1 t2"]}, "hosts": hosts, **keys}
    path.write_text(yaml.safe_dump(content))
    config = load_config(path)
    made, outcome = create_run(folder / "results", config.resolved(), "test"), Outcome()
    run_on_hosts(config, made.path, progress, outcome)
    return made, outcome


def python() -> str:
    return str(Path(__file__).parents[2] / ".venv" / "bin" / "python")


LINK = {"up": {"delay_ms": 10}, "down": {"delay_ms": 30}, "tolerance": {"rtt_ms": 8}}


def test_a_shaped_link_between_two_machines_is_measured_used_and_taken_off(guests, as_before, tmp_path):
    made, outcome = run(guests, tmp_path, link=LINK)
    assert outcome.link["shaped_by"] == {"up": "device", "down": "edge"}
    assert outcome.link["applied"]["up"]["delay_ms"] == 10 and outcome.link["applied"]["down"]["delay_ms"] == 30
    assert 40 <= outcome.link["observed"]["rtt_ms"]["median"] < 48
    clock = made.node("device")["clock"]
    assert not clock["same"] and clock["path"] == "unshaped"
    assert clock["offset"]["error_ns"] < 10e6  # over the shaped path it would be 20 ms
    rounds = [record for record in made.rounds().records if record.edge_arrived_ns and not record.warmup]
    assert rounds
    for record in rounds:
        assert record.network_ms >= 39
        assert (record.edge_arrived_ns - record.start_ns) / 1e6 >= 9


def test_a_link_that_is_off_is_refused_and_taken_off(guests, as_before, tmp_path):
    with pytest.raises(LinkError, match="not as declared"):
        run(guests, tmp_path, link={**LINK, "tolerance": {"rtt_ms": 0.001}})
    assert RunFolder(tmp_path / "results" / "mine" / "latest").link()["observed"]["rtt_ms"]["median"] >= 40


# What may happen to them while the link is shaped ---------------------------------------------------------------------

MANY = {"link": LINK, "workload": {"prompts": ["t1"], "requests": 30}, "pace": {"forward_ms": 5.0}, "warmup": 0}


def once(action):
    """A progress callback that does this when the first request is done."""
    done = []

    def progress(stage, fields):
        if stage == "request" and not done:
            done.append(True)
            action()

    return progress


def latest(folder: Path) -> RunFolder:
    return RunFolder((folder / "results" / "mine" / "latest").resolve())


def test_a_connection_that_breaks_leaves_nothing_shaped(guests, as_before, tmp_path):
    with pytest.raises((RunError, RemoteError), match="connection was lost"):
        run(guests, tmp_path, once(lambda: (cut("device"), cut("edge"))), **MANY)
    assert latest(tmp_path).requests().records


@pytest.mark.parametrize("role", ["device", "edge"])
def test_a_node_that_is_killed_leaves_its_records_and_nothing_shaped(guests, as_before, tmp_path, role):
    victim = guests[0] if role == "device" else guests[1]
    kill = "for pid in $(pgrep -f nodes.process); do kill -KILL $pid; done; true"
    with pytest.raises(RunError, match=rf"{role} .* code"):
        run(guests, tmp_path, once(lambda: victim.run(kill)), edge={"restarts": 0}, **MANY)
    assert latest(tmp_path).requests().records and latest(tmp_path).traces()
    for guest in guests[:2]:
        assert not guest.run("ls /run/dssd-work/runs").strip()


def test_a_disk_that_fills_up_ends_the_run_by_name_and_one_that_is_full_refuses_it(guests, as_before, tmp_path):
    device = guests[0]
    device.run("mkdir -p /run/small && mount -t tmpfs -o size=200m small /run/small")
    fill = "cat /dev/zero >/run/small/filler 2>/dev/null; true"
    try:
        with pytest.raises((RunError, RemoteError), match="no room left"):
            run(guests, tmp_path, once(lambda: device.run(fill)), at_device={"workdir": "/run/small"}, **MANY)
        assert latest(tmp_path).requests().records
        with pytest.raises(RemoteError, match=r"(?s)(No space left|MB wanted).*remedy: make room there"):
            run(guests, tmp_path, at_device={"workdir": "/run/small"}, link=LINK)
    finally:
        device.run("umount /run/small")


def test_a_wall_clock_hours_off_is_told_and_changes_nothing(guests, as_before, tmp_path):
    edge = guests[1]
    edge.run("date -s @$(($(date +%s) + 18000)) >/dev/null")
    try:
        made, outcome = run(guests, tmp_path, link=LINK)
    finally:
        edge.run("date -s @$(($(date +%s) - 18000)) >/dev/null")
    told = {
        role: check for role in outcome.hosts for check in outcome.hosts[role]["checks"] if check["name"] == "clock"
    }
    assert told["edge"]["ok"] is None and "set-ntp" in told["edge"]["remedy"]
    assert abs(float(told["edge"]["detail"].split()[0]) - 18000) < 60
    assert told["device"]["ok"] is True
    error_ns = made.node("device")["clock"]["offset"]["error_ns"]
    for record in made.rounds().records:
        if record.edge_arrived_ns:
            assert record.start_ns - error_ns <= record.edge_arrived_ns <= record.end_ns + error_ns


REFUSED = {
    "a wrong key": ({"identity": "{keys}/host_key"}, ["Permission denied", "check user and identity"]),
    "an unknown interface": ({"interface": "eth9"}, ["there is no eth9", "vec0", "name one in the inventory"]),
    "no rights": ({"user": "nobody"}, ["Permission denied"]),
    "nobody there": ({"address": "10.55.0.99"}, ["10.55.0.99", "is the machine on"]),
    "no Python": ({"python": "/nowhere/python3"}, ["/nowhere/python3", "name a python"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_work_shapes_neither_machine(guests, as_before, tmp_path, what):
    changes, told = REFUSED[what]
    changes = {key: value.format(keys=guests[2]) for key, value in changes.items()}
    with pytest.raises(RemoteError) as refusal:
        run(guests, tmp_path, at_edge=changes, link=LINK)
    for words in told:
        assert words in str(refusal.value), refusal.value
