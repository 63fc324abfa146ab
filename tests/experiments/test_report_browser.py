"""The page in a real browser: every plot drawn, nothing on the console, filters and dark paper at work."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import IN_A_BROWSER, open_page
from report_run import SYSTEMS, summary_of, toy_run

from experiments.report import write_report

pytestmark = IN_A_BROWSER
ACTIONS = {  # what a reader does once the page is drawn
    "nothing": "",
    "hide": "document.querySelectorAll('#filter input')[0].click();",
    "hide all": "document.querySelectorAll('#filter input').forEach((box) => box.click());",
    "dark": "document.getElementById('theme').click();",
    "sort": "document.querySelectorAll('.headline th button')[2].click();",
    "another request": """
        const system = document.getElementById('timeline-system');
        system.value = 'dssd_lookahead'; system.dispatchEvent(new Event('change'));
        const request = document.getElementById('timeline-request');
        request.value = 1; request.dispatchEvent(new Event('change'));""",
    "legend": """
        const item = document.querySelector('#plot-energy-delay .legendtoggle');
        const at = item.getBoundingClientRect();
        for (const kind of ['mousedown', 'mouseup']) item.dispatchEvent(
            new MouseEvent(kind, {bubbles: true, clientX: at.x + 5, clientY: at.y + 5}));""",
}
FINDINGS = """
      traces: Object.fromEntries(find("[data-drawn]:not(body)").map((plot) => [plot.id, plot.data.length])),
      rows: find(".headline tbody tr").filter((row) => !row.hidden).map((row) => row.dataset.system),
      axis: document.querySelector("#plot-tokens-per-s .xtick text")?.style.fill,
      timeline: document.getElementById("timeline-request").selectedOptions[0].textContent,
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    folder = toy_run(tmp_path_factory.mktemp("run"))
    return write_report(folder, summary_of(folder)).read_text(encoding="utf-8")


def look(text: str, tmp_path: Path, action: str = "nothing", width: int = 1300) -> dict:
    return open_page(text, tmp_path, ACTIONS[action], FINDINGS, width)


@pytest.mark.parametrize("width", [1300, 500])
def test_every_plot_is_drawn_and_nothing_is_wider_than_the_screen(text, tmp_path, width):
    seen = look(text, tmp_path, width=width)
    assert len(seen["traces"]) == 18 == seen["painted"]
    assert all(seen["traces"].values())
    assert seen["wider"] == 0
    assert seen["rows"] == list(SYSTEMS)


def test_a_hidden_system_is_hidden_everywhere(text, tmp_path):
    whole, without = look(text, tmp_path / "a"), look(text, tmp_path / "b", "hide")
    assert without["rows"] == list(SYSTEMS[1:])
    for plot in ("plot-tokens-per-s", "plot-latency-ttft", "plot-energy-delay"):
        assert without["traces"][plot] == whole["traces"][plot] - 1
    assert look(text, tmp_path / "c", "hide all")["rows"] == []


def test_a_click_in_a_legend_filters_the_page(text, tmp_path):
    assert look(text, tmp_path, "legend")["rows"] == list(SYSTEMS[1:])


def test_dark_paper_repaints_the_plots(text, tmp_path):
    light, dark = look(text, tmp_path / "a"), look(text, tmp_path / "b", "dark")
    assert light["text"] == light["axis"] != dark["axis"] == dark["text"]


def test_tables_sort(text, tmp_path):
    rows = look(text, tmp_path, "sort")["rows"]
    assert sorted(rows) == sorted(SYSTEMS) and rows != list(SYSTEMS)


def test_another_request_is_shown(text, tmp_path):
    assert look(text, tmp_path, "another request")["timeline"].startswith("dssd_lookahead/p1/")
