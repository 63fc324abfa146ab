"""The page over many runs in a real browser: every plot drawn, filters at work, nothing on the console."""

from __future__ import annotations

import json
import re
import subprocess
from html import unescape
from pathlib import Path

import pytest
from many_set import RATES_MBPS, RTTS_MS, sweep_of_runs, threshold_runs
from report_run import SYSTEMS
from test_report_browser import CHROMIUM, FLAGS, pytestmark  # noqa: F401  the same conditions

from experiments.collection import collect
from experiments.report.many.page import render

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
REPORTER = """
<script nonce="NONCE">
const done = setInterval(() => {
  if (document.body.dataset.drawn !== "all") return;
  clearInterval(done);
  ACTION
  setTimeout(() => {
    const find = (selector) => [...document.querySelectorAll(selector)];
    const place = document.createElement("pre");
    place.id = "result";
    place.textContent = JSON.stringify({
      errors: Number(document.body.dataset.errors),
      said: document.getElementById("errors").textContent,
      traces: Object.fromEntries(find("[data-drawn]:not(body)").map((plot) => [plot.id.slice(5), plot.data.length])),
      painted: find("[data-drawn]:not(body)").filter((plot) => plot.querySelector(".main-svg path")).length,
      absent: find("p.absent").filter((p) => !p.hidden).map((p) => p.id.slice(7)),
      columns: document.getElementById("plot-heat").data?.[0].x.length,
      title: document.getElementById("plot-curves").layout?.yaxis.title.text,
      rows: find(".headline tbody tr").filter((row) => !row.hidden).map((row) => row.firstChild.textContent),
      runs: find("details[data-runs]").filter((run) => !run.hidden).length,
      count: document.getElementById("count").textContent,
      wider: document.documentElement.scrollWidth - document.documentElement.clientWidth,
      text: getComputedStyle(document.body).color,
      axis: document.querySelector("#plot-curves .xtick text")?.style.fill,
    });
    document.body.append(place);
  }, 2500);
}, 50);
</script>
</body>
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    return render(collect([sweep_of_runs(tmp_path_factory.mktemp("many"))]), "many")


def look(text: str, tmp_path: Path, action: str = "nothing", width: int = 1300) -> dict:
    nonce = re.search(r'<script nonce="(\w+)">', text)
    assert nonce and CHROMIUM
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / "page.html"
    script = REPORTER.replace("NONCE", nonce[1]).replace("ACTION", ACTIONS[action])
    path.write_text(text.replace("</body>", script), encoding="utf-8")
    argv = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"]
    done = subprocess.run(
        [*argv, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=180, check=False
    )
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    result = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.S)
    assert result, f"the page was not drawn: {done.stderr[-2000:]}"
    seen = json.loads(unescape(result[1]))
    assert seen["errors"] == 0, seen["said"]
    return seen


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
    seen = look(render(collect([tmp_path / "runs"]), "thresholds"), tmp_path / "page")
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
