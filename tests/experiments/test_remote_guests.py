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


def run(guests, folder: Path, progress=lambda stage, fields: None, **keys) -> tuple[RunFolder, Outcome]:
    device, edge, secrets = guests
    common = {"port": PORT, "user": "root", "identity": str(secrets / "login"), "interface": Guest.INTERFACE,
              "ssh_config": str(secrets / "ssh_config"), "workdir": "/run/dssd-work", "python": python()}  # fmt: skip
    hosts = {"device": {"address": device.ADDRESS, **common}, "edge": {"address": edge.ADDRESS, **common}}
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


def test_a_connection_that_breaks_leaves_nothing_shaped(guests, as_before, tmp_path):
    def stop(stage, fields):
        if stage == "request":
            cut("device"), cut("edge")

    with pytest.raises((RunError, RemoteError), match="connection was lost"):
        run(guests, tmp_path, stop, link=LINK, workload={"prompts": ["t1"], "requests": 30}, pace={"forward_ms": 5.0})
    assert RunFolder((tmp_path / "results" / "mine" / "latest").resolve()).requests().records
