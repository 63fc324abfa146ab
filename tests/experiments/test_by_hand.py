"""docs/two-machines.md, "By hand", followed to the letter: its commands, on two machines with their own users, files
and addresses (see machines.py)."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess

import pytest
import yaml
from machines import LINK, PROJECT, USERS, Machine, Machines, machines, why_not

FOLDERS = ("experiments", "netem", "nodes", "transport")
CONFIG = {"engine": "toy", "systems": ["edge_ar", "dssd"], "workload": {"prompts": ["t1 t2", "t3"]}}


def command(host: str, begin: str) -> str:
    """The one line of the page that `host` is told to type and that begins so; the page's eth0 is called link0 here."""
    page = (PROJECT / "docs" / "two-machines.md").read_text()
    by_hand = page[page.index("## By hand") :]
    [found] = re.findall(rf"^ *{host}\$ ({re.escape(begin)}.*)$", by_hand, re.MULTILINE)
    return found.replace("--interface eth0", "--interface link0")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    if problem := why_not():
        pytest.skip(problem)
    with machines(tmp_path_factory.mktemp("by-hand")) as made:
        for machine in (made.device, made.edge):
            install(machine)
        done(made.edge, command("server", "dssd keys"))
        carry(made, "edge.pub", "device.key", "device.pub")
        yield made


def install(machine: Machine) -> None:
    """Step 1, without a network: the same code on both, `dssd` on the path, and the server's name."""
    for name in FOLDERS:
        shutil.copytree(PROJECT / name, machine.folder / "clone" / name, ignore=shutil.ignore_patterns("__pycache__"))
    python = (machine.folder / "python.sh").read_text()
    clone = python.replace("PYTHONPATH=", "PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/mnt/clone:")
    (machine.folder / "dssd").write_text(clone.replace('"$@"', '-m experiments.cli "$@"'))
    (machine.folder / "hosts").write_text(f"127.0.0.1 localhost\n{LINK['edge']} server\n")
    (machine.folder / "mine.yaml").write_text(yaml.safe_dump(CONFIG))
    home, user = f"/home/{machine.user}", machine.user
    steps = [
        f"mkdir {home}/tools; cp /mnt/dssd {home}/tools/; chmod 755 {home}/tools/dssd",
        f"mount --bind /mnt/hosts /etc/hosts; cp /mnt/mine.yaml {home}/; chown -R {user}: {home}/tools {home}/*.yaml",
    ]
    machine.run("sh", "-ec", "; ".join(steps))


def types(machine: Machine, line: str) -> subprocess.Popen[str]:
    """The machine's user types this line at home; the process is the command's own."""
    home, uid = f"/home/{machine.user}", str(USERS[machine.role][1])
    user = ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "env", "-i", "-C", home, f"HOME={home}"]
    line = f"exec {line}" if line.startswith("dssd ") else line
    return subprocess.Popen(
        machine.enter(*user, f"PATH={home}/tools:/usr/bin:/bin", "sh", "-c", line),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def done(machine: Machine, line: str, within_s: float = 60.0) -> str:
    process = types(machine, line)
    said, complaint = process.communicate(timeout=within_s)
    assert process.returncode == 0, complaint
    return said


def carry(world: Machines, *names: str) -> None:
    """Files of the server's `keys` folder to the device's, by a channel we trust: our own hands."""
    content = {name: world.edge.run("cat", f"/home/{world.edge.user}/keys/{name}") for name in names}
    for name, text in content.items():
        done(
            world.device,
            f"mkdir -p -m 700 keys; printf %s {shlex.quote(text)} >keys/{name}; chmod 600 keys/{name}; true",
        )


@pytest.fixture
def edge(world):
    """The edge, started as the page says; it lives until the end of the test, and then ends by Ctrl-C."""
    edge = types(world.edge, command("server", "dssd edge serve"))
    assert json.loads(edge.stdout.readline())["event"] == "ready"
    yield edge
    end(edge)


def end(edge: subprocess.Popen[str]) -> None:
    if edge.poll() is None:
        edge.send_signal(signal.SIGINT)
        _, complaint = edge.communicate(timeout=30)
        assert edge.returncode == 0, complaint


def test_the_commands_of_the_page_run_an_experiment_and_sum_it_up(world, edge):
    done(world.device, command("jetson", "dssd device run"))
    end(edge)
    source, target = re.fullmatch(r"scp 'server:(\S+)' (\S+)", command("jetson", "scp")).groups()
    there, here = (f"/home/{machine.user}" for machine in (world.edge, world.device))
    for path in world.edge.run("sh", "-c", f"ls {there}/{source}").split():
        text, name = world.edge.run("cat", path), path.rpartition("/")[2]
        done(world.device, f"printf %s {shlex.quote(text)} >{target}/{name}")
    assert "edge: toy" in done(world.device, command("jetson", "dssd report"))
    left = {name: world.device.run("cat", f"{here}/{target}/{name}") for name in ("requests.jsonl", "summary.json")}
    requests = [json.loads(line) for line in left["requests.jsonl"].splitlines()]
    assert {request["system"] for request in requests} == {"edge_ar", "dssd"}
    assert all(request["output_tokens"] and request["link_up_bytes"] > 0 for request in requests)
    summary = json.loads(left["summary.json"])
    assert summary["models"].keys() == {"device", "edge"} and summary["clock"]["compared"]
    assert summary["status"] == "complete" and summary["events"] == []


def test_a_key_that_the_server_does_not_know_is_told_so(world, edge):
    done(world.device, "dssd keys others")
    done(world.device, "cp keys/edge.pub others/")
    stranger = types(world.device, command("jetson", "dssd device run").replace("--keys keys", "--keys others"))
    _, said = stranger.communicate(timeout=60)
    assert stranger.returncode != 0 and "Traceback" not in said
    assert "devices.allow" in said, said
