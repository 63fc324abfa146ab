"""docs/adding-a-method.md followed to the letter: its files where it says, its commands as they stand, in a copy of
the repository."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = [
    shlex.split(line)
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    if not language
    for line in block.splitlines()
]
PROGRAMS = {".venv/bin/pytest": ["-m", "pytest"], ".venv/bin/dssd": ["-m", "experiments.cli"]}
COPIED = ("nodes", "transport", "netem", "experiments", "tests", "pyproject.toml", "setup.cfg")
NOT_COPIED = shutil.ignore_patterns("__pycache__", "*.safetensors")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The repository, without the bundled models' weights, and the page's files in it."""
    folder = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=NOT_COPIED)
        else:
            shutil.copy(ROOT / name, folder)
    for name, text in FILES.items():
        assert not (folder / name).exists(), f"{name} is there already: the page's example is to be a new one"
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def run(command, folder):
    program, *arguments = command
    done = subprocess.run(
        [sys.executable, *PROGRAMS[program], *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def test_it_is_a_method_and_a_system_in_under_a_hundred_lines():
    assert [Path(name).parts[:2] for name in FILES] == [("nodes", "methods"), ("nodes", "systems")]
    assert sum(len(text.splitlines()) for text in FILES.values()) < 100
    assert {command[0] for command in COMMANDS} == set(PROGRAMS)


def test_the_laws_find_it_and_it_keeps_them(copy):
    (command,) = (command for command in COMMANDS if command[0] == ".venv/bin/pytest")
    said = run([*command, "-rA"], copy)
    for law in (
        "test_method_keeps_the_law",
        "test_every_schedule_settles_the_same_tokens",
        "test_greedy_is_the_targets_greedy",
        "test_sessions_in_one_forward_do_not_meet",
        "test_lost_and_doubled_messages_change_no_token",
        "test_a_restarted_edge_changes_no_token",
    ):
        assert f"PASSED tests/test_laws.py::{law}[block_verify]" in said
    for policy in ("confidence", "delay_bandit", "delay_cost", "optimal_length"):
        for schedule in ("stop_and_wait", "lookahead"):
            assert f"::test_length_policy_goes_with_every_method[block_verify-{policy}-{schedule}]" in said


def test_it_runs_and_accepts_more_than_judging_one_by_one(copy):
    (command,) = (command for command in COMMANDS if command[0] == ".venv/bin/dssd")
    more = ["--set", "workload.requests=40", "--json"]  # enough for the means to be told apart
    summary = json.loads(run([*command, *more], copy).splitlines()[-1])
    systems = {figures["system"]: figures for figures in summary["systems"]}
    assert list(systems) == ["edge_ar", "dsd_sparse", "block_verify"]
    assert all(figures["exact"] and figures["requests"] == 40 for figures in systems.values())
    lengths = {name: figures["mean_acceptance_length"] for name, figures in systems.items()}
    assert lengths["block_verify"] > lengths["dsd_sparse"] > 1


def test_it_passes_the_linter(copy):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "nodes/methods"], cwd=copy, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout
