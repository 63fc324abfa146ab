"""A sweep that puts each system in a run of its own: speedups over the edge_ar of the run beside it."""

from __future__ import annotations

import json

import pytest
import yaml
from many_set import base_run, set_manifest

from experiments.bench.many_runs import behind_link
from experiments.collection import collect
from experiments.report.many.page import render
from experiments.summary import summarise_run

RTTS_MS = (10, 40)


def only(folder, systems):
    """The run as it would have been with these systems alone."""
    config = folder.config()
    config["systems"] = [entry for entry in config["systems"] if entry["as"] in systems]
    (folder.path / "config.yaml").write_text(yaml.safe_dump(config))
    spec = json.loads((folder.path / "run.json").read_text())
    spec["systems"] = [system for system in spec["systems"] if system["name"] in systems]
    (folder.path / "run.json").write_text(json.dumps(spec))
    for name in ("rounds", "requests"):
        path = folder.path / f"{name}.jsonl"
        lines = [line for line in path.read_text().splitlines() if json.loads(line)["system"] in systems]
        path.write_text("\n".join(lines) + "\n")
    folder.write_summary(summarise_run(folder))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Behind two links a whole run, and the same records with edge_ar and dssd apart."""
    root = tmp_path_factory.mktemp("siblings")
    base = base_run(root / "base", requests=6)
    for rtt_ms in RTTS_MS:
        behind_link(base, root / "whole" / f"run-{rtt_ms}", rtt_ms, None)
        for system in ("edge_ar", "dssd"):
            only(behind_link(base, root / "apart" / f"{system}-{rtt_ms}", rtt_ms, None), (system,))
    return root


def rows(collection, system="dssd"):
    return {row.axes.get("link.rtt_ms"): row.figures for row in collection.rows if row.system == system}


def test_the_speedup_is_that_of_one_run_with_both(runs):
    whole, apart = rows(collect([runs / "whole"])), rows(collect([runs / "apart"]))
    assert whole.keys() == apart.keys() == {float(rtt_ms) for rtt_ms in RTTS_MS}
    for rtt_ms, figures in apart.items():
        assert figures["speedup_beside"] == f"edge_ar-{rtt_ms:.0f}"
        for key in ("speedup_over_edge_ar", "speedup_over_edge_ar_ci95", "speedup_p_value"):
            assert figures[key] == pytest.approx(whole[rtt_ms][key], rel=1e-5)
        assert "speedup_beside" not in whole[rtt_ms], "a run with an edge_ar of its own is beside that"


def test_alone_it_has_none(runs):
    figures = rows(collect([runs / "apart" / "dssd-10"]))[None]
    assert figures["speedup_over_edge_ar"] is None and "speedup_beside" not in figures


def test_the_report_says_whose_edge_ar_it_was(runs):
    assert "edge_ar of" in render(collect([runs / "apart"]))
    assert "edge_ar of" not in render(collect([runs / "whole"]))


@pytest.mark.parametrize(
    "differs",
    [
        {"seed": 7},
        {"sampling": {"temperature": 0.5, "top_k": 0, "top_p": 1.0}},
        {"workload": {"prompts": "other"}},
        {"edge": {"engine": {"engine": "toy", "acceptance": 0.2}}},
        "machine",
    ],
    ids=str,
)
def test_another_condition_is_no_sibling(runs, tmp_path, differs):
    base = base_run(tmp_path / "base", requests=6)
    one = only(behind_link(base, tmp_path / "runs" / "edge", 10, None), ("edge_ar",))
    only(behind_link(base, tmp_path / "runs" / "dssd", 10, None), ("dssd",))
    assert next(iter(rows(collect([tmp_path / "runs"])).values()))["speedup_over_edge_ar"]
    if differs == "machine":
        set_manifest(one.path, machine={"host": "another", "cpu": "x"})
    else:
        (one.path / "config.yaml").write_text(yaml.safe_dump({**one.config(), **differs}))
    assert next(iter(rows(collect([tmp_path / "runs"])).values()))["speedup_over_edge_ar"] is None


def test_of_several_the_same_pass_then_the_nearest_in_time(runs, tmp_path):
    base = base_run(tmp_path / "base", requests=6)
    passes = {"edge_0": (0, "10:00"), "edge_1": (1, "12:00"), "edge_2": (1, "10:04")}
    for name, (repeat, at) in passes.items():
        run = only(behind_link(base, tmp_path / "runs" / name, 10, None), ("edge_ar",))
        set_manifest(run.path, started=f"2026-01-02T{at}:00+00:00", sweep={"repeat": repeat})
    run = only(behind_link(base, tmp_path / "runs" / "dssd", 10, None), ("dssd",))
    set_manifest(run.path, started="2026-01-02T10:01:00+00:00", sweep={"repeat": 1})
    assert next(iter(rows(collect([tmp_path / "runs"])).values()))["speedup_beside"] == "edge_2"
