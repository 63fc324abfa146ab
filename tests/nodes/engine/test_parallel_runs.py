"""Whole runs whose edge holds its target in two processes, and what may happen to these."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import yaml
from small_models import llama_config, save_model

from experiments.launch import Outcome, RunError, run_nodes
from experiments.schema import load_config
from experiments.store import RunFolder, create_run

pytest.importorskip("accelerate", reason="tensor_parallel needs accelerate: pip install 'dssd-testbed[parallel]'")
pytestmark = pytest.mark.slow
PROJECT = Path(__file__).parents[3]
SYSTEMS = ["edge_ar", "dssd", "token_match", "coupled"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> dict[str, dict]:
    """A draft and a target of one vocabulary, as the two sections of a configuration."""
    folder = tmp_path_factory.mktemp("pair")
    draft = save_model(folder / "draft", llama_config(num_hidden_layers=1), n_words=90, seed=1)
    target = save_model(folder / "target", llama_config(), n_words=90)
    return {
        "device": {"engine": {"engine": f"hf:{draft}", "device": "cpu"}},
        "edge": {"engine": {"engine": f"hf:{target}", "device": "cpu"}},
    }


def write(folder: Path, pair: dict, systems=SYSTEMS, requests=2, **edge) -> Path:
    content = {
        "systems": list(systems),
        "sampling": {"temperature": 0},
        **pair,
        "edge": {**pair["edge"], **edge},
        "workload": {"prompts": ["w3 w5 w9 w2", "w7 w1 w44 w2"], "requests": requests, "max_new_tokens": 24},
        "warmup": 0,
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def run(folder: Path, path: Path, progress=lambda stage, fields: None) -> tuple[RunFolder, Outcome]:
    config = load_config(path)
    made, outcome = create_run(folder / "results", config.resolved(), "test"), Outcome()
    run_nodes(config, made.path, progress, outcome)
    return made, outcome


def tokens(folder: RunFolder) -> dict[tuple[str, str, int], list[int]]:
    return {(r.system, r.prompt_id, r.repeat): r.tokens for r in folder.requests().records}


def ranks_of(folder: Path) -> dict[int, int]:
    """By number, the pids of the processes that hold the target of a run in this folder."""
    found = {}
    for process in psutil.process_iter():
        try:
            words, own = process.cmdline(), process.environ()
        except psutil.Error:
            continue
        if "edge" in words and "RANK" in own and any(word.startswith(str(folder)) for word in words):
            found[int(own["RANK"])] = process.pid
    return found


def test_two_processes_give_the_tokens_of_one(pair, tmp_path):
    one, _ = run(tmp_path, write(tmp_path, pair))
    two, _ = run(tmp_path, write(tmp_path, pair, tensor_parallel=2))
    assert len(tokens(one)) == 2 * len(SYSTEMS)
    assert tokens(two) == tokens(one)
    engine = two.node("edge")["engine"]
    assert engine["tensor_parallel"] == 2 and engine["forward"] == "transformers"
    assert [rank["rank"] for rank in engine["ranks"]] == [0, 1]
    assert len({rank["pid"] for rank in engine["ranks"]}) == 2
    assert not ranks_of(tmp_path)


def test_one_that_is_killed_takes_the_edge_along_which_is_started_again_and_changes_no_token(pair, tmp_path):
    calm, _ = run(tmp_path, write(tmp_path, pair, ["dssd"], requests=6))
    done: list[int] = []

    def disturb(stage: str, fields: dict) -> None:
        if stage == "request" and not done:
            done.append(ranks_of(tmp_path)[1])
            os.kill(done[0], signal.SIGKILL)

    rough, outcome = run(tmp_path, write(tmp_path, pair, ["dssd"], requests=6, tensor_parallel=2), disturb)
    assert [event["event"] for event in outcome.events] == ["edge_restarted"]
    assert tokens(rough) == tokens(calm)


@pytest.mark.parametrize("victim", [0, 1])
def test_one_that_is_killed_ends_the_run_by_name_where_nothing_may_be_started_again(pair, tmp_path, victim):
    def disturb(stage: str, fields: dict) -> None:
        if stage == "request" and fields["done"] == 1:
            os.kill(ranks_of(tmp_path)[victim], signal.SIGKILL)

    path = write(tmp_path, pair, ["dssd"], requests=200, tensor_parallel=2, restarts=0)
    with pytest.raises(RunError, match=rf"process {victim} of the 2 that hold the target .* signal 9 \(SIGKILL\)"):
        run(tmp_path, path, disturb)
    assert not ranks_of(tmp_path)


def test_they_end_with_the_one_who_started_them(pair, tmp_path):
    path = write(tmp_path, pair, ["dssd"], requests=2000, tensor_parallel=2)
    running = start("-m", "experiments.cli", "run", path, "--out", tmp_path / "results", cwd=tmp_path)
    until(lambda: len(ranks_of(tmp_path)) == 2)
    time.sleep(3)
    running.kill()
    running.wait()
    until(lambda: not ranks_of(tmp_path), 20)


def test_two_machines_hold_one_target_under_torchrun(pair, tmp_path):
    """One process in each of two namespaces, as docs/two-machines.md has it; the device sits beside the second."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("needs root and `ip` for two network namespaces")
    path = write(tmp_path, pair, ["dssd"], tensor_parallel=2)
    here, _ = run(tmp_path, write(tmp_path, pair, ["dssd"]))
    write(tmp_path, pair, ["dssd"], tensor_parallel=2)
    names, nodes = [f"tp{number}-{os.getpid()}" for number in (0, 1)], []
    with ExitStack() as stack:
        for name in names:
            ip("netns", "add", name)
            stack.callback(ip, "netns", "del", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", names[0], "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", names[1])
        for number, name in enumerate(names):
            ip("-n", name, "addr", "add", f"10.79.0.{number + 1}/24", "dev", "wire")
            ip("-n", name, "link", "set", "wire", "up")
        for number, name in enumerate(names):
            command = ["-m", "torch.distributed.run", "--nnodes", 2, "--node-rank", number, "--nproc-per-node", 1]
            command += ["--master-addr", "10.79.0.1", "--master-port", 29400, "-m", "experiments.cli", "edge", "serve"]
            command += [path, "--plain", "--bind", "tcp://0.0.0.0:5555", "--out", tmp_path / f"edge{number}"]
            node = start(*command, cwd=tmp_path, namespace=name, GLOO_SOCKET_IFNAME="wire")
            stack.callback(node.wait, 30)
            stack.callback(node.terminate)
            nodes.append(node)
        assert json.loads(nodes[0].stdout.readline())["event"] == "ready"
        command = ["-m", "experiments.cli", "device", "run", path, "--plain", "--connect", "tcp://10.79.0.1:5555"]
        device = start(*command, "--out", tmp_path / "device", cwd=tmp_path, namespace=names[1])
        _, complaint = device.communicate(timeout=90)
        assert device.returncode == 0, complaint
    far = [json.loads(line)["tokens"] for line in (tmp_path / "device" / "requests.jsonl").read_text().splitlines()]
    assert sorted(far) == sorted(tokens(here).values())


def start(*words: object, cwd: Path, namespace: str = "", **changes: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **changes}
    inside = ["nsenter", f"--net=/run/netns/{namespace}", "--"] if namespace else []
    return subprocess.Popen([*inside, sys.executable, *map(str, words)], cwd=cwd, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def until(condition, within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
