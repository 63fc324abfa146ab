"""A sweep whose runs are on two machines: two on this one, with an ssh server each (bench/neighbours.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from experiments.bench.neighbours import neighbours, why_not
from experiments.sweep.folder import find_sweep

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    if problem := why_not():
        pytest.skip(problem)
    with neighbours(tmp_path_factory.mktemp("neighbours")) as made:
        yield made


@pytest.fixture
def config(hosts, tmp_path) -> Path:
    """Two points: the device here and the edge there, and the other way round."""
    inventories = {"there": hosts, "back": {"device": hosts["edge"], "edge": hosts["device"]}}
    for name, inventory in inventories.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(inventory))
    content = {
        "engine": "toy",
        "systems": ["dssd"],
        "workload": {"prompts": ["t1 t2"], "max_new_tokens": 4},
        "warmup": 0,
        "energy": {"baseline_s": 0},
        "sweep": {"points": {name: {"hosts": f"{name}.yaml"} for name in inventories}},
    }
    path = tmp_path / "both.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def dssd(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-m", "experiments.cli", *map(str, words)], cwd=cwd, env=environment,
                          capture_output=True, text=True, timeout=200)  # fmt: skip


def test_runs_on_other_machines_are_done_one_at_a_time(config, tmp_path):
    refused = dssd("run", config, "--jobs", 2, cwd=tmp_path)
    assert refused.returncode == 1 and "--jobs" in refused.stderr and "Traceback" not in refused.stderr
    assert "runs on machines of its own" in refused.stderr, refused.stderr


@pytest.mark.slow
def test_a_sweep_over_hosts_is_run_kept_and_told_of(config, hosts, tmp_path):
    done = dssd("run", config, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["state"] == "complete"
    runs = {}
    for path in find_sweep(tmp_path / "results").path.glob("*/manifest.json"):
        manifest = json.loads(path.read_text())
        runs[manifest["sweep"]["name"]] = manifest["hosts"]
    assert len(runs) == 2
    addresses = {
        tuple(places[role]["where"].rpartition("@")[2] for role in ("device", "edge")) for places in runs.values()
    }
    assert addresses == {("127.0.0.1", "127.0.0.2"), ("127.0.0.2", "127.0.0.1")}
    for host in hosts.values():
        assert not list(Path(host["workdir"], "runs").iterdir())
    told = json.loads(dssd("sweep", "status", tmp_path / "results", "--json", cwd=tmp_path).stdout.splitlines()[-1])
    assert (told["state"], told["done"], told["left"]) == ("complete", 2, 0)
