"""The page over many runs in a real browser: every plot drawn, filters at work, nothing on the console."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import IN_A_BROWSER, open_page
from many_set import RATES_MBPS, RTTS_MS, sweep_of_runs, threshold_runs
from report_run import SYSTEMS

from experiments.collection import collect
from experiments.report.many.page import render

pytestmark = IN_A_BROWSER
RUNS = len(RTTS_MS) * len(RATES_MBPS)
# Of toy runs without joules, judged answers or thresholds:
DRAWN = {"heat", "curves", "predicted", "anatomy", "positions", "lengths", "bytes", "latency"}
PLOTS = DRAWN | {"energy", "quality-calls", "quality-time", "unverified-calls", "unverified-time"}
CHANGE = "el.dispatchEvent(new Event('change'));"
ACTIONS = {
    "nothing": "",
    "hide a system": "document.querySelectorAll('#filter input')[3].click();",
    "hide a condition": "document.querySelector('#axes input[data-axis=\"link.rtt_ms\"]').click();",
    "hide all": "document.querySelectorAll('#axes input[data-axis=\"link.rtt_ms\"]').forEach((box) => box.click());",
    "dark": "document.getElementById('theme').click();",
    "another metric": f"const el = document.getElementById('curves-metric'); el.value = 'ttft_ms'; {CHANGE}",
    "every metric": f"""const el = document.getElementById('curves-metric');
        const over = document.getElementById('curves-axis');
        for (const axis of over.options) for (const metric of el.options) {{
          over.value = axis.value; el.value = metric.value; {CHANGE} }}""",
    "sort": "document.querySelectorAll('.headline th button')[0].click();",
}
FINDINGS = """
      absent: find("p.absent").filter((p) => !p.hidden).map((p) => p.id.slice(7)),
      columns: document.getElementById("plot-heat").data?.[0].x.length,
      title: document.getElementById("plot-curves").layout?.yaxis.title.text,
      rows: find(".headline tbody tr").filter((row) => !row.hidden).map((row) => row.firstChild.textContent),
      runs: find("details[data-runs]").filter((run) => !run.hidden).length,
      count: document.getElementById("count").textContent,
      axis: document.querySelector("#plot-curves .xtick text")?.style.fill,
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    return render(collect([sweep_of_runs(tmp_path_factory.mktemp("many"))]))


def look(text: str, tmp_path: Path, action: str = "nothing", width: int = 1300) -> dict:
    return open_page(text, tmp_path, ACTIONS[action], FINDINGS, width)


@pytest.mark.parametrize("width", [1300, 500])
def test_every_plot_is_drawn_or_says_why_not_and_nothing_is_wider_than_the_screen(text, tmp_path, width):
    seen = look(text, tmp_path, width=width)
    assert set(seen["traces"]) >= DRAWN and seen["painted"] == len(seen["traces"])
    assert set(seen["traces"]) | set(seen["absent"]) == PLOTS
    assert seen["wider"] == 0 and seen["columns"] == RUNS
    assert len(seen["rows"]) == RUNS * len(SYSTEMS)


def test_thresholds_and_joules_are_drawn(tmp_path):
    """Whatever the other set has nothing for."""
    threshold_runs(tmp_path / "runs")
    seen = look(render(collect([tmp_path / "runs"])), tmp_path / "page")
    assert set(seen["traces"]) == PLOTS and seen["painted"] == len(PLOTS) and not seen["absent"]
    for name in PLOTS - DRAWN:  # u_hlm's line or points, edge_ar's, dssd's, and of the energy the Pareto front
        assert seen["traces"][name] == 3 + (name == "energy"), name


def test_a_hidden_system_is_hidden_everywhere(text, tmp_path):
    whole, without = look(text, tmp_path / "a"), look(text, tmp_path / "b", "hide a system")
    assert set(without["rows"]) == set(SYSTEMS) - {SYSTEMS[3]}
    assert without["traces"]["curves"] < whole["traces"]["curves"]
    assert without["traces"]["predicted"] < whole["traces"]["predicted"]


def test_a_hidden_condition_is_hidden_everywhere(text, tmp_path):
    seen = look(text, tmp_path, "hide a condition")
    left = RUNS - len(RATES_MBPS)
    assert seen["runs"] == left and seen["columns"] == left and len(seen["rows"]) == left * len(SYSTEMS)
    assert seen["count"].startswith(f"{left} of {RUNS} runs")


def test_with_everything_hidden_every_plot_says_so(text, tmp_path):
    seen = look(text, tmp_path, "hide all")
    assert seen["rows"] == [] and seen["traces"] == {} and set(seen["absent"]) == PLOTS


def test_another_metric_is_drawn(text, tmp_path):
    assert look(text, tmp_path, "another metric")["title"] == "TTFT (ms)"


def test_any_metric_over_any_axis(text, tmp_path):
    look(text, tmp_path, "every metric")


def test_dark_paper_repaints_the_plots(text, tmp_path):
    light, dark = look(text, tmp_path / "a"), look(text, tmp_path / "b", "dark")
    assert light["text"] == light["axis"] != dark["axis"] == dark["text"]


def test_the_headline_sorts(text, tmp_path):
    rows = look(text, tmp_path, "sort")["rows"]
    assert rows == sorted(rows, reverse=True)
