"""Places that cannot be written, or have no room left: what failed first is told by name, what was recorded stays."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.launch import RunError
from experiments.progress import ProgressBar
from experiments.run import record_run, recording, run_experiment, tabulate
from experiments.schema import Config
from experiments.store import RunFolder, StoreError, create_run

TOY = {
    "name": "mine", "engine": "toy", "systems": ["edge_ar"], "warmup": 0, "transport": {"security": "plain"},
    "workload": {"prompts": ["t1 t2"], "requests": 400, "max_new_tokens": 20},
}  # fmt: skip


@pytest.fixture
def config() -> Config:
    return Config.model_validate(TOY)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", disk]).returncode:
        pytest.skip("needs root, to mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


def test_a_disk_that_fills_up_is_named_and_the_manifest_says_so(config, small_disk, monkeypatch):
    def progress(stage, fields):
        if stage == "request" and fields["done"] == 2:
            fill(small_disk)

    watched = type("Watched", (ProgressBar,), {"update": staticmethod(progress)})
    monkeypatch.setattr("experiments.run.ProgressBar", watched)
    with pytest.raises(RunError, match="no room left"):
        run_experiment(config, small_disk)
    run = RunFolder((small_disk / "mine" / "latest").resolve())
    assert run.manifest()["status"].startswith("failed: ") and "no room left" in run.manifest()["status"]
    (small_disk / "filler").unlink()
    assert tabulate(run)["systems"][0]["requests"] >= 2


def test_a_disk_without_room_is_refused_before_anything_runs(config, small_disk):
    run = create_run(small_disk, config.resolved(), "id")
    fill(small_disk)
    with pytest.raises(StoreError, match="no room for a run"):
        record_run(config, run)


def test_a_nodes_file_that_is_spoilt_does_not_hide_why_the_run_failed(config, tmp_path):
    run = create_run(tmp_path, config.resolved(), "id")
    with pytest.raises(RunError, match="what failed"), recording(config, run):
        (run.path / "edge.json").write_text("{")
        raise RunError("what failed")
    assert run.manifest()["status"] == "failed: what failed"


def test_a_summary_that_cannot_be_made_does_not_hide_why_the_run_failed(config, tmp_path, monkeypatch, capsys):
    def fail(config, folder):
        (folder.path / "requests.jsonl").write_text('{"another": "version"}\n')
        raise RunError("what failed")

    monkeypatch.setattr("experiments.run.record_run", fail)
    with pytest.raises(RunError, match="what failed"):
        run_experiment(config, tmp_path)
    assert "requests.jsonl" in capsys.readouterr().err
