"""Places that cannot be written, or have no room left: what failed first is told by name, what was recorded stays."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from report_run import toy_run
from typer.testing import CliRunner

from experiments.cli import app
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


# Commands -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "run"
    path.mkdir()
    return toy_run(path, systems=("edge_ar", "dssd")).path


def told(*words: object) -> str:
    """What a command that fails says on stderr; it must not be a traceback."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.exception
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("dssd: ")]
    return line


@pytest.mark.parametrize("name", ["summary.json", "report.html", "trace.json", "figures", "quality.json"])
def test_a_file_of_a_run_that_cannot_be_replaced_is_named(whole, tmp_path, name):
    run = shutil.copytree(whole, tmp_path / "run")
    (run / name).mkdir() if name != "figures" else (run / name).write_text("")
    assert name in told("quality" if name == "quality.json" else "report", run)


@pytest.mark.parametrize(
    "words",
    [
        ["report", "RUN", "--out", "PLACE.html"],
        ["figure", "throughput", "RUN", "--out", "PLACE"],
        ["table", "RUN", "--out", "PLACE"],
        ["export", "parquet", "RUN", "--out", "PLACE"],
        ["edge", "serve", "--plain", "--out", "PLACE"],
        ["device", "run", "CONFIG", "--plain", "--out", "PLACE"],
        ["probes", "record", "--probe", "psutil_trace", "--out", "PLACE", "--", "true"],
        ["bench", "work", "--out", "PLACE"],
        ["train", "router", "--out", "PLACE"],
        ["train", "head", "--out", "PLACE.npz"],
    ],
    ids=" ".join,
)
def test_a_place_where_nothing_can_be_is_named_before_minutes_are_spent(whole, tmp_path, monkeypatch, words):
    for work in ("bench.run_bench", "training.router.train_router", "training.head.train_head"):
        monkeypatch.setattr(f"experiments.{work}", lambda *_: pytest.fail("it was measured first"))
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "mine.yaml").write_text("{engine: toy, systems: [edge_ar]}")
    named = {"RUN": str(whole), "CONFIG": str(tmp_path / "mine.yaml")}
    place = str(tmp_path / "file" / "x")
    assert str(tmp_path / "file") in told(*(named.get(word, word.replace("PLACE", place)) for word in words))


def test_a_disk_that_is_full_when_a_run_is_summed_up_is_told(whole, small_disk):
    run = shutil.copytree(whole, small_disk / "run")
    fill(small_disk)
    assert "No space left on device: make room" in told("report", run)


def test_a_run_of_a_sweep_tells_it_in_a_line_too(config, tmp_path):
    run = create_run(tmp_path, config.resolved(), "id")
    run.write_manifest({"status": "starting", "sweep": {}})
    (run.path / "run.json").mkdir()
    child = [sys.executable, "-m", "experiments.sweep.child", str(run.path), str(os.getpid())]
    done = subprocess.run(child, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"dssd: {run.path / 'run.json'}: Is a directory" in done.stderr
