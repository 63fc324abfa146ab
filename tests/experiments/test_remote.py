"""Runs on two machines, each with its own users, Python, files and sshd (see machines.py), the edge's clock five hours
ahead; and everything that may happen to them."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from machines import PORT, PROJECT, Machines, machines, why_not

from experiments.collection import collect
from experiments.launch import Outcome, RunError, run_nodes
from experiments.progress import ProgressBar
from experiments.remote.ask import same_models
from experiments.remote.check import NEEDED, NEEDED_BY_MODELS, _probes, model_hash
from experiments.remote.inventory import HostsSpec
from experiments.remote.link import address_on_link, who_shapes
from experiments.remote.run import collect_again, held, run_on_hosts
from experiments.remote.ssh import RemoteError
from experiments.run import collect_run, run_experiment
from experiments.schema import ConfigError, load_config
from experiments.store import RunFolder, create_run
from netem.spec import LinkSpec
from nodes.probes import Finding

AHEAD_S = 5 * 3600
CLONE_NEWNET = 0x40000000
SLOW = {"forward_ms": 5.0}
MANY = {"prompts": ["t1"], "requests": 40, "max_new_tokens": 20}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Both machines; this process sits at the desk meanwhile."""
    if problem := why_not():
        pytest.skip(problem)
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    with machines(tmp_path_factory.mktemp("world"), ahead_s=AHEAD_S, home_size="200M") as made:
        desk = os.open(f"/run/netns/{made.desk}", os.O_RDONLY)
        assert libc.setns(desk, CLONE_NEWNET) == 0
        os.close(desk)
        yield made
        assert libc.setns(home, CLONE_NEWNET) == 0
    os.close(home)


@pytest.fixture(autouse=True)
def nothing_is_left(request):
    yield
    if "world" in request.fixturenames:
        world: Machines = request.getfixturevalue("world")
        deadline = time.monotonic() + 10
        while (left := world.device.processes() + world.edge.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left
        for machine in (world.device, world.edge):
            assert "netem" not in machine.run("tc", "qdisc", "show", "dev", "link0")


def write_config(folder: Path, world: Machines, changes: dict | None = None, **keys) -> Path:
    (folder / "hosts.yaml").write_text(yaml.safe_dump(world.hosts(**(changes or {}))))
    path = folder / "mine.yaml"
    content = {"engine": "toy", "systems": ["dssd"], "workload": {"prompts": ["t1 t2"]}, "hosts": "hosts.yaml", **keys}
    path.write_text(yaml.safe_dump(content))
    return path


def run(folder: Path, path: Path, progress=lambda stage, fields: None, on_hosts=True) -> tuple[RunFolder, Outcome]:
    config = load_config(path)
    made, outcome = create_run(folder / "results", config.resolved(), "test"), Outcome()
    (run_on_hosts if on_hosts else run_nodes)(config, made.path, progress, outcome)
    return made, outcome


def latest(folder: Path) -> RunFolder:
    return RunFolder((folder / "results" / "mine" / "latest").resolve())


def tokens(folder: RunFolder) -> list[list[int]]:
    return [record.tokens for record in folder.requests().records]


def runs_on(machine) -> list[str]:
    work = f"/home/{machine.user}/work_of_nobody/{machine.role}/runs"
    return machine.run("sh", "-c", f"test -d {work} && ls {work} || true").split()


def requests_on(machine) -> str:
    """What has been recorded there of the one run that goes on."""
    work = f"/home/{machine.user}/work_of_nobody/{machine.role}/runs"
    return machine.run("sh", "-c", f"cat {work}/*/requests.jsonl 2>/dev/null || true")


def dssd(*words: object, cwd: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen([sys.executable, "-m", "experiments.cli", *map(str, words)], cwd=cwd, env=environment,
                            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


# What works -----------------------------------------------------------------------------------------------------------


def test_a_run_gives_the_tokens_of_a_run_here_and_both_traces(world, tmp_path):
    path = write_config(tmp_path, world, systems=["edge_ar", "dssd"])
    done = dssd("run", path, "--json", cwd=tmp_path)
    said, complaint = done.communicate(timeout=60)
    assert done.returncode == 0, complaint
    assert {record["system"] for record in json.loads(said.splitlines()[-1])["systems"]} == {"edge_ar", "dssd"}
    far = latest(tmp_path)
    here, _ = run(tmp_path, write_config(tmp_path, world, systems=["edge_ar", "dssd"], hosts=None), on_hosts=False)
    assert tokens(far) == tokens(here)
    assert [trace.name for trace in far.traces()] == ["power.device.jsonl", "power.edge.jsonl"]
    hosts = far.manifest()["hosts"]
    assert [hosts[role]["where"] for role in ("device", "edge")] == ["ada@device.test", "grace@edge.test"]
    assert all(check["ok"] is not False for role in hosts for check in hosts[role]["checks"])
    assert not runs_on(world.device) and not runs_on(world.edge)
    assert not (far.path / "keys").exists()
    assert {path.stat().st_uid for path in far.path.iterdir()} == {os.getuid()}


def test_a_clock_five_hours_ahead_is_found_and_instants_are_aligned(world, tmp_path):
    made, _ = run(tmp_path, write_config(tmp_path, world))
    offset = made.node("device")["clock"]["offset"]
    assert abs(offset["offset_ns"] - AHEAD_S * 10**9) <= offset["error_ns"]
    for record in made.rounds().records:
        if record.edge_arrived_ns:
            assert record.start_ns - offset["error_ns"] <= record.edge_arrived_ns <= record.end_ns + offset["error_ns"]


def test_the_edge_may_be_this_machine(world, tmp_path):
    path = write_config(tmp_path, world)
    hosts = world.hosts()
    hosts["edge"] = {"local": True, "link_address": "10.77.1.254"}
    hosts["device"] |= {"interface": "desk0"}
    (tmp_path / "hosts.yaml").write_text(yaml.safe_dump(hosts))
    made, outcome = run(tmp_path, path)
    assert len(made.requests().records) == 2
    assert outcome.hosts["edge"]["where"] == "this machine"


@pytest.mark.skipif(not Path("/proc/sys/net/ipv6").is_dir(), reason="this kernel has no IPv6")
def test_both_machines_may_be_reached_by_ipv6_alone(world, tmp_path):
    def give(machine: str, port: str, address: str) -> None:
        subprocess.run(["ip", "-n", machine, "address", "add", f"{address}/64", "dev", port, "nodad"], check=True)

    changes, ssh = {}, f"UserKnownHostsFile {world.folder}/known_hosts\nPort {PORT}\n"
    for number, machine in enumerate((world.device, world.edge), 1):
        address, on_link = f"fd00:{number}::1", f"fd00:9::{number}"
        give(world.desk, f"to{number}", f"fd00:{number}::254")
        give(machine.namespace, "desk0", address)
        give(machine.namespace, "link0", on_link)
        ssh += f"Host {address}\n HostKeyAlias {machine.role}\n"
        changes[machine.role] = {"address": address, "link_address": on_link, "ssh_config": str(tmp_path / "ssh")}
    (tmp_path / "ssh").write_text(ssh)
    made, outcome = run(tmp_path, write_config(tmp_path, world, changes))
    assert len(made.requests().records) == 2 and outcome.hosts["edge"]["where"] == "grace@fd00:2::1"
    assert len(made.node("device")["clock"]["measurements"]) == 2 and made.tcp()


# What may happen ------------------------------------------------------------------------------------------------------


def disturb(world: Machines, action, after: int = 2):
    """A progress callback that does something to the machines once, after so many requests."""
    done = []

    def progress(stage, fields):
        if stage == "request" and fields["done"] == after and not done:
            done.append(True)
            action()

    return progress


def kill(machine) -> None:
    for pid in machine.processes():
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            if b"-m\0nodes.process" in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0sh\0", b""):
                os.kill(pid, signal.SIGKILL)


def cut(role: str) -> None:
    """Kill the ssh master of this process for that host."""
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1]) if words else 0
        except OSError:
            continue
        if words[:3] == [b"ssh", b"-T", b"-M"] and parent == os.getpid() and words[4].endswith(f"/{role[0]}".encode()):
            os.kill(int(entry.name), signal.SIGKILL)


@pytest.mark.parametrize("what", ["device killed", "edge killed", "device cut off", "edge cut off"])
def test_what_was_recorded_before_is_fetched(world, tmp_path, what):
    role, _, how = what.partition(" ")
    action = (lambda: kill(getattr(world, role))) if how == "killed" else (lambda: cut(role))
    path = write_config(tmp_path, world, workload=MANY, pace=SLOW, warmup=0, edge={"restarts": 0})
    with pytest.raises((RunError, RemoteError), match="connection was lost" if how == "cut off" else "with code"):
        run(tmp_path, path, disturb(world, action))
    found = latest(tmp_path).requests().records
    assert len(found) >= 2 and found[0].output_tokens == 20
    assert latest(tmp_path).traces()
    assert not runs_on(world.device) and not runs_on(world.edge)


def test_an_edge_that_is_killed_once_is_started_again_and_changes_no_token(world, tmp_path):
    keys = {"workload": {"prompts": ["t1", "t2", "t3"], "max_new_tokens": 20}, "warmup": 0, "pace": SLOW}
    rough, outcome = run(tmp_path, write_config(tmp_path, world, **keys), disturb(world, lambda: kill(world.edge), 1))
    calm, _ = run(tmp_path, write_config(tmp_path, world, hosts=None, **keys), on_hosts=False)
    assert [event["event"] for event in outcome.events] == ["edge_restarted"]
    assert tokens(rough) == tokens(calm)


def test_a_disk_that_fills_up_ends_the_run_by_name_and_keeps_what_fitted(world, tmp_path):
    filler = f"/home/{world.device.user}/filler"
    path = write_config(tmp_path, world, workload=MANY, pace=SLOW, warmup=0)
    try:
        with pytest.raises((RunError, RemoteError), match="no room left"):
            fill = f"cat /dev/zero >{filler} || true"
            run(tmp_path, path, disturb(world, lambda: world.device.run("sh", "-c", fill)))
    finally:
        world.device.run("rm", "-f", filler)
    assert latest(tmp_path).requests().records[0].output_tokens == 20


def watch(monkeypatch, progress) -> None:
    """Have this progress callback called by whatever runs an experiment."""
    watched = type("Watched", (ProgressBar,), {"update": staticmethod(progress)})
    monkeypatch.setattr("experiments.run.ProgressBar", watched)


def until(condition, within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_interrupt_fetches_what_there_is(world, tmp_path):
    path = write_config(tmp_path, world, workload=MANY, pace=SLOW, warmup=0)
    running = dssd("run", path, cwd=tmp_path)
    until(lambda: "\n" in requests_on(world.device))
    running.send_signal(signal.SIGINT)
    _, complaint = running.communicate(timeout=40)
    assert running.returncode == 130, complaint
    assert latest(tmp_path).manifest()["status"] == "interrupted"
    assert (latest(tmp_path).path / "power.edge.jsonl").stat().st_size > 0
    assert not runs_on(world.device) and not runs_on(world.edge)


def test_nodes_end_with_the_one_who_started_them_and_their_records_can_be_fetched_later(world, tmp_path):
    path = write_config(tmp_path, world, workload=MANY, pace=SLOW, warmup=0)
    running = dssd("run", path, cwd=tmp_path)
    until(lambda: "\n" in requests_on(world.device))
    running.kill()
    running.communicate(timeout=20)
    until(lambda: not world.device.processes() and not world.edge.processes(), 15)
    assert runs_on(world.device) and runs_on(world.edge)
    assert latest(tmp_path).manifest()["status"] == "running"
    said = collect_run(latest(tmp_path))
    assert len(said) == 2 and all("fetched" in line for line in said)
    assert latest(tmp_path).requests().records
    assert not runs_on(world.device) and not runs_on(world.edge)
    assert latest(tmp_path).manifest()["status"] == "interrupted" and latest(tmp_path).manifest()["ended"] is None
    assert all("nothing is left" in line for line in collect_run(latest(tmp_path)))


def test_a_run_that_is_going_on_is_left_alone_by_those_who_would_collect_it(world, tmp_path, monkeypatch):
    def try_to_collect() -> None:
        with pytest.raises(RemoteError, match=f"process {os.getpid()} is at work on this run"):
            collect_run(latest(tmp_path))
        refused.append(True)

    refused: list[bool] = []
    watch(monkeypatch, disturb(world, try_to_collect))
    config = load_config(write_config(tmp_path, world, workload={**MANY, "requests": 4}, warmup=0))
    made, _ = run_experiment(config, tmp_path / "results")
    assert refused and made.manifest()["status"] == "complete" and made.manifest()["events"] == []
    assert len(made.requests().records) == 4


ENDINGS = {"complete": "^complete$", "killed": "^failed: the device process ended with code"}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_run_whose_records_come_later_is_what_it_would_have_been_had_they_come_at_once(
    world, tmp_path, monkeypatch, ending
):
    shim = tmp_path / "bin" / "rsync"
    shim.parent.mkdir()
    shim.write_text(f"""#!/bin/sh
for word; do [ "$word" = -rt ] && echo no room for records today >&2 && exit 12; done
exec {shutil.which("rsync")} "$@"
""")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}:{os.environ['PATH']}")
    if ending == "killed":
        watch(monkeypatch, disturb(world, lambda: kill(world.device)))
    workload = MANY if ending == "killed" else {"prompts": ["t1 t2"]}
    config = load_config(write_config(tmp_path, world, workload=workload, pace=SLOW, warmup=0))
    with pytest.raises(RemoteError, match="no room for records today"):
        run_experiment(config, tmp_path / "results")
    made = latest(tmp_path)
    before = made.manifest()
    assert "dssd remote collect" in before["status"] and len(before["events"]) == 2
    shim.unlink()
    assert all("fetched" in line for line in collect_run(made))
    after = made.manifest()
    assert re.search(ENDINGS[ending], after["status"]) and "dssd remote collect" not in after["status"]
    assert after["events"] == made.summary()["events"] == [] and after["ended"] == before["ended"]
    left = {node: made.node(node).get("engine") for node in ("device", "edge")}
    assert after["models"] == {node: engine for node, engine in left.items() if engine} and after["models"]["edge"]
    if ending == "complete":
        assert after["edge_clock"] == made.node("device")["clock"]
        assert [one.path for one in collect([tmp_path / "results"]).runs] == [made.path.resolve()]


# What is refused ------------------------------------------------------------------------------------------------------

REFUSED = [
    ({"device": {"port": 2223}}, {}, ["ada@device.test", "refused", "is an ssh server running"]),
    ({"edge": {"address": "192.0.2.1"}}, {}, ["grace@192.0.2.1", "unreachable", "is the machine on"]),
    ({"device": {"identity": "{edge}"}}, {}, ["Permission denied", "identity"]),
    ({"edge": {"python": "~/nowhere/python"}}, {}, ["nowhere/python", "name a python"]),
    ({"edge": {"python": "/mnt/bare"}}, {}, ["cannot import zmq", "-m pip install 'pyzmq"]),
    ({"device": {"interface": "eth9"}}, {}, ["there is no eth9", "desk0, link0, lo", "inventory"]),
    ({"device": {"workdir": "/proc/mine"}}, {}, ["/proc/mine", "workdir"]),
    ({"device": {"sudo": "passwordless"}}, {"link": {"rtt_ms": 20}}, ["ada@device.test", "sudo", "visudo"]),
    ({}, {"link": {"rtt_ms": 20}}, ["neither machine can shape", "device: ", "edge: ", "sudo: passwordless"]),
]


@pytest.mark.parametrize(("changes", "keys", "told"), REFUSED, ids=[bad[2][0] + bad[2][1] for bad in REFUSED])
def test_what_cannot_work_is_refused_by_name_with_the_remedy(world, tmp_path, changes, keys, told):
    changes = {role: {key: str(value).format(edge=world.folder / "edge") if key == "identity" else value
                      for key, value in change.items()} for role, change in changes.items()}  # fmt: skip
    with pytest.raises(RemoteError) as refusal:
        run(tmp_path, write_config(tmp_path, world, changes, **keys))
    for words in told:
        assert words in str(refusal.value), refusal.value
    assert not runs_on(world.device) and not runs_on(world.edge)


def test_code_that_was_changed_over_there_is_found_out(world, tmp_path):
    path = write_config(tmp_path, world)
    run(tmp_path, path)
    source = f"/home/{world.edge.user}/work_of_nobody/edge/source"
    world.edge.run("sh", "-c", f"for file in {source}/*/nodes/edge.py; do echo '# mine' >>$file; done")
    try:
        with pytest.raises(RemoteError, match=r"grace@edge.test: code: version [0-9a-f]{12} .*\n  remedy: .*rm -r"):
            run(tmp_path, path)
    finally:
        world.edge.run("rm", "-rf", source)


@pytest.mark.slow
def test_two_models_of_one_name_are_refused_with_both_hashes_before_either_is_loaded(world, tmp_path):
    for place, weights in {tmp_path: b"", world.device.folder: b"mine", world.edge.folder: b"yours"}.items():
        (place / "draft").mkdir()
        (place / "draft" / "config.json").write_text('{"vocab_size": 32}')
        (place / "draft" / "model.safetensors").write_bytes(weights)
        (place / "draft").chmod(0o755)
    name, there = f"hf:{tmp_path}/draft", {"models": {f"hf:{tmp_path}/draft": "hf:/mnt/draft"}}
    path = write_config(
        tmp_path, world, {"device": there, "edge": there}, systems=["colocated_sd"], engine=None,
        device={"engine": name}, edge={"engine": "toy"},
    )  # fmt: skip
    with pytest.raises(RemoteError, match=rf"{name} is \w+ on the device's host and \w+ on the edge's.*Remedy: copy"):
        run(tmp_path, path)
    assert not runs_on(world.device) and not runs_on(world.edge)


def test_a_check_alone_says_what_both_have_and_leaves_nothing(world, tmp_path):
    path = write_config(tmp_path, world, {"edge": {"interface": "eth9"}})
    done = dssd("remote", "check", path, "--json", cwd=tmp_path)
    said, complaint = done.communicate(timeout=60)
    assert done.returncode == 1, complaint
    rows = json.loads(said.splitlines()[-1])
    assert [(row["host"], row["name"]) for row in rows if row["ok"] is False] == [("grace@edge.test", "interface")]
    assert {"python", "code", "disk", "packages", "probes", "clock"} <= {row["name"] for row in rows}
    assert not runs_on(world.device) and not runs_on(world.edge)


# What needs no machine ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hosts", "told"),
    [
        ({"device": {"adress": "x"}, "edge": {"address": "y"}}, "adress"),
        ({"device": {"local": True}, "edge": {"local": True, "link_address": "10.0.0.1"}}, "both nodes are local"),
        ({"device": {}, "edge": {"address": "y"}}, "needs an address"),
        ({"device": {"address": "-oProxyCommand=x"}, "edge": {"address": "y"}}, "begin with '-'"),
        ({"device": {"local": True, "user": "ada"}, "edge": {"address": "y"}}, "user mean nothing"),
        ({"device": {"address": "x"}, "edge": {"local": True}}, "link_address"),
    ],
)
def test_a_bad_inventory_is_refused_by_name(tmp_path, hosts, told):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"engine": "toy", "systems": ["dssd"], "hosts": hosts}))
    with pytest.raises(ConfigError, match=told):
        load_config(path)


def test_records_are_fetched_by_one_process_at_a_time_and_by_none_before_there_are_any(tmp_path):
    with pytest.raises(RemoteError, match="not a run on two machines"):
        collect_again(tmp_path, print)
    with held(tmp_path):
        with pytest.raises(RemoteError, match=f"process {os.getpid()} is at work on this run"):
            collect_again(tmp_path, print)
    with pytest.raises(RemoteError, match="before anything could be recorded"):
        collect_again(tmp_path, print)


def test_two_models_of_one_name_are_told_apart_wherever_they_lie(tmp_path):
    for name, content in {"one": b"weights", "same": b"weights", "other": b"Weights"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(content)
    one, same, other = (model_hash(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same != other
    same_models({"models": {"hf:m": one}}, {"models": {"hf:m": same}})
    with pytest.raises(RemoteError, match=f"hf:m is {one} on the device's host and {other} on the edge's"):
        same_models({"models": {"hf:m": one}}, {"models": {"hf:m": other}})


def test_a_host_tries_the_probes_with_the_options_they_will_have(monkeypatch):
    def tried(options):
        url = options["plug"]["url"]
        return [Finding("plug", "unsupported", f"{url} does not answer", "look"), Finding("rapl", "measured")]

    monkeypatch.setattr("nodes.probes.find_probes", tried)
    _, refused = _probes(["plug:url=http://10.0.0.7", "rapl"], {})
    assert refused["name"] == "probe plug" and "http://10.0.0.7 does not answer" in refused["detail"]


def test_each_machine_shapes_what_it_sends_and_one_shapes_both_where_the_other_cannot():
    link = LinkSpec(rtt_ms=40)
    assert who_shapes(link, {"device": "", "edge": ""}) == {"device": ["up"], "edge": ["down"]}
    assert who_shapes(link, {"device": "no netem", "edge": ""}) == {"device": [], "edge": ["up", "down"]}
    assert who_shapes(LinkSpec(up={"delay_ms": 5}), {"device": "", "edge": ""}) == {"device": ["up"], "edge": []}
    with pytest.raises(RemoteError, match="no netem"):
        who_shapes(link, {"device": "no netem", "edge": "no netem"})


@pytest.mark.parametrize(("address", "told"), [("fd00::1", "measured over IPv4"), ("edge.lan", "needs one")])
def test_a_link_that_is_shaped_is_between_addresses_it_can_be_measured_at(address, told):
    hosts = {"device": {"address": "jetson.lan", "link_address": "10.0.0.1"}, "edge": {"address": address}}
    spec = HostsSpec.model_validate(hosts)
    assert address_on_link(spec, "device") == "10.0.0.1"
    with pytest.raises(RemoteError, match=rf"{told}: give edge\.link_address"):
        address_on_link(spec, "edge")


def test_what_a_host_is_told_to_install_is_what_the_project_depends_on():
    pyproject = (PROJECT / "pyproject.toml").read_text()
    for requirement in {**NEEDED, **NEEDED_BY_MODELS}.values():
        assert f'"{requirement}"' in pyproject, requirement
