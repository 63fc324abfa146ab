"""A run's folder keeps what was recorded: whatever was killed, whatever is written twice."""

from __future__ import annotations

import json

import msgspec
import pytest
import yaml
from handmade import a_request, a_round

from experiments.manifest import start_manifest
from experiments.schema import Config
from experiments.store import RunFolder, StoreError, create_run, find_run
from experiments.summary import summarise_run
from nodes.records import RecordWriter

CONFIG = {"name": "mine", "seed": 0}
HEADER = {
    "node": "edge",
    "probes": ["meter"],
    "columns": [[["node", "j", "measured", True]]],
    "energy_source": {"probes": ["meter"], "status": "measured", "reason": "it is there"},
}


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return create_run(tmp_path, CONFIG, "abcd1234")


def write_trace(run: RunFolder, *lines: str) -> None:
    run.path.joinpath("power.edge.jsonl").write_text("\n".join([json.dumps({"header": HEADER}), *lines]))


def test_every_run_gets_a_folder_of_its_own(tmp_path):
    runs = [create_run(tmp_path, CONFIG, "abcd1234") for _ in range(3)]
    assert len({run.path for run in runs}) == 3
    assert all(run.config() == CONFIG and "abcd1234" in run.run_id for run in runs)
    assert find_run(tmp_path / "mine").run_id == runs[-1].run_id
    assert (tmp_path / "mine" / "latest").readlink().name == runs[-1].run_id


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(StoreError, match="not the folder of a run"):
        find_run(tmp_path)
    empty = create_run(tmp_path, CONFIG, "a")
    for ask, file in ((empty.summary, "summary"), (empty.manifest, "manifest"), (empty.spec, "run")):
        with pytest.raises(StoreError, match=rf"has no {file}\.json"):
            ask()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot make"):
        create_run(tmp_path / "file", CONFIG, "a")


def test_records_come_back_as_they_were_written(run):
    writer = RecordWriter(run.path)
    writer.round(a_round())
    writer.request(a_request())
    writer.close()
    assert run.rounds().records == [a_round()]
    assert run.requests().records == [a_request()]
    assert run.rounds().damaged == run.requests().damaged == 0


def test_a_line_cut_short_costs_that_line_only(run):
    whole = msgspec.json.encode(a_round())
    (run.path / "rounds.jsonl").write_bytes(whole + b"\n" + whole[:40] + b"\n" + whole + b"\n" + whole[:99])
    assert run.rounds().records == [a_round(), a_round()]
    assert run.rounds().damaged == 2
    run.close()
    assert b"\n" + whole[:40] + b"\n" in (run.path / "rounds.jsonl").read_bytes(), "what was recorded stays"


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("rounds.jsonl", {"n_drawn": 4}, "line 1: it has n_drawn"),
        ("rounds.jsonl", {"epoch": "first"}, "line 1: Expected `int`"),
        ("requests.jsonl", {"prompt": "p"}, "line 1: it has prompt"),
    ],
)
def test_records_of_another_version_are_refused_not_guessed_at(run, file, line, said):
    """A field that was renamed would be read as its default."""
    record = a_round() if file == "rounds.jsonl" else a_request()
    text = json.dumps({**msgspec.to_builtins(record), **line})
    (run.path / file).write_text(text + "\n")
    run.write_manifest({"software": {"git": {"commit": "0123456789abcdef"}}})
    with pytest.raises(StoreError, match=rf"{file}: {said}.* \(commit 0123456789ab\)"):
        run.rounds() if file == "rounds.jsonl" else run.requests()
    assert (run.path / file).read_text() == text + "\n"


def test_what_the_nodes_were_told_by_another_version_is_refused(run):
    config = Config(name="mine", systems=["dssd"], engine="toy")
    spec = msgspec.to_builtins(config.to_runspec())
    for text, said in ((json.dumps({**spec, "speed": 1}), "unknown field `speed`"), ("{", "not JSON")):
        (run.path / "run.json").write_text(text)
        with pytest.raises(StoreError, match=rf"run\.json.*{said}"):
            run.spec()


def test_a_trace_of_another_version_is_refused(run):
    header = {key: value for key, value in HEADER.items() if key != "probes"}
    run.path.joinpath("power.edge.jsonl").write_text(
        json.dumps({"header": header}) + '\n{"p":0,"t":5,"d":1,"v":[1.5]}\n'
    )
    with pytest.raises(StoreError, match="another version"):
        list(run.samples())


def test_a_configuration_that_was_spoilt_is_named(run):
    (run.path / "config.yaml").write_text("a: [")
    with pytest.raises(StoreError, match=r"config\.yaml is not YAML"):
        run.config()


def test_a_run_that_was_killed_before_it_began_has_no_records(run):
    assert run.requests().records == []
    assert list(run.samples()) == run.traces() == []
    assert run.close() == []


def test_traces_become_long_format(run):
    write_trace(run, '{"p":0,"t":5,"d":1,"v":[1.5]}', '{"p":0,"t":7,"d":1,"v":[2.5]}', '{"p":0,"t":9,"d"')
    run.close()
    lines = [json.loads(line) for line in (run.path / "power.jsonl").open()]
    assert [(line["t_ns"], line["node"], line["probe"], line["value"]) for line in lines] == [
        (5, "edge", "meter", 1.5),
        (7, "edge", "meter", 2.5),
    ]
    assert run.energy_sources() == {"edge": HEADER["energy_source"]}


def test_a_broken_trace_keeps_what_came_before(run):
    write_trace(run, '{"p":0,"t":5,"d":1,"v":[1.5]}', "garbage", '{"p":0,"t":7,"d":1,"v":[2.5]}', "")
    assert [sample.t_ns for sample in run.samples()] == [5]


def test_columns_for_analysis(run):
    parquet = pytest.importorskip("pyarrow.parquet")
    (run.path / "requests.jsonl").write_bytes(b"\n".join(msgspec.json.encode(a_request()) for _ in range(3)) + b"\n{")
    assert run.path / "requests.parquet" in run.close()
    table = parquet.read_table(run.path / "requests.parquet")
    assert table.num_rows == 3
    assert table["output_tokens"].to_pylist() == [6, 6, 6]


def test_deriving_twice_gives_the_same(run):
    write_trace(run, '{"p":0,"t":5,"d":1,"v":[1.5]}')
    run.close()
    first = (run.path / "power.jsonl").read_bytes()
    run.close()
    assert (run.path / "power.jsonl").read_bytes() == first
    assert not [path for path in run.path.iterdir() if path.name.startswith(".")]


def test_a_summary_that_is_not_json_does_not_replace_one_that_is(run):
    run.write_summary({"name": "mine"})
    with pytest.raises(ValueError, match="JSON"):
        run.write_summary({"name": float("nan")})
    assert run.summary() == {"name": "mine"}


def test_the_configuration_is_yaml_for_people(run):
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == CONFIG


def test_a_summary_is_made_from_the_folder_alone(run, tmp_path):
    """What `dssd report` does to a run of long ago, of which half a line was lost."""
    config = Config(name="mine", systems=["dssd"], engine="toy")
    (run.path / "run.json").write_bytes(msgspec.json.encode(config.to_runspec()))
    (run.path / "rounds.jsonl").write_bytes(msgspec.json.encode(a_round()) + b"\n{")
    (run.path / "requests.jsonl").write_bytes(msgspec.json.encode(a_request()) + b"\n")
    run.write_manifest(start_manifest(config.resolved(), run.run_id))
    run.write_summary(summarise_run(run))
    summary = run.summary()
    assert (summary["run_id"], summary["status"], summary["labels"]) == (run.run_id, "running", ["toy"])
    assert summary["systems"][0]["mean_acceptance_length"] == 3
    assert summary["events"] == [{"event": "damaged_lines", "file": "rounds.jsonl", "lines": 1}]
