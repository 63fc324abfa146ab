"""A sweep of sixty toy runs, killed twenty times at random moments and started again: what is there in the end?

Every second kill takes the sweep's process alone, the others it, its run and the run's nodes in one blow, as when the
power goes."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from experiments.bench.records import record

TOY = {
    "systems": ["dssd"],
    "engine": {"engine": "toy", "vocab_size": 16, "acceptance": 0.7},
    "workload": {"prompts": ["t1 t2"], "max_new_tokens": 3},
    "warmup": 0,
    "energy": {"baseline_s": 0},
    "transport": {"security": "plain"},
}
LONGEST_S = 8.0
SEED = 7


def measure(runs: int = 60, kills: int = 20) -> list[dict[str, Any]]:
    """Of `runs` turns how many are there, and how many were run to their end more than once."""
    with tempfile.TemporaryDirectory(prefix="dssd-bench-") as folder:
        path, out = Path(folder, "many.yaml"), Path(folder, "results")
        sweep = {"grid": {"seed": list(range(runs // 2))}, "repeats": 2}
        path.write_text(yaml.safe_dump({**TOY, "sweep": sweep}))
        chance, began_s, killed = random.Random(SEED), time.monotonic(), 0
        for kill in range(kills):
            killed += _killed(_start(path, out), chance.uniform(0.1, LONGEST_S), everybody=kill % 2 == 1)
        code = _start(path, out).wait()
        whole_s = time.monotonic() - began_s
        ended = [json.loads(each.read_text()) for each in out.glob("many/sweep-*/**/manifest.json")]
    turns = Counter(
        (about["sweep"]["point"], about["sweep"]["repeat"]) for about in ended if about["status"] == "complete"
    )
    note = f"{killed} times killed within {LONGEST_S:g} s of its start, {whole_s:.0f} s in all, exit code {code}"
    return [
        record(f"resume: of {runs} runs, those that are there", len(turns), "runs", f">= {runs}", note),
        record("resume: run to the end more than once", sum(turns.values()) - len(turns), "runs", "<= 0"),
        record("resume: kills that hit it at work", killed, "kills"),
    ]


def _start(config: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "experiments.cli", "run", str(config), "--out", str(out)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """As when the power goes: the process and all that it started, in one blow."""
    itself = psutil.Process(process.pid)
    family = [itself, *itself.children(recursive=True)]
    for blow in (psutil.Process.suspend, psutil.Process.kill):
        for member in family:
            with suppress(psutil.NoSuchProcess):  # it ended by itself
                blow(member)


def _killed(process: subprocess.Popen[bytes], after_s: float, everybody: bool) -> bool:
    """Was it still at work then?"""
    try:
        process.wait(after_s)
        return False
    except subprocess.TimeoutExpired:
        if everybody:
            kill_all(process)
        else:
            process.kill()
        process.wait()
        return True
