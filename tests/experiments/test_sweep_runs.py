"""Sweeps for real, in processes that are killed: toy engines over loopback, so that only the keeping is at stake."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from experiments.bench.resume import kill_all
from experiments.store import RunFolder, StoreError
from experiments.sweep.folder import Attempt, SweepError, SweepFolder, find_sweep, open_sweep
from experiments.sweep.order import Turn
from experiments.sweep.points import Sweep, load_sweep
from experiments.sweep.status import describe, seconds_left, standing
from netem.backend import why_not

TOY = {
    "systems": ["edge_ar"],
    "engine": {"engine": "toy", "vocab_size": 16, "acceptance": 0.7},
    "workload": {"prompts": ["t1 t2"], "max_new_tokens": 3},
    "warmup": 0,
    "transport": {"security": "plain"},
}
COMMAND = [sys.executable, "-m", "experiments.cli", "run"]
PATIENCE_S = 400


@pytest.fixture
def config(tmp_path):
    def write(section: dict, **changes) -> Path:
        path = tmp_path / "many.yaml"
        path.write_text(yaml.safe_dump({**TOY, **changes, "sweep": section}, sort_keys=False))
        return path

    return write


def start(config: Path, *options: str) -> subprocess.Popen:
    return subprocess.Popen(
        [*COMMAND, str(config), "--out", str(config.parent / "results"), *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def finish(config: Path, *options: str, code: int = 0) -> tuple[str, str]:
    process = start(config, *options)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, err
    return out, err


def sweep_of(config: Path) -> SweepFolder:
    return find_sweep(config.parent / "results")


def manifests(folder: SweepFolder, below: str = "**") -> Iterator[dict]:
    for path in folder.path.glob(f"{below}/manifest.json"):
        yield json.loads(path.read_text())


def wait_for(what, process: subprocess.Popen) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    return found


def killed_again_and_again(config: Path, kills: int, seed: int, longest_s: float) -> None:
    chance = random.Random(seed)
    for kill in range(kills):
        process = start(config)
        try:
            process.wait(chance.uniform(0.1, longest_s))
        except subprocess.TimeoutExpired:
            (kill_all if kill % 2 else subprocess.Popen.kill)(process)
        process.communicate()
    finish(config)


def assert_each_once(folder: SweepFolder, runs: int) -> None:
    done = list(manifests(folder, "*"))
    assert {manifest["status"] for manifest in done} == {"complete"}
    turns = Counter((manifest["sweep"]["point"], manifest["sweep"]["repeat"]) for manifest in done)
    assert len(turns) == runs and set(turns.values()) == {1}
    everywhere = [manifest for manifest in manifests(folder) if manifest["status"] == "complete"]
    assert len(everywhere) == runs, "something was run to its end twice"
    for path in folder.path.glob("*/summary.json"):
        assert len(RunFolder(path.parent).requests().records) == 1
    assert len(list(folder.path.glob("*/summary.json"))) == runs
    assert not list((folder.path / "running").iterdir())


@pytest.mark.parametrize("seed", [1])
def test_killed_six_times_it_loses_and_repeats_nothing(config, seed):
    path = config({"grid": {"seed": [1, 2, 3]}, "repeats": 2})
    killed_again_and_again(path, kills=6, seed=seed, longest_s=3.0)
    assert_each_once(sweep_of(path), 6)


@pytest.mark.slow
def test_sixty_runs_killed_twenty_times(config):
    path = config({"grid": {"seed": list(range(10)), "draft_length": [1, 2, 3]}, "repeats": 2}, systems=["dssd"])
    killed_again_and_again(path, kills=20, seed=7, longest_s=8.0)
    assert_each_once(sweep_of(path), 60)


def test_what_a_finished_sweep_tells(config):
    path = config({"grid": {"draft_length": {"short": 1, "long": 3}}, "repeats": 2}, systems=["edge_ar", "dssd"])
    out, err = finish(path, "--json", "--jobs", "2")
    told, folder = json.loads(out.splitlines()[-1]), sweep_of(path)
    assert (told["state"], told["done"], told["runs"], told["sweep"]) == ("complete", 4, 4, folder.id)
    assert [(row["axes"]["draft_length"], row["system"], row["runs"]) for row in told["rows"]] == [
        ("short", "edge_ar", 2), ("short", "dssd", 2), ("long", "edge_ar", 2), ("long", "dssd", 2),
    ]  # fmt: skip
    assert all(row["tokens_per_s"] > 0 for row in told["rows"])
    assert "4/4" in err and "toy" in out
    for manifest in manifests(folder, "*"):
        about = manifest["sweep"]
        assert about["id"] == folder.id and about["attempt"] == 1 and about["jobs"] == 2
        assert about["axes"]["draft_length"] == about["name"].partition("=")[2]
    assert not list(folder.path.glob("*/report.html")), "a page of 5 MB a run is made when asked for"
    # the same again: everything is there
    before = sorted(folder.path.iterdir())
    _, err = finish(path)
    assert "gone on with" in err and sorted(folder.path.iterdir()) == before
    # another pass goes on with it, --fresh does not
    finish(path, "--set", "sweep.repeats=3", "--jobs", "2")
    assert len(standing(sweep_of(path)).done) == 6
    finish(path, "--fresh", "--set", "sweep.repeats=1", "--jobs", "2")
    assert sweep_of(path).path.name == f"sweep-{folder.id}-2"
    assert (path.parent / "results" / "many" / "latest").resolve() == sweep_of(path).path.resolve()
    assert len(standing(sweep_of(path)).done) == 2 and len(standing(folder).done) == 6


def test_what_fails_is_tried_once_more_then_recorded_and_the_rest_goes_on(config):
    """Two vocabularies are met when the nodes shake hands."""
    other = {"engine": "toy", "vocab_size": 32}
    path = config({"points": {"bad": {"edge.engine": other}, "good": {"edge.engine": TOY["engine"]}}},
                  device={"engine": TOY["engine"]}, engine=None)  # fmt: skip
    out, err = finish(path, "--json", code=1)
    folder = sweep_of(path)
    told = json.loads(out.splitlines()[-1])
    assert (told["done"], told["failed"], told["left"]) == (1, 1, 0)
    bad = next(point for point in told["points"] if point["point"] == "bad")
    assert (bad["state"], bad["failed_attempts"]) == ("failed", 2)
    assert "vocab" in bad["error"] and "vocab" in Path(bad["log"]).read_text()
    assert err.count("it is tried once more") == 1 and "1 of 2 runs failed" in err
    attempts = [manifest["sweep"]["attempt"] for manifest in manifests(folder, "failed/*")]
    assert sorted(attempts) == [1, 2]
    # going on tries it no more, until told to
    finish(path, code=1)
    assert len(list(manifests(folder, "failed/*"))) == 2
    finish(path, "--retry-failed", code=1)
    assert len(list(manifests(folder, "failed/*"))) == 4
    status = subprocess.run(
        [*COMMAND[:-1], "sweep", "status", str(folder.path)], capture_output=True, text=True, check=True
    ).stdout
    assert "ended, not everything worked" in status and "vocab" in status


def test_a_run_whose_process_is_killed_is_tried_again(config):
    path = config({"repeats": 2})
    process = start(path)

    def running() -> Sequence[psutil.Process]:
        found = []
        for child in psutil.Process(process.pid).children():
            with suppress(psutil.Error):  # another child, which is gone by now
                found += [child] if "experiments.sweep.child" in child.cmdline() else []
        return found

    wait_for(running, process)[0].kill()
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0 and "killed by SIGKILL" in err and "tried once more" in err
    assert_each_once(sweep_of(path), 2)
    assert [m["status"] for m in manifests(sweep_of(path), "failed/*")] == ["failed: its process was killed by SIGKILL"]


@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_told_to_stop_it_leaves_a_folder_to_go_on_with(config, signal_number, code):
    path = config({"repeats": 2})
    process = start(path)
    wait_for(lambda: list((path.parent / "results").glob("many/sweep-*/running/*/requests.jsonl")), process)
    process.send_signal(signal_number)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code and "the same command goes on" in err
    found = describe(sweep_of(path))
    assert (found["state"], found["running"], found["failed"]) == ("stopped", 0, 0) and found["left"] > 0
    finish(path)
    assert_each_once(sweep_of(path), 2)


@pytest.mark.slow
@pytest.mark.lab
def test_a_sweep_that_is_killed_leaves_no_link_behind(config):
    if problem := nothing_shapes():
        pytest.skip(problem)
    path = config({"repeats": 2}, link={"rtt_ms": 4})
    process = start(path)
    links = (path.parent / "results").glob
    wait_for(lambda: list(links("many/sweep-*/running/*/link.json")), process)
    name = json.loads(next(links("many/sweep-*/running/*/link.json")).read_text())["name"]
    assert namespaces_of(name)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while namespaces_of(name):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    finish(path)
    assert_each_once(sweep_of(path), 2)
    assert [manifest["status"] for manifest in manifests(sweep_of(path), "interrupted/*")] != []


def nothing_shapes() -> str | None:
    if os.geteuid() != 0:
        return "needs root: without it the namespaces end with the process anyway"
    problems = [why_not("netns"), why_not("uml")]
    return None if None in problems else "; ".join(filter(None, problems))


def namespaces_of(lab: str) -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if f"dssd-{lab}-" in line]


def test_two_at_once_are_refused_and_status_sees_the_first(config):
    long = {"workload": {"prompts": ["t1 t2"], "max_new_tokens": 400}, "pace": {"forward_ms": 20}}
    path = config({"repeats": 2}, **long)
    first = start(path)
    wait_for(lambda: list((path.parent / "results").glob("many/sweep-*/running/*/run.json")), first)
    _, err = finish(path, "--set", "sweep.repeats=5", code=1)
    assert f"is being run by process {first.pid}" in err
    found = describe(sweep_of(path))
    assert (found["state"], found["pid"], found["running"], found["runs"]) == ("running", first.pid, 1, 2)
    _, err = first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 0, err
    assert_each_once(sweep_of(path), 2)
    assert describe(sweep_of(path))["pid"] is None


def test_a_dry_run_names_points_and_makes_nothing(config):
    path = config({"grid": {"seed": [1, 2], "draft_length": [1, 2]}})
    out, _ = finish(path, "--dry-run", "--json")
    told = json.loads(out.splitlines()[-1])
    points = load_sweep(path).points
    assert [(point["id"], point["axes"], point["requests"]) for point in told["points"]] == [
        (point.id, point.axes, 1) for point in points
    ]
    assert told["runs"] == 4
    assert not (path.parent / "results").exists()


def test_a_table_shows_brackets_as_they_are(config):
    path = config({"grid": {"systems": [["edge_ar"], ["edge_ar", "dssd"]]}})
    out, _ = finish(path, "--dry-run")
    assert "systems=[edge_ar] " in out and "systems=[edge_ar, dssd] " in out


def test_options_of_a_sweep_are_refused_without_one(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump(TOY))
    for option in ("--fresh", "--retry-failed", "--jobs=2"):
        _, err = finish(path, option, code=1)
        assert "has no `sweep:`" in err


# The folder alone ----------------------------------------------------------------------------------------------


@pytest.fixture
def begun(config, tmp_path):
    sweep = load_sweep(config({"grid": {"seed": [1, 2]}}))
    folder, was_there = open_sweep(sweep, tmp_path / "results", fresh=False)
    assert not was_there
    return sweep, folder


def test_what_a_kill_left_is_sorted_by_what_its_manifest_says(begun):
    sweep, folder = begun
    statuses = ["complete", "running", "failed: no such model", "starting"]
    made = {status: folder.begin(sweep.points[0], Turn(sweep.points[0].id, 1), 1, 1) for status in statuses}
    for status, run in made.items():
        run.write_manifest({**run.manifest(), "status": status})
    (folder.path / "running" / "bare").mkdir()  # killed between making it and writing the first file
    with folder.locked():
        assert [run.path for run in folder.left_over()] == [made["complete"].path]
    where = {path.name: path.parent.name for path in folder.path.glob("*/*") if path.is_dir()}
    assert where == {
        made["complete"].run_id: "running", made["failed: no such model"].run_id: "failed", "bare": "interrupted",
        made["running"].run_id: "interrupted", made["starting"].run_id: "interrupted",
    }  # fmt: skip
    assert standing(folder).failures == {Turn(sweep.points[0].id, 1): 1}


class Killed(BaseException):
    """The process ends here; nothing catches it."""


def test_killed_before_any_change_to_the_disk_it_goes_on_where_it_was(config, tmp_path, monkeypatch):
    """Every write, rename and new folder is counted; the process ends in place of the first, of the second, ..."""
    sweep = load_sweep(config({"grid": {"seed": [1, 2]}}))
    changes = fatal = 0

    def count(name: str) -> None:
        real = getattr(Path, name)

        def counted(*arguments, **options):
            nonlocal changes
            changes += 1
            if changes == fatal:
                raise Killed
            return real(*arguments, **options)

        monkeypatch.setattr(Path, name, counted)

    for name in ("mkdir", "write_text", "replace", "rename", "symlink_to"):
        count(name)
    for fatal in range(1, 100):
        results, changes = tmp_path / str(fatal), 0
        try:
            run_without_nodes(sweep, results)
        except Killed:
            run_without_nodes(sweep, results)
        folder = find_sweep(results)
        assert {turn.point for turn in standing(folder).done} == {point.id for point in sweep.points}
        assert len([m for m in manifests(folder) if m["status"] == "complete"]) == 2, "none twice"
        if changes < fatal:
            break
    assert 15 < fatal < 99, "every change there is was tried"


def run_without_nodes(sweep: Sweep, results: Path) -> None:
    """What the runner does with the folder."""
    folder, _ = open_sweep(sweep, results, fresh=False)
    with folder.locked():
        complete = {run.manifest()["sweep"]["point"]: run for run in folder.left_over()}
        for turn in standing(folder).left():
            run = complete.get(turn.point)
            if run is None:
                run = folder.begin(sweep.point(turn.point), turn, 1, 1)
                run.write_manifest({**run.manifest(), "status": "complete"})
            folder.move(run, "done")


def test_a_folder_killed_while_it_was_made_is_completed(begun, tmp_path):
    sweep, folder = begun
    (folder.path / "sweep.json").unlink()
    again, was_there = open_sweep(sweep, tmp_path / "results", fresh=False)
    assert (again.path, was_there) == (folder.path, False)
    assert again.definition["points"] == folder.definition["points"]


def test_a_folder_of_another_version_is_refused_with_the_remedy(begun, tmp_path):
    sweep, folder = begun
    path = folder.path / "sweep.json"
    path.write_text(json.dumps({**folder.definition, "format": 99}))
    with pytest.raises(SweepError, match=r"format 99, this program writes 1.*--fresh"):
        open_sweep(sweep, tmp_path / "results", fresh=False)
    assert open_sweep(sweep, tmp_path / "results", fresh=True)[0].path.name.endswith("-2")
    path.write_text('{"format": 1, "na')
    with pytest.raises(SweepError, match="is not JSON"):
        SweepFolder(folder.path)


def test_what_is_left_takes_as_long_as_what_was_run(begun):
    sweep, folder = begun
    first, second = (point.id for point in sweep.points)
    assert seconds_left(folder, [], [Turn(first, 1)], 1) is None

    def took(point: str, seconds: float) -> Attempt:
        return Attempt(RunFolder(folder.path), "done", Turn(point, 1), {}, "complete", 0.0, seconds)

    (folder.path / "config.yaml").write_text("{}")
    folder.definition["points"][1]["requests"] = 3
    assert seconds_left(folder, [took(first, 10.0)], [Turn(first, 2)], 1) == 10
    assert seconds_left(folder, [took(first, 10.0)], [Turn(second, 1)], 1) == 30, "as many requests as it has"
    both = [took(first, 10.0), took(first, 20.0), took(second, 99.0)]
    assert seconds_left(folder, both, [Turn(first, 2), Turn(second, 2)], 1) == 15 + 99
    assert seconds_left(folder, both, [Turn(first, 2), Turn(second, 2)], 2) == (15 + 99) / 2


def test_a_place_without_a_sweep_is_named(tmp_path):
    with pytest.raises(SweepError, match="holds no sweep"):
        find_sweep(tmp_path)
    with pytest.raises(SweepError, match="not the folder of a sweep"):
        SweepFolder(tmp_path)


def test_a_done_run_whose_manifest_is_damaged_is_not_run_again_unasked(begun):
    sweep, folder = begun
    run = folder.begin(sweep.points[0], Turn(sweep.points[0].id, 1), 1, 1)
    moved = folder.move(run, "done", "complete")
    (moved.path / "manifest.json").write_text('{"half')
    with pytest.raises(StoreError, match="not JSON"):
        standing(folder)


def test_only_one_process_has_the_lock_and_it_ends_with_the_process(begun):
    _, folder = begun
    assert folder.running_pid() is None
    with folder.locked():
        assert folder.running_pid() == os.getpid()
        with pytest.raises(SweepError, match=str(os.getpid())), folder.locked():
            pass
    assert folder.running_pid() is None
    with folder.locked():
        pass
