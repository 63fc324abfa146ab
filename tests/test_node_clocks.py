"""Real nodes whose clocks differ (a time namespace sets one five hours ahead), and a device held to one core."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from test_processes import DSSD, by_hand, configure, dssd, run_in

from experiments.clocks import describe_clock
from experiments.launch import RunError

AHEAD_S = 5 * 3600
APART = ["unshare", "-r", "-T", "--monotonic", str(AHEAD_S)]


def can_be_apart() -> bool:
    try:
        return subprocess.run([*APART, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not can_be_apart(), reason="no time namespaces for this user")
def test_an_edge_five_hours_ahead_is_found_there(tmp_path):
    config = configure(tmp_path, systems=["dssd"])
    assert dssd("keys", tmp_path / "keys", cwd=tmp_path).returncode == 0
    words = ["edge", "serve", str(config), "--bind", "tcp://127.0.0.1:0", "--keys", str(tmp_path / "keys")]
    edge = subprocess.Popen([*APART, *DSSD, *words, "--out", str(tmp_path / "edge")], cwd=tmp_path, text=True,
                            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    try:
        ready = json.loads(edge.stdout.readline())
        device = by_hand("device", config, tmp_path, "--connect", ready["endpoint"], "--keys", str(tmp_path / "keys"))
        _, said = device.communicate(timeout=60)
        assert device.returncode == 0, said
    finally:
        os.kill(ready["pid"], 15)
        edge.communicate(timeout=20)
    clock = json.loads((tmp_path / "device" / "device.json").read_text())["clock"]
    assert not clock["same"] and clock["path"] == "unshaped" and len(clock["measurements"]) == 2
    for measured in clock["measurements"]:
        assert abs(measured["offset_ns"] - AHEAD_S * 10**9) <= measured["error_ns"]


def test_on_one_clock_nothing_is_measured_and_cores_are_held(tmp_path):
    core = min(os.sched_getaffinity(0))
    folder, _ = run_in(tmp_path, configure(tmp_path, systems=["dssd"], device={"cpus": [core]}))
    limits = folder.node("device")["limits"]
    assert limits == {"cpus": [core], "cpu_share": None, "cpu_max": "", "cpu_max_mhz": None, "frequency": {}}
    assert folder.node("device")["clock"]["same"] is True
    assert describe_clock(folder.path, [])["error_ms"] == 0


def test_a_clock_that_cannot_be_capped_ends_the_run_by_name(tmp_path):
    with pytest.raises(RunError, match=r"device\.cpu_max_mhz: "):
        run_in(tmp_path, configure(tmp_path, systems=["dssd"], device={"cpu_max_mhz": 1}))


def test_a_core_that_is_not_there_ends_the_run_by_name(tmp_path):
    with pytest.raises(RunError, match=r"device\.cpus: this process has no core 4096"):
        run_in(tmp_path, configure(tmp_path, systems=["dssd"], device={"cpus": [4096]}))
