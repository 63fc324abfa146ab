"""From the command to a running experiment on two machines: connecting, deploying, asking both, starting both nodes,
until the device begins its first request. Once with nothing there yet, then warm."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.bench.neighbours import neighbours, why_not
from experiments.bench.records import record
from experiments.launch import Outcome
from experiments.remote.run import run_on_hosts
from experiments.schema import Config, config_id
from experiments.store import create_run

BOUND = "<= 15"
NAME = "deploy: to running on two local machines"


def measure(warm: int = 3, pair: str = "toy") -> list[dict[str, Any]]:
    """`pair`: toy, or bundled for real models on both nodes."""
    if problem := why_not():
        return [record(f"{NAME}, warm", float("nan"), "s", BOUND, problem)]
    with tempfile.TemporaryDirectory(prefix="dssd-bench-") as folder:
        with neighbours(Path(folder, "machines")) as hosts:
            cold_s, *warm_s = (_seconds(hosts, Path(folder, "results"), pair) for _ in range(1 + warm))
    note = f"{pair} pair; median of {warm}, the longest {max(warm_s):.1f} s"
    return [
        record(f"{NAME}, warm", statistics.median(warm_s), "s", BOUND, note),
        record(f"{NAME}, with nothing there yet", cold_s, "s", note="the code is sent, its hash is made there"),
    ]


def _seconds(hosts: dict[str, Any], results: Path, pair: str) -> float:
    engine = {"engine": "toy"} if pair == "toy" else {}
    config = Config.model_validate(
        {
            "name": "deploy",
            "systems": ["dssd"],
            "hosts": hosts,
            "workload": {"prompts": ["t1 t2"], "max_new_tokens": 4},
            "warmup": 0,
            "energy": {"baseline_s": 0},
            **engine,
        }
    )
    resolved = config.resolved()
    folder = create_run(results, resolved, config_id(resolved))
    began: list[float] = []

    def heard(stage: str, fields: dict[str, Any]) -> None:
        if stage == "begin":
            began.append(time.perf_counter())

    asked_s = time.perf_counter()
    run_on_hosts(config, folder.path, heard, Outcome())
    return began[0] - asked_s
