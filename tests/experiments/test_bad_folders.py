"""Folders that are not as this program leaves them: every command that reads one says what is wrong and what to do, and
changes nothing that was recorded."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from report_run import toy_run
from typer.testing import CliRunner

from experiments.cli import app
from experiments.run import tabulate
from experiments.store import find_run
from experiments.table import print_table
from nodes.probes.sampler import clock_pair

RECORDED = ("config.yaml", "run.json", "manifest.json", "*.jsonl")
JSONL = ["rounds.jsonl", "requests.jsonl", "power.device.jsonl", "tcp.edge.jsonl"]
READ_ONE = [["report"], ["quality"], ["energy"], ["export", "parquet"], ["export", "aiperf"]]
READ_MANY = [["report", "--out", "page.html"], ["export", "parquet"], ["export", "aiperf"]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "run"
    path.mkdir()
    run = toy_run(path, systems=("edge_ar", "dssd")).path
    change("manifest.json", clock=clock_pair())(run)
    return run


@pytest.fixture
def run(whole, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(whole, tmp_path / "run"))


def recorded(run: Path) -> dict[str, str]:
    files = sorted(path for pattern in RECORDED for path in run.glob(pattern))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.name != "power.jsonl"}


def ask(words: list[str], *folders: Path) -> tuple[int, str]:
    """Exit code, and what was said on both streams in one line of words."""
    result = CliRunner().invoke(app, [*words, *map(str, folders)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.output.split())


def change(name: str, **fields) -> Callable[[Path], None]:
    """The first document of a file, with other fields."""

    def changed(run: Path) -> None:
        first, newline, rest = (run / name).read_text().partition("\n") if name.endswith("l") else (
            (run / name).read_text(), "", "")  # fmt: skip
        (run / name).write_text(json.dumps({**json.loads(first), **fields}) + newline + rest)

    return changed


def cut(run: Path, name: str) -> None:
    """As a kill in mid-write leaves it: one more line, half of it."""
    text = (run / name).read_text()
    last = text.splitlines()[-1]
    (run / name).write_text(text + last[: len(last) // 2])


@pytest.mark.parametrize("words", [["energy"], ["export", "parquet"]], ids=" ".join)
@pytest.mark.parametrize("name", JSONL)
def test_half_a_line_is_told_left_out_and_left_there(run, words, name):
    cut(run, name)
    before = recorded(run)
    code, said = ask(words, run)
    assert code == 0 and name in said.replace(" ", "") and "ends within a line" in said
    assert recorded(run) == before


def test_the_table_of_the_report_tells_every_file_that_was_cut_short(run, capsys):
    for name in JSONL:
        cut(run, name)
    before = recorded(run)
    print_table(tabulate(find_run(run)))
    told = " ".join(capsys.readouterr().out.split())
    assert all(f"damaged lines: file {name}, lines 1" in told for name in JSONL)
    assert recorded(run) == before


def test_a_line_that_lacks_its_end_alone_is_whole(run):
    """A kill may fall between a record and its newline; the record is read, so nothing was cut."""
    path = run / "requests.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert find_run(run).cut_short() == [] and find_run(run).requests().damaged == 0


def test_half_a_line_costs_nothing_else(whole, run):
    cut(run, "rounds.jsonl")
    cut(run, "requests.jsonl")
    assert ask(["export", "parquet", "--out", "a"], whole)[0] == ask(["export", "parquet", "--out", "b"], run)[0] == 0
    import pyarrow.parquet as pq

    for name in ("requests", "rounds", "tokens"):
        assert pq.read_table(f"a/{name}.parquet").equals(pq.read_table(f"b/{name}.parquet"))


@pytest.mark.parametrize("words", READ_ONE, ids=" ".join)
@pytest.mark.parametrize(
    "other",
    [
        change("manifest.json", format=99, software={"git": {"commit": "0123456789abcdef"}}),
        change("run.json", flavour="strange"),
        change("requests.jsonl", flavour="strange"),
    ],
    ids=["format", "told", "record"],
)
def test_another_versions_folder_is_refused_with_its_remedy(run, words, other):
    other(run)
    before = recorded(run)
    code, said = ask(words, run)
    assert code == 1 and "another version of this program" in said and "git worktree add" in said
    assert recorded(run) == before
    assert not (run / "report.html").exists() and not (run / "export").exists()


def test_its_commit_is_named(run):
    change("manifest.json", format=99, software={"git": {"commit": "0123456789abcdef"}})(run)
    assert "git worktree add ../then 0123456789ab" in ask(["energy"], run)[1]


@pytest.mark.parametrize("words", READ_MANY, ids=" ".join)
def test_among_several_it_is_left_out_and_named(whole, run, words):
    change("manifest.json", format=99)(run)
    code, said = ask([*words, *([] if "--out" in words else ["--out", "there"])], whole, run)
    assert code == 0 and f"left out: {run}" in said and "another version" in said


def test_a_newer_summary_is_not_replaced_by_less(run):
    newer = b'{"format": 99, "systems": []}'
    (run / "summary.json").write_bytes(newer)
    code, said = ask(["report"], run)
    assert code == 1 and "newer version" in said and "remove the file" in said
    assert (run / "summary.json").read_bytes() == newer


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("quality.json", '{"half', "`dssd quality RUN` makes it again"),
        ("quality.json", "[]", "`dssd quality RUN` makes it again"),
        ("manifest.json", '{"half', "restore it"),
        ("manifest.json", "[]", "restore it"),
        ("link.json", "3", "restore it"),
        ("run.json", '{"half', "restore it"),
        ("config.yaml", "systems: [\n a: b", "restore it"),
        ("config.yaml", "- a\n- b\n", "restore it"),
        ("config.yaml", "systems: 3\n", "restore it"),
        ("device.json", "[]", "restore it"),
    ],
)
def test_a_spoilt_file_is_named_with_its_remedy(run, name, content, said):
    (run / name).write_text(content)
    before = recorded(run)
    code, told = ask(["report"], run)
    assert code == 1 and name in told and said in told
    assert recorded(run) == before


@pytest.mark.parametrize("at", [1, 3])
def test_a_trace_ends_at_a_line_that_is_broken_and_that_is_told(run, at):
    lines = (run / "power.device.jsonl").read_text().splitlines(keepends=True)
    (run / "power.device.jsonl").write_text("".join([*lines[:at], "[]\n", *lines[at:]]))
    before = recorded(run)
    code, told = ask(["energy"], run)
    assert code == 0 and f"power.device.jsonl: line {at + 1} is no record" in told
    assert ask(["report"], run)[0] == 0
    assert f"line {at + 1} is no record" in (run / "report.html").read_text()
    assert recorded(run) == before


@pytest.mark.parametrize("content", ["systems: [\n a: b", "- a\n- b\n", "systems: 3\n"])
def test_a_spoilt_configuration_among_several_is_left_out(whole, run, content):
    (run / "config.yaml").write_text(content)
    code, said = ask(["report", "--out", "page.html"], whole, run)
    assert code == 0 and "left out" in said and "config.yaml" in said


def test_a_place_that_cannot_be_written_is_named(whole):
    code, said = ask(["report", "--out", "/proc/page.html"], whole, whole)
    assert code == 1 and "/proc/" in said and "No such file" in said


@pytest.mark.parametrize("words", READ_ONE, ids=" ".join)
def test_what_is_no_run_is_said(tmp_path, words):
    code, said = ask(words, tmp_path)
    assert code == 1 and str(tmp_path) in said.replace(" ", "")
