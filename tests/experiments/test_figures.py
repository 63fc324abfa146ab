"""Figures and tables for papers: files that are what they claim, and numbers that are the report's."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from many_set import RTTS_MS, base_run, paper_runs, set_manifest, sweep_of_runs, threshold_runs
from report_run import SYSTEMS
from typer.testing import CliRunner

from experiments.cli import app
from experiments.collection import collect
from experiments.predict.reported import beside_reported
from experiments.report.papers import KINDS, WIDTHS_IN, Choice, FigureError, make_picture, write_headline, write_picture
from experiments.report.papers.places import LINK, SYSTEM, axes_of, choose, estimate

POINTS_PER_INCH = 72
PREDICTED = {"predicted_ms_per_token": "ms_per_token", "steady_ms_per_token": "ms_per_token_measured",
             "residual_pct": "residual_pct"}  # fmt: skip


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    return sweep_of_runs(tmp_path_factory.mktemp("many"))


@pytest.fixture(scope="module")
def found(sweep):
    return collect([sweep])


@pytest.fixture(scope="module")
def powered(tmp_path_factory):
    """Two runs with joules of both nodes and a threshold each, whose answers the target has judged."""
    root = tmp_path_factory.mktemp("powered")
    threshold_runs(root)
    return collect([root])


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    root = tmp_path_factory.mktemp("paper")
    paper_runs(root)
    return collect([root / "runs"])


def of_runs(kind, found, powered, published):
    if kind == "reported":
        return published
    return powered if kind in ("energy", "power", "energy-delay", "threshold", "unverified") else found


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def width_in(pdf):
    return float(re.search(rb"/MediaBox \[ ?\S+ \S+ (\S+)", pdf)[1]) / POINTS_PER_INCH


# The files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_four_files_that_are_what_they_claim(kind, found, powered, published, tmp_path):
    picture = make_picture(of_runs(kind, found, powered, published), kind, Choice())
    paths = {path.suffix: path for path in write_picture(picture, tmp_path, "single")}
    assert set(paths) == {".pdf", ".svg", ".csv", ".tex"} and all(path.is_file() for path in paths.values())
    pdf = paths[".pdf"].read_bytes()
    assert pdf.startswith(b"%PDF-") and pdf.rstrip().endswith(b"%%EOF")
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf, "fonts embedded as Type 42, which publishers ask for"
    assert width_in(pdf) == pytest.approx(WIDTHS_IN["single"], abs=0.01)
    svg = ElementTree.parse(paths[".svg"]).getroot()
    texts = {"".join(text.itertext()) for text in svg.iter("{http://www.w3.org/2000/svg}text")}
    assert set(picture.systems) <= texts, "text stays text, and every system is in the legend"
    drawn = {element.get("id") for element in svg.iter() if element.get("id")}
    assert {f"{line.role}:{line.system}" for line in picture.lines} <= drawn


def test_what_a_paper_reports_stands_beside_the_measurement(published, tmp_path):
    picture = make_picture(published, "reported", Choice())
    points = read_csv(write_picture(picture, tmp_path, "double")[2])
    assert [panel.title for panel in picture.panels] == ["dssd, opt-125m-6.7b@h800, no top-k"]
    beside = {o.setting.rate_mbps: o for row in published.rows for o in beside_reported(row, published.runs[row.run])
              if o.setting.rtt_ms == 20}  # fmt: skip
    for rate_mbps in (10.0, 50.0):
        said = {p["system"]: float(p["value"]) for p in points if p["at"] == f"20/{rate_mbps:g}/8"}
        one = beside[rate_mbps]
        expected = {"formula, paper's α": one.formula, "formula, run's parts": one.own_parts, "measured": one.measured}
        expected |= {"reported": one.billed} if rate_mbps == 50 else {}
        assert said == {name: account.speedup for name, account in expected.items()}
    assert any("never billed" in note for note in picture.notes)


def test_a_page_wide_and_the_same_file_every_time(found, tmp_path):
    picture = make_picture(found, "speedup", Choice(by="link.rtt_ms", panels="link.rate_mbps"))
    assert picture.columns == 2
    one, two = (write_picture(picture, tmp_path / name, "double") for name in "ab")
    for first, second in zip(one, two):
        assert first.read_bytes() == second.read_bytes()
    assert width_in(one[0].read_bytes()) == pytest.approx(WIDTHS_IN["double"], abs=0.01)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "reported"])
def test_the_csv_is_the_summary(kind, found, powered, published, tmp_path):
    """Every point that is one row's is that row's figure with its own interval; means lie among their rows."""
    collection = of_runs(kind, found, powered, published)
    picture = make_picture(collection, kind, Choice(by="threshold" if kind in ("threshold", "unverified") else None))
    points = read_csv(write_picture(picture, tmp_path, "single")[2])
    assert points and sum(int(point["runs"]) for point in points) >= len(picture.systems)
    metrics = {metric.figure: metric for metric in KINDS[kind].metrics}
    for point in (point for point in points if point["role"] != "critical"):
        metric = metrics[point["figure"]]
        place = [row for row in collection.rows if _text(_at(collection, row, point["axis"])) == point["at"]]
        mine = [row for row in place if point["system"] in (row.system, row.kind) and metric.value(row) is not None]
        values = [metric.value(row) for row in mine]
        assert len(mine) == int(point["runs"])
        assert min(values) - 1e-9 <= float(point["value"]) <= max(values) + 1e-9
        if len(mine) == 1:
            assert float(point["value"]) == values[0]
            ends = metric.interval(mine[0])
            assert [point["low"], point["high"]] == ([str(end) for end in ends] if ends else ["", ""])


def _text(value):
    return "" if value is None else str(value)


def _at(collection, row, axis):
    if axis == SYSTEM:
        return row.system
    assert axis != LINK
    return row.axes.get(axis)


def test_the_figures_behind_the_kinds_are_those_of_the_report(found):
    for row in found.rows:
        for name, metric in ((m.figure, m) for kind in KINDS.values() for m in kind.metrics):
            if name in PREDICTED:
                assert metric.value(row) == row.figures["predicted"].get(PREDICTED[name])
            elif name.startswith("critical_rtt_ms_"):
                rival = name.removeprefix("critical_rtt_ms_")
                assert metric.value(row) == (row.figures["predicted"].get("critical_rtt_ms") or {}).get(rival)
            elif name != "speedup_without_network" and not name.endswith("power_w"):
                assert metric.value(row) == row.figures[name]


def test_mean_power_is_joules_over_time(powered):
    watts = {m.figure: m for m in KINDS["power"].metrics}
    for row in powered.rows:
        seconds = row.figures["ms_per_token"] / 1e3
        joules = sum(watts[f"{node}_power_w"].value(row) * seconds for node in ("device", "edge"))
        assert joules == pytest.approx(row.figures["energy_j_per_token"])


# What is averaged, and what is said -----------------------------------------------------------------------------------


def test_what_is_averaged_over_is_said_and_a_place_of_ones_own_is_not(found):
    picture = make_picture(found, "latency", Choice(by="link.rtt_ms"))
    assert "means over link.rate_mbps (–, 5)" in picture.notes and "bars: range of runs" in picture.notes
    alone = make_picture(found, "latency", Choice(by="link.rtt_ms", where={"link.rate_mbps": "5"}))
    assert not [note for note in alone.notes if note.startswith("means")]
    assert "link.rate_mbps = 5" in alone.notes and "bars: 95 % bootstrap intervals" in alone.notes
    assert not [n for n in make_picture(found, "latency", Choice(panels="link.rate_mbps")).notes if "means" in n]
    marks = {mark.at: mark.y for mark in picture.lines[0].marks}
    assert list(marks) == list(RTTS_MS)
    for at, mean in marks.items():
        values = [r.figures["tpot_ms"] for r in found.rows
                  if r.system == picture.lines[0].system and r.axes["link.rtt_ms"] == at]  # fmt: skip
        assert (mean.low, mean.high) == (min(values), max(values))
        assert mean.value == pytest.approx((values[0] * values[1]) ** 0.5)


def test_from_five_runs_on_bars_are_intervals_of_their_mean(found):
    rows = [row for row in found.rows if row.system == "dssd"]
    assert len(rows) >= 5
    mean = estimate(rows, lambda row: row.figures["tpot_ms"], lambda row: None)
    values = [row.figures["tpot_ms"] for row in rows]
    assert mean.spread == "95 %" and min(values) < mean.low < mean.value < mean.high < max(values)


def test_what_was_paced_or_is_not_exact_is_said(found, powered):
    assert any("paced" in note and "toy" in note for note in make_picture(found, "speedup", Choice()).notes)
    assert any("not the target's own" in note for note in make_picture(found, "speedup", Choice()).notes)
    assert any("energy modelled" in note for note in make_picture(powered, "energy", Choice()).notes)


def test_the_axis_is_the_one_that_varies(found, powered):
    assert make_picture(found, "speedup", Choice()).by == "link.rtt_ms"
    assert make_picture(collect([found.runs[0].path]), "speedup", Choice()).by == SYSTEM
    assert make_picture(powered, "threshold", Choice()).by == "threshold"
    over = make_picture(powered, "latency", Choice(by="threshold")).lines
    assert [(line.system, [mark.at for mark in line.marks]) for line in over] == [("u_hlm", [0.05, 0.6])]
    lines = make_picture(powered, "threshold", Choice()).lines
    assert {(line.system, len(line.marks)) for line in lines} == {("u_hlm", 2), ("edge_ar", 1), ("dssd", 1)}


def test_the_formulas_lie_over_the_measured_points(found):
    picture = make_picture(found, "predicted", Choice(where={"link.rate_mbps": "5"}))
    formula, measured, residual = ({(line.system, m.at): m.y for p in picture.panels for line in p.lines
                                    if line.role == role for m in line.marks}
                                   for role in ("formula", "measured", "residual"))  # fmt: skip
    assert formula.keys() == measured.keys() == residual.keys() and len(formula) >= 3 * len(RTTS_MS)
    for place, value in residual.items():
        expected = 100 * (measured[place].value / formula[place].value - 1)
        assert value.value == pytest.approx(expected, abs=1e-3)
        assert measured[place].low <= measured[place].value <= measured[place].high
        assert value.low == pytest.approx(100 * (measured[place].low / formula[place].value - 1), abs=1e-3)


def test_the_critical_round_trip_stands_on_the_line_of_one(found):
    """Where the formulas have it, one tick a system; not where it is never, nor far beyond the axis."""
    critical_ms = {"dssd": 30.0, "dssd_sampled": -4.0, "colocated_sd": 5 * max(RTTS_MS)}
    runs = []
    for run in found.runs:
        systems = [
            {**f, "predicted": {**f["predicted"], "critical_rtt_ms": {"edge_ar": critical_ms.get(f["system"])}}}
            for f in run.summary["systems"]
        ]
        runs.append(replace(run, summary={**run.summary, "systems": systems}))
    picture = make_picture(replace(found, runs=runs), "speedup", Choice(by="link.rtt_ms"))
    (tick,) = [line for line in picture.lines if line.role == "critical"]
    (mark,) = tick.marks
    assert tick.system == "dssd" and mark.x.value == pytest.approx(30) and mark.y.value == 1
    assert mark.runs == len(found.runs) and any("the formulas see edge_ar as fast" in note for note in picture.notes)


# What cannot be drawn -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "choice", "said"),
    [
        ("speed", {}, ["no kind of figure speed", "speedup", "energy-delay"]),
        ("speedup", {"by": "rtt"}, ["no axis rtt", "link.rtt_ms", "link.rate_mbps"]),
        ("speedup", {"panels": "x.y"}, ["no axis x.y"]),
        ("speedup", {"where": {"link.rtt_ms": "21"}}, ["link.rtt_ms", "21", "0, 20, 60"]),
        ("speedup", {"systems": ["dsdd"]}, ["no system dsdd", "dssd_sampled"]),
        ("speedup", {"by": "link.rtt_ms", "panels": "link.rtt_ms"}, ["--panels", "another"]),
        ("energy", {}, ["no run has the joules"]),
        ("reported", {}, ["no run is at a setting that a paper", "paper-dssd.yaml"]),
        ("threshold", {}, ["no system of these runs has a threshold", "thresholds.yaml"]),
    ],
)  # fmt: skip
def test_what_is_not_there_is_an_error_that_names_what_is(found, kind, choice, said):
    with pytest.raises(FigureError) as error:
        make_picture(found, kind, Choice(**choice))
    assert all(part in str(error.value) for part in said), error.value


def test_an_unknown_width_names_those_there_are(found, tmp_path):
    with pytest.raises(FigureError, match="single, double"):
        write_picture(make_picture(found, "speedup", Choice()), tmp_path, "wide")


def test_links_and_systems_are_axes_too(found):
    axes = axes_of(found)
    assert axes[SYSTEM] == list(SYSTEMS) and len(axes[LINK]) == len(found.runs)
    assert axes[LINK][0] == "not shaped" and axes[LINK][-1] == "60 ms, 5 Mbit/s"
    assert len(choose(found, Choice(where={LINK: "60 ms, 5 Mbit/s"})).rows) == len(SYSTEMS)


# LaTeX ----------------------------------------------------------------------------------------------------------------


def test_tables_are_latex(found, powered, published, tmp_path):
    texts = []
    for kind in KINDS:
        collection = of_runs(kind, found, powered, published)
        texts.append(write_picture(make_picture(collection, kind, Choice()), tmp_path, "single")[3].read_text())
    texts.append(write_headline(found, tmp_path)[1].read_text())
    for text in texts:
        body = [line for line in text.splitlines() if not line.startswith("%")]
        for block in "\n".join(body).split("\\end{tabular}")[:-1]:
            columns = len(re.search(r"\\begin\{tabular\}\{(l[lr]*)\}", block)[1])
            rows = [line for line in block.splitlines() if line.endswith(r"\\")]
            assert len(rows) >= 2 and all(len(re.findall(r"(?<!\\)&", row)) == columns - 1 for row in rows)
        plain = re.sub(r"\$\\(alpha|gamma|infty|times)\$", "", "\n".join(body))
        assert not re.search(r"(?<!\\)[_#$%]", plain), "every special character escaped"
    if shutil.which("pdflatex") is None or subprocess.run(["kpsewhich", "booktabs.sty"], stdout=-3).returncode:
        pytest.skip("no pdflatex with booktabs on this machine: the structure was checked, not that it compiles")
    head = "\\documentclass{article}\n\\usepackage[landscape]{geometry}\\usepackage{booktabs}\\begin{document}\\tiny\n"
    (tmp_path / "all.tex").write_text(head + "\n\n".join(texts) + "\n\\end{document}\n", encoding="utf-8")
    argv = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_headline_table_is_the_pages(found, tmp_path):
    rows = read_csv(write_headline(found, tmp_path)[0])
    assert len(rows) == len(found.rows)
    for row, said in zip(found.rows, rows):
        assert said["system"] == row.system and float(said["tokens_per_s"]) == row.figures["tokens_per_s"]
        assert float(said["tokens_per_s_low"]) == row.figures["tokens_per_s_ci95"][0]
        assert said["link.rtt_ms"] == str(row.axes["link.rtt_ms"])


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command(sweep, tmp_path):
    argv = ["figure", "speedup", "--by", "link.rtt_ms", str(sweep), "--out", str(tmp_path), "--json"]
    done = CliRunner().invoke(app, argv)
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["by"] == "link.rtt_ms" and len(answer["files"]) == 4
    assert all(Path(file).is_file() for file in answer["files"])
    listed = CliRunner().invoke(app, ["figure", "--list", str(sweep)])
    assert listed.exit_code == 0 and all(kind in listed.stdout for kind in KINDS) and "link.rate_mbps" in listed.stdout
    assert CliRunner().invoke(app, ["figure", "--list"]).exit_code == 0
    wrong = CliRunner().invoke(app, ["figure", "speedup", "--by", "rtt", str(sweep)])
    assert wrong.exit_code == 1 and "link.rtt_ms" in wrong.output
    unsaid = CliRunner().invoke(app, ["figure", "speedup", str(sweep), "--where", "link.rtt_ms"])
    assert unsaid.exit_code == 1 and "AXIS=VALUE" in unsaid.output
    table = CliRunner().invoke(app, ["table", str(sweep), "--out", str(tmp_path)])
    assert table.exit_code == 0 and (tmp_path / "headline.tex").is_file()
    assert CliRunner().invoke(app, ["figure"]).exit_code == 1


def test_runs_of_several_machines_are_told_apart(tmp_path):
    for i, host in enumerate(("one", "two")):
        folder = base_run(tmp_path / f"run{i}", requests=5)
        set_manifest(folder.path, machine={"host": host, "cpu": "x"})
    picture = make_picture(collect([tmp_path]), "speedup", Choice())
    assert picture.by == "machine" and {mark.at for line in picture.lines for mark in line.marks} == {"one x", "two x"}
