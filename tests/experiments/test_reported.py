"""What papers report, beside a run at their setting: the numbers' arithmetic, and the table in a report."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml
from many_set import base_run, paper_runs
from report_run import Page

from experiments.bench.many_runs import behind_link
from experiments.collection import Row, Run, collect
from experiments.predict.formulas import transfer_ms
from experiments.predict.reported import Setting, beside_reported, load_reported, setting_of
from experiments.report.many.page import render
from experiments.report.many.reported import HEADINGS, rows_beside
from experiments.report.papers import write_reported
from experiments.schema import Config
from experiments.sweep.points import load_sweep
from nodes.engine.profiles import load_pace, profile_names

OPT = "opt-125m-6.7b@h800"
ROW_BYTES = 50_272 * 4
ROUNDS = 31  # that the paper's seconds come to, with 128 tokens at draft length 8


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Toy runs that claim the paper's pair, behind three of its links; only what is set beside is looked at here."""
    root = tmp_path_factory.mktemp("paper")
    paper_runs(root)
    return collect([root / "runs"])


def of(found, system="dssd", rtt_ms=20.0, rate_mbps=50.0):
    return [
        one
        for row in found.rows
        if row.system == system
        for one in beside_reported(row, found.runs[row.run])
        if (one.setting.rtt_ms, one.setting.rate_mbps) == (rtt_ms, rate_mbps)
    ]


# The numbers ----------------------------------------------------------------------------------------------------------


def test_every_number_says_where_it_stands():
    reported = load_reported()
    assert len(reported) == 36 and {one.table for one in reported} == {"table 2", "table 3"}
    for one in reported:
        assert "2507.12000" in one.paper and one.tokens == 128 and one.remarks
        assert one.setting.rtt_ms in (0, 20, 50) and one.setting.rate_mbps in (10, 50, 100)
        assert one.setting.draft_length in (4, 6, 8) and one.row_bytes == ROW_BYTES
        assert one.speedup and (one.comm_s is None) == (one.table == "table 3")


BILLED = [
    one for one in load_reported()
    if one.comm_s and one.setting.pace == OPT and one.setting.draft_length == 8 and one.setting.rtt_ms
]  # fmt: skip


@pytest.mark.parametrize("one", BILLED, ids=lambda one: f"{one.setting.system}-{one.comm_s}")
def test_what_the_paper_billed_is_as_remarked(one):
    """DSD: 31 rounds of its rows and NTT. DSSD with 6.7B: 31 of NTT and of nothing else."""
    setting = one.setting
    rows_ms = 8 * transfer_ms(ROW_BYTES, setting.rate_mbps) if setting.system == "dsd" else 0.0
    assert one.comm_s == pytest.approx(ROUNDS * (rows_ms + setting.rtt_ms) / 1e3, rel=0.003)


def test_the_row_that_was_never_billed_is_the_formula_without_its_round_trips(found):
    for one in of(found) + of(found, rtt_ms=50.0, rate_mbps=10.0):
        rtts_s = one.formula.rounds * one.setting.rtt_ms / 1e3
        assert one.never_billed_s == pytest.approx(one.formula.comm_s - rtts_s)
        rejections = one.formula.rounds * (1 - 0.61**8)
        assert one.never_billed_s == pytest.approx(rejections * transfer_ms(ROW_BYTES, one.setting.rate_mbps) / 1e3)
    (one,) = of(found, rtt_ms=50.0, rate_mbps=10.0)
    assert one.formula.comm_s > one.billed.comm_s, "31 round trips are less than what its own equation bills"


def test_the_papers_formula_is_speculative_decoding_where_the_network_costs_nothing():
    from experiments.predict.formulas import sd_walltime_factor
    from experiments.predict.reported import _formula

    paper = next(one for one in load_reported() if one.setting.system == "dssd" and one.setting.pace == OPT)
    free, _ = _formula(Setting("dssd", OPT, 0.0, 1e12, 8), paper)
    draft_ms, target_ms = (load_pace(OPT, role).forward_ms for role in ("draft", "target"))
    assert free.speedup == pytest.approx(sd_walltime_factor(0.61, 8, draft_ms / target_ms))
    assert free.comm_s == pytest.approx(0, abs=1e-6)


# Beside a run ---------------------------------------------------------------------------------------------------------


def test_a_run_finds_the_numbers_for_its_own_setting(found):
    (one,) = of(found)
    assert (one.table, one.billed.speedup, one.billed.comm_s) == ("table 2", 2.22, 0.62)
    (one,) = of(found, rtt_ms=50.0, rate_mbps=10.0)
    assert (one.billed.speedup, one.billed.comm_s) == (2.19, 1.55)


def test_a_cell_that_the_table_leaves_empty_has_the_formula_alone(found):
    (one,) = of(found, rate_mbps=10.0)
    assert one.table is None and one.billed.speedup is None and one.formula.speedup and one.measured.speedup


def test_measured_is_what_the_run_measured(found):
    for row in found.rows:
        for one in beside_reported(row, found.runs[row.run]):
            alone = next(r for r in found.rows if r.run == row.run and r.system == "edge_ar")
            target_ms = alone.figures["measured_parts"]["target_ms"]
            assert one.measured.speedup == pytest.approx(target_ms / row.figures["ms_per_token"])
            assert one.measured.comm_s == pytest.approx(
                0.128 * row.figures["network_share"] * row.figures["ms_per_token"]
            )
            assert one.own_parts.speedup == pytest.approx(target_ms / row.figures["predicted"]["ms_per_token"])
            assert one.acceptance == 0.61 and one.acceptance_measured == row.figures["measured_parts"]["acceptance"]


@pytest.mark.parametrize("system", ["edge_ar", "colocated_sd", "dssd_sampled", "dssd_lookahead", "device_ar"])
def test_what_no_paper_has_numbers_for_is_beside_none(found, system):
    assert of(found, system) == []


def test_another_pair_another_rate_back_or_no_link_is_no_published_setting(found, tmp_path):
    base = base_run(tmp_path / "base", requests=3)
    behind_link(base, tmp_path / "runs" / "one", 20, 50)
    assert not rows_beside(collect([tmp_path / "runs"]))


@pytest.mark.parametrize("drafted", [3.6, 8.0, 8.4])
@pytest.mark.parametrize(
    ("stop", "length"), [({"length": 8}, 8), ("fixed", 4), ("confidence", None), ("optimal_length", None)]
)
def test_a_draft_length_that_is_not_fixed_is_no_published_setting(stop, length, drafted):
    """Whatever the mean draft came to, and even where the other systems of the run are swept over a length."""
    entry = {"system": "dssd", "as": "mine", "stop": stop}
    settings = {"name": "own", "systems": ["edge_ar", entry], "engine": "toy", "pace": OPT, "draft_length": 8}
    link = {"rtt_ms": 20, "rate_mbps": 50}
    config = Config.model_validate({**settings, "link": link}).resolved()
    run = Run(Path("run"), "run", {"systems": []}, config, {})
    row = Row(0, "mine", "dssd", {"measured_parts": {"draft_length": drafted}}, {"draft_length": 8})
    assert setting_of(row, run) == (Setting("dssd", OPT, 20.0, 50.0, length) if length else None)


def test_numbers_of_ones_own_for_the_pace_are_no_published_setting(tmp_path):
    base = base_run(tmp_path / "base", requests=3)
    settings = {"name": "own", "systems": ["edge_ar", "dssd"], "engine": "toy", "draft_length": 8}
    pace = {"draft": {"forward_ms": 1}, "target": {"forward_ms": 5}}
    config = {**Config.model_validate(settings).resolved()}
    for node in ("device", "edge"):
        config[node]["engine"] = {**config[node]["engine"], "pace": pace}
    (base.path / "config.yaml").write_text(yaml.safe_dump(config))
    behind_link(base, tmp_path / "runs" / "one", 20, 50)
    assert not rows_beside(collect([tmp_path / "runs"]))


# The report -----------------------------------------------------------------------------------------------------------


def test_the_report_has_the_table_and_what_was_never_billed(found):
    text = render(found)
    page = Page(text)
    assert "Reported, formula and measured" in page.text and "never billed" in page.text
    assert all(heading.strip() in page.text for heading in HEADINGS)
    rows = rows_beside(found)
    assert len(rows) == len(found.runs) and all(len(cells) == len(HEADINGS) for _, cells in rows)
    assert all(remark in page.text for remark in load_reported()[0].remarks)


def test_the_tables_are_the_reports(found, tmp_path):
    files = write_reported(found, tmp_path)
    with files[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.runs)
    for said, (_, cells) in zip(rows, rows_beside(found)):
        assert list(said.values()) == ["" if cell is None else str(cell) for cell in cells]
        (one,) = of(found, rtt_ms=float(said["rtt_ms"]), rate_mbps=float(said["rate_mbps"]))
        assert float(said["speedup_measured"]) == one.measured.speedup
    text = files[1].read_text()
    assert "& 20 & 50 & 8 &" in text and "2.22" in text and "never billed" in text


def test_a_report_over_other_runs_has_no_such_section(tmp_path):
    base_run(tmp_path / "base", requests=3)
    assert write_reported(collect([tmp_path]), tmp_path) == []
    assert "Reported, formula" not in Page(render(collect([tmp_path]))).text


def test_the_configuration_covers_the_published_grid():
    configs = Path(__file__).parents[2] / "experiments" / "configs"
    sweep = load_sweep(configs / "paper-dssd.yaml")
    settings = set()
    for point in sweep.points:
        link = point.config.link
        pace = point.config.edge_engine["pace"]
        assert link.up.rate_mbps == link.down.rate_mbps and pace in profile_names()
        for system in ("dsd", "dssd"):
            place = (link.base_rtt_ms, link.up.rate_mbps, point.config.draft_length)
            settings.add((Setting(system, pace, *place), point.config.sampling.top_k))
        acceptance = point.config.edge_engine["acceptance"]
        assert {one.acceptance for one in load_reported() if one.setting.pace == pace} == {acceptance}
    homogeneous = [one.setting for one in load_reported() if one.table == "table 2"]
    assert all((setting, top_k) in settings for setting in homogeneous for top_k in (10, 0))
    assert len(sweep.points) == 3 * 3 * 3 * 2 * 2
