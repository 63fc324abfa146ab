"""Many runs: found wherever they lie, put on their axes, and compared on one page that loses none of them silently."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from many_set import RATES_MBPS, RTTS_MS, base_run, set_manifest, sweep_of_runs
from report_run import SYSTEMS, Page
from typer.testing import CliRunner

from experiments.axes import differing, row_axes
from experiments.bench.many_runs import behind_link
from experiments.cli import app
from experiments.collection import collect, link_label
from experiments.report.many import write_sweep_report
from experiments.report.many.page import render
from experiments.report.many.winners import conditions
from experiments.schema import Config
from experiments.store import StoreError
from experiments.summary import FORMAT

RUNS = len(RTTS_MS) * len(RATES_MBPS)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    return sweep_of_runs(tmp_path_factory.mktemp("many"))


@pytest.fixture(scope="module")
def found(sweep):
    return collect([sweep])


@pytest.fixture(scope="module")
def page(found) -> Page:
    return Page(render(found))


# Finding runs, and their axes -----------------------------------------------------------------------------------------


def test_runs_are_found_wherever_they_lie_and_only_once(sweep):
    one = sweep / "run-20-5"
    for paths in ([sweep], [sweep.parent], [sweep.parent.parent / "grid", one], [one, sweep]):
        assert len(collect(paths).runs) == RUNS
    assert len(collect([one]).runs) == 1


def test_what_is_left_out_is_said(sweep, found, tmp_path):
    assert [line for line in found.left_out if "run-x" in line and "failed" in line]
    base = base_run(tmp_path / "a" / "base", requests=3)
    killed = behind_link(base, tmp_path / "a" / "killed", 5, 5)
    set_manifest(killed.path, status="running")
    newer = behind_link(base, tmp_path / "a" / "newer", 5, 5)
    (newer.path / "summary.json").write_text(json.dumps({"format": FORMAT + 1}))
    left = collect([tmp_path / "a"]).left_out
    assert len(left) == 2
    assert "not complete: running" in left[0] and f"format {FORMAT + 1}" in left[1]
    assert len(collect([killed.path]).runs) == 1, "a run that is named is read however it ended"


def test_no_run_is_an_error_that_says_where_was_looked(tmp_path):
    with pytest.raises(StoreError, match=str(tmp_path)):
        collect([tmp_path])
    with pytest.raises(StoreError, match="no such folder"):
        collect([tmp_path / "nothing"])


def test_a_summary_of_before_is_made_again_from_the_records(sweep, tmp_path):
    base = base_run(tmp_path / "base", requests=3)
    run = behind_link(base, tmp_path / "run", 5, 5)
    new = run.summary()
    (run.path / "summary.json").write_text(json.dumps({"systems": [{"system": "from another time"}]}))
    assert collect([run.path]).runs[0].summary["systems"] == new["systems"]
    (run.path / "summary.json").unlink()
    assert collect([run.path]).runs[0].summary["systems"] == new["systems"]


def test_axes_are_those_a_sweep_declares(found):
    assert dict(found.axes) == {"link.rtt_ms": list(RTTS_MS), "link.rate_mbps": [None, 5]}
    assert len(found.rows) == RUNS * len(SYSTEMS)


def test_without_a_sweep_the_same_axes_are_seen_in_the_configurations(sweep):
    runs = [(run.config, {}) for run in collect([sweep]).runs]
    axes, places = differing(runs)
    assert axes == {"link.rtt_ms": {float(rtt_ms) for rtt_ms in RTTS_MS}, "link.rate_mbps": set(RATES_MBPS)}
    assert len({tuple(place.items()) for place in places}) == RUNS


def test_a_key_that_follows_from_an_axis_is_no_axis_of_its_own():
    configs = [
        {"systems": [{"system": "dssd", "as": "dssd", "stop": {"policy": "fixed", "length": n}}], "seed": n // 4}
        for n in (2, 4, 6, 8)
    ]
    assert set(differing([(config, {}) for config in configs])[0]) == {"draft_length"}
    configs[0]["seed"] = 1
    configs[1]["seed"] = 0
    assert set(differing([(config, {}) for config in configs])[0]) == {"draft_length"}, "a function of it"
    configs.append({**configs[-1], "seed": 7})
    assert set(differing([(config, {}) for config in configs])[0]) == {"draft_length", "seed"}


def test_machines_are_an_axis_where_they_differ():
    manifests = [{"machine": {"host": host, "cpu": "x"}} for host in ("a", "b")]
    assert differing([({}, manifest) for manifest in manifests])[0] == {"machine": {"a x", "b x"}}


def test_thresholds_belong_to_systems():
    assert row_axes({"upload": {"policy": "uncertainty", "threshold": 0.3}}) == {"threshold": 0.3}
    entry = {"stop": {"policy": "confidence", "threshold": 0.8}, "upload": {"policy": "hard", "threshold": 0.8}}
    assert row_axes(entry) == {"threshold": 0.8}
    assert row_axes({"system": "wisv", "options": {"c_th": 0.3}}) == {"threshold": 0.3}


def test_a_draft_length_belongs_to_systems_whose_drafts_are_checked():
    settings = {"name": "t", "engine": "toy", "draft_length": 6}
    systems = ["edge_ar", "device_ar", "colocated_sd", "u_hlm", "dssd"]
    entries = Config.model_validate({**settings, "systems": systems}).resolved()["systems"]
    found = {entry["as"]: row_axes(entry).get("draft_length") for entry in entries}
    assert found == {"edge_ar": None, "device_ar": None, "colocated_sd": 6, "u_hlm": 1, "dssd": 6}
    assert row_axes({"system": "of another version", "stop": {"policy": "fixed", "length": 4}}) == {"draft_length": 4}


@pytest.mark.parametrize(
    ("declared", "label"),
    [
        ({}, "not shaped"),
        ({"profile": "lte", "up": {"delay_ms": 25, "rate_mbps": 10}, "down": {"delay_ms": 25, "rate_mbps": 30}},
         "lte (50 ms, 10/30 Mbit/s)"),
        ({"up": {"delay_ms": 5, "loss_pct": 1}, "down": {"delay_ms": 5, "loss_pct": 1}}, "10 ms, 1 % loss"),
    ],
)  # fmt: skip
def test_links_have_short_names(declared, label):
    assert link_label(declared) == label


# Who wins where -------------------------------------------------------------------------------------------------------


def test_the_winner_is_the_fastest_and_everybody_else_is_behind_it(found):
    where = conditions(found)
    assert len(where) == RUNS
    for condition in where:
        run = found.runs[condition.runs[0]].summary["systems"]
        exact = {f["system"]: f["ms_per_token"] for f in run if f["exact"]}
        assert condition.best_exact == min(exact, key=exact.__getitem__)
        assert condition.behind_pct(condition.best_exact) == 0
        assert all(condition.behind_pct(name) >= 0 for name in exact)
        assert 0 < condition.p_value <= 1
        speedups = {f["system"]: f["speedup_over_edge_ar"] for f in run}
        assert {name: condition.saved_pct(name) > 0 for name in speedups} == {n: x > 1 for n, x in speedups.items()}
    assert {condition.link for condition in where} == {link_label(run.config["link"]) for run in found.runs}


def test_repeats_of_a_condition_are_one_condition(sweep):
    found = collect([sweep])
    twice = conditions(type(found)([*found.runs, *found.runs], [], found.axes))
    once = conditions(found)
    assert len(twice) == len(once) and all(len(condition.runs) == 2 for condition in twice)
    for one, two in zip(once, twice):
        assert two.ms_per_token == pytest.approx(one.ms_per_token)


def test_links_that_have_one_name_are_told_apart_where_they_differ(tmp_path):
    base = base_run(tmp_path / "base")
    for i, congestion in enumerate(("cubic", "reno", "reno")):
        folder = behind_link(base, tmp_path / "runs" / str(i), 20, 5)
        config = folder.config()
        config["link"]["tcp"]["congestion"] = congestion
        (folder.path / "config.yaml").write_text(yaml.safe_dump(config))
    where = conditions(collect([tmp_path / "runs"]))
    assert len({condition.link for condition in where}) == 1
    assert sorted((len(condition.runs), condition.name.split(", ")[-1]) for condition in where) == [
        (1, "link.tcp.congestion cubic"), (2, "link.tcp.congestion reno"),
    ]  # fmt: skip


# The page -------------------------------------------------------------------------------------------------------------


def test_the_page_is_one_file_that_fetches_nothing(sweep):
    path = write_sweep_report(sweep)
    assert path == sweep / "report.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    loading = {"src", "href", "srcset", "data", "action", "poster", "background"}
    assert not [(tag, attributes) for tag, attributes in page.tags if loading & set(attributes)]
    assert not {"link", "iframe", "object", "embed", "img", "base"} & {tag for tag, _ in page.tags}
    assert not re.search(r"url\(|@import", "".join(re.findall(r"<style>(.*?)</style>", text, re.S)))


def test_its_title_is_the_name_of_what_was_run(found, page):
    names = {run.summary["name"] for run in found.runs}
    assert len(names) == 1 and f"<title>{names.pop()}" in render(found)


def test_every_row_of_the_summaries_is_on_the_page(found, page):
    rows = page.data["rows"]
    assert sorted(map(int, page.values("tr", "data-row")))[-1] == len(found.rows) - 1
    for i, row in enumerate(found.rows):
        assert rows["system"][i] == row.system and rows["run"][i] == row.run
        for key, values in rows["figures"].items():
            if key in row.figures and values[i] is not None:
                assert values[i] == pytest.approx(row.figures[key], rel=1e-4)


def test_every_axis_value_can_be_filtered(found, page):
    boxes = [attributes for tag, attributes in page.tags if tag == "input" and "data-axis" in attributes]
    assert len(boxes) == sum(len(values) for values in found.all_axes.values())
    axes, columns = page.data["axes"], page.data["rows"]["axes"]
    for i, row in enumerate(found.rows):
        for key in found.axes:
            assert axes[key]["values"][columns[key][i]] == row.axes[key]


def test_manifest_and_configuration_of_every_run_are_there(found, page):
    assert all(str(run.path) in page.text for run in found.runs)
    assert page.text.count("slow_start_after_idle") >= RUNS and page.text.count("derived_from") == RUNS


def test_which_machine_and_which_day_is_said(sweep, tmp_path):
    base = base_run(tmp_path / "base", requests=3)
    for i, (host, day) in enumerate((("left", "2026-01-02"), ("right", "2026-01-05"))):
        run = behind_link(base, tmp_path / "runs" / f"run{i}", 5, 5)
        set_manifest(run.path, machine={"host": host, "cpu": "x"}, started=f"{day}T03:04:05")
    page = Page(render(collect([tmp_path / "runs"])))
    assert "2 machines (left, right), 2026-01-02 to 2026-01-05" in page.text and "differing in: machine" in page.text
    rows = page.text.split("Speedup over the edge alone")[0]
    assert all(rows.count(said) >= len(SYSTEMS) for said in ("left", "right", "2026-01-02", "2026-01-05"))
    assert {"left x", "right x"} <= set(page.data["axes"]["machine"]["values"]), "and one can filter by it"


def test_hostile_text_stays_text(sweep, tmp_path):
    base = base_run(tmp_path / "base", requests=3)
    run = behind_link(base, tmp_path / "run", 5, 5)
    evil = "</script><img src=x onerror=alert(1)>"
    set_manifest(run.path, machine={"host": evil, "cpu": evil})
    summary = json.loads((run.path / "summary.json").read_text())
    (run.path / "summary.json").write_text(json.dumps({**summary, "name": evil}))
    text = render(collect([run.path, sweep]))
    assert "onerror" in text
    assert not [tag for tag, _ in Page(text).tags if tag == "img"]


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_compares_several_and_remakes_one(sweep, tmp_path):
    out = tmp_path / "compared.html"
    done = CliRunner().invoke(app, ["report", str(sweep), str(sweep / "run-0-5"), "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout.splitlines()[-1])
    assert out.is_file() and len(answer["rows"]) == RUNS * len(SYSTEMS)
    assert any("run-x" in line for line in answer["left_out"])
    alone = CliRunner().invoke(app, ["report", str(sweep / "run-0-5")])
    assert alone.exit_code == 0 and (sweep / "run-0-5" / "report.html").is_file()
    nowhere = CliRunner().invoke(app, ["report", str(sweep), str(sweep)])
    assert nowhere.exit_code == 1 and "--out" in nowhere.output
