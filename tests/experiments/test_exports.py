"""`dssd export`: what other programs read is what was recorded, from real runs of toy engines."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from experiments.store import RunFolder

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'dssd-testbed[report]'")
import pyarrow.parquet as pq  # noqa: E402

ROOT = Path(__file__).parent.parent.parent
TABLES = ["runs", "systems", "requests", "rounds", "tokens"]
SYSTEMS = ["edge_ar", "device_ar", "dssd", "colocated_sd"]


def dssd(folder: Path, *words: object) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    argv = [sys.executable, "-m", "experiments.cli", *map(str, words)]
    return subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def done(folder: Path, *words: object) -> list[dict]:
    """What it answered."""
    result = dssd(folder, *words, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """A sweep of two runs, of four systems and three prompts each."""
    folder = tmp_path_factory.mktemp("swept")
    config = folder / "grid.yaml"
    workload = {"prompts": ["t1 t2", "t3", "t4 t5"], "max_new_tokens": 9}
    config.write_text(yaml.safe_dump({"engine": "toy", "systems": SYSTEMS, "workload": workload,
                                      "sweep": {"grid": {"draft_length": [2, 5]}}}))  # fmt: skip
    result = dssd(folder, "run", config)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def exported(swept) -> Path:
    done(swept, "export", "parquet", "results", "--out", "export")
    return swept / "export"


def runs_of(swept: Path) -> dict[str, RunFolder]:
    return {path.parent.name: RunFolder(path.parent) for path in (swept / "results").rglob("requests.jsonl")}


def rows(exported: Path, name: str) -> list[dict]:
    return pq.read_table(exported / f"{name}.parquet").to_pylist()


def test_tables_hold_every_record_of_every_run(swept, exported):
    runs = runs_of(swept)
    assert {row["run"] for row in rows(exported, "runs")} == set(runs) and len(runs) == 2
    assert sorted(row["draft_length"] for row in rows(exported, "systems") if row["system"] == "dssd") == [2, 5]
    requests, rounds, tokens = (rows(exported, name) for name in ("requests", "rounds", "tokens"))
    for label, folder in runs.items():
        mine = {row["request_id"]: row for row in requests if row["run"] == label}
        kept = folder.requests().records
        assert len(mine) == len(kept) > 12
        for record in kept:
            row = mine[record.request_id]
            assert (row["tokens"], row["text"], row["ttft_ms"]) == (record.tokens, record.text, record.ttft_ms)
            assert row["prompt"] in ("t1 t2", "t3", "t4 t5")
            said = [row for row in tokens if (row["run"], row["request_id"]) == (label, record.request_id)]
            assert [row["token"] for row in said] == record.tokens
            assert [row["settled_ms"] for row in said] == record.token_ms
            assert [row["position"] for row in said] == list(range(record.output_tokens))
        assert sum(row["run"] == label for row in rounds) == len(folder.rounds().records)
    for row in rounds:
        accepted = [t for t in tokens if (t["run"], t["request_id"], t["round"], t["maker"]) ==
                    (row["run"], row["request_id"], row["round"], "accepted")]  # fmt: skip
        assert len(accepted) == min(row["n_accepted"], row["n_emitted"])
    makers = {system: {t["maker"] for t in tokens if t["system"] == system} for system in SYSTEMS}
    assert makers["edge_ar"] == {"target"} and makers["device_ar"] == {"unverified"}


def test_a_table_without_a_row_has_its_columns(swept, exported, tmp_path):
    """Nobody's query should fail because nobody drafted."""
    columns = {name: pq.read_schema(exported / f"{name}.parquet") for name in TABLES}
    assert columns["rounds"].field("lookahead_hit").type == pa.bool_()
    assert columns["requests"].field("link_up_bytes").type == pa.int64()
    assert columns["requests"].field("tokens").type == pa.list_(pa.int64())


QUERIES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "results.md").read_text(encoding="utf-8"), re.S)


@pytest.mark.parametrize("library", ["pandas", "polars", "duckdb"])
def test_the_documented_query_answers(library, swept, exported, monkeypatch):
    pytest.importorskip(library, reason=f"{library} is not installed: pip install 'dssd-testbed[frames]'")
    query = next((code for code in QUERIES if f"import {library}" in code), None)
    assert query, f"docs/results.md has no query for {library}"
    monkeypatch.chdir(swept)
    names: dict = {}
    exec(compile(query, "docs/results.md", "exec"), names)
    answer = names["answer"]
    if library == "pandas":
        expected = [r.tpot_ms for f in runs_of(swept).values() for r in f.requests().records
                    if r.system == "dssd" and not r.warmup and len(r.tokens) > 1]  # fmt: skip
        assert answer["count"].loc["dssd"] == len(expected)
        assert answer["max"].loc["dssd"] == pytest.approx(max(expected))
    elif library == "polars":
        counts = {(row["system"], row["maker"]): row["len"] for row in answer.to_dicts()}
        assert counts["edge_ar", "target"] == 2 * 3 * 9 and counts["device_ar", "unverified"] == 2 * 3 * 9
    else:
        kept = [r for f in runs_of(swept).values() for r in f.rounds().records if not r.warmup and r.system == "dssd"]
        shares = {(row[0], row[1]): row[2] for row in answer.fetchall()}
        whole = {key: shares[key] for key in shares if key[0] == "dssd"}
        assert len(whole) == 2  # draft lengths
        drafted = {2: 0, 5: 0}
        accepted = {2: 0, 5: 0}
        for label, folder in runs_of(swept).items():
            length = next(row["draft_length"] for row in rows(exported, "systems")
                          if row["run"] == label and row["system"] == "dssd")  # fmt: skip
            for record in folder.rounds().records:
                if record.system == "dssd" and not record.warmup:
                    drafted[length] += record.n_drafted
                    accepted[length] += record.n_accepted
        assert kept and whole == {("dssd", n): pytest.approx(accepted[n] / drafted[n]) for n in (2, 5)}


def test_aiperf_lines_have_its_fields_and_our_times(swept, tmp_path):
    files = done(swept, "export", "aiperf", "results", "--out", tmp_path)
    assert len(files) == 2 * len(SYSTEMS)
    for label, folder in runs_of(swept).items():
        kept = [record for record in folder.requests().records if record.system == "dssd"]
        lines = (tmp_path / label / "dssd" / "profile_export.jsonl").read_text().splitlines()
        for number, (line, record) in enumerate(zip(lines, kept, strict=True)):
            told = json.loads(line)
            about, metrics = told["metadata"], told["metrics"]
            assert told["error"] is None and about["session_num"] == number
            assert about["benchmark_phase"] == ("warmup" if record.warmup else "profiling")
            assert about["request_end_ns"] - about["request_start_ns"] == record.end_ns - record.start_ns
            begun = Path(folder.path / "config.yaml").stat().st_mtime
            assert abs(about["request_start_ns"] / 1e9 - begun) < 120  # the wall's clock, not the machine's own
            assert metrics["time_to_first_token"] == {"value": record.ttft_ms, "unit": "ms"}
            assert metrics["request_latency"] == {"value": record.e2e_ms, "unit": "ms"}
            assert metrics["output_sequence_length"]["value"] == record.output_tokens
            gaps = metrics["inter_chunk_latency"]["value"] if "inter_chunk_latency" in metrics else []
            assert sum(gaps) == pytest.approx(record.token_ms[-1] - record.token_ms[0])


def test_mlflow_takes_parameters_metrics_and_the_report(swept, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'dssd-testbed[mlflow]'")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    words = ["export", "mlflow", swept / "results", "--uri", uri, "--experiment", "mine"]
    logged = done(tmp_path, *words)
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.get_experiment_by_name("mine").experiment_id
    runs = client.search_runs([experiment])
    assert {run.info.run_id for run in runs} == {row["mlflow_run"] for row in logged}
    assert len(runs) == 2 * len(SYSTEMS) and {run.info.status for run in runs} == {"FINISHED"}
    for label, folder in runs_of(swept).items():
        for figures in folder.summary()["systems"]:
            mine = next(run for run in runs if run.data.tags["dssd.run"] == label
                        and run.data.tags["dssd.system"] == figures["system"])  # fmt: skip
            assert mine.data.metrics["tokens_per_s"] == pytest.approx(figures["tokens_per_s"])
            if figures["system"] == "dssd":
                assert mine.data.params["draft_length"] in ("2", "5")
            assert mine.data.params["workload.max_new_tokens"] == "9"
    again = dssd(tmp_path, *words)
    assert again.returncode == 1 and "--force" in again.stderr
    replaced = done(tmp_path, *words, "--force")
    assert {run.info.run_id for run in client.search_runs([experiment])} == {row["mlflow_run"] for row in replaced}


def test_without_mlflow_its_absence_is_said(swept, tmp_path):
    (tmp_path / "mlflow.py").write_text("raise ImportError('not here')\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    argv = [sys.executable, "-m", "experiments.cli", "export", "mlflow", str(swept / "results")]
    told = subprocess.run(argv, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert told.returncode == 1 and "dssd-testbed[mlflow]" in told.stderr and "Traceback" not in told.stderr


@pytest.mark.parametrize("kind", ["parquet", "aiperf"])
def test_nothing_is_replaced_unless_told_to(kind, swept, tmp_path):
    done(swept, "export", kind, "results", "--out", tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    refused = dssd(swept, "export", kind, "results", "--out", tmp_path)
    assert refused.returncode == 1 and "--force" in refused.stderr
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before
    done(swept, "export", kind, "results", "--out", tmp_path, "--force")
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert after.keys() == before.keys() and all(after[path] > before[path] for path in before)


def test_one_folder_has_the_export_beside_its_records(swept):
    run = next(iter(runs_of(swept).values())).path
    found = done(swept, "export", "parquet", run)
    assert [Path(row["file"]).parent.name for row in found] == ["export"] * 5
    two = dssd(swept, "export", "parquet", run, run.parent)
    assert two.returncode == 1 and "--out FOLDER" in two.stderr
