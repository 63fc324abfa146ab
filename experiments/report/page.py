"""The page: plots, sections and script put together in one file that asks nothing of the network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from experiments.report import html, sections
from experiments.report.course import CLOCKS, applied_courses, course_plot
from experiments.report.data import RunData, read_run
from experiments.report.energy import energy_by_phase, energy_delay, j_per_token_by_phase
from experiments.report.palette import css
from experiments.report.plot import Plot
from experiments.report.predicted import predicted
from experiments.report.requests import each_request
from experiments.report.rounds import acceptance, acceptance_by_length, round_parts
from experiments.report.speed import latencies, tokens_per_s
from experiments.report.tcp import tcp_lines, tcp_plots
from experiments.report.timeline import pickers, timeline_plot, timelines
from experiments.report.traffic import bytes_per_token
from experiments.store import RunFolder, replacing

NO_PLOTLY = "Plots need plotly (pip install plotly). Every figure has its table."


def write_report(folder: RunFolder, summary: Mapping[str, Any]) -> Path:
    """Write the run's report.html and return its path. `summary` is that of experiments/summary.py."""
    path = folder.path / "report.html"
    with replacing(path) as temporary:
        temporary.write_text(render(folder, summary), encoding="utf-8")
    return path


def render(folder: RunFolder, summary: Mapping[str, Any]) -> str:
    """The whole page as text."""
    run = read_run(folder, summary)
    offered = timelines(run)
    families = {
        "Speed": [
            tokens_per_s(run.systems, run.style),
            each_request(run.systems, run.requests, run.style, summary["outlier_rule"]),
            round_parts(run.systems, run.style),
            predicted(run.systems, run.style),
        ],
        "Latency and drafts": [
            *latencies(run.systems, run.requests, run.style),
            acceptance(run.systems, run.style),
            acceptance_by_length(run.systems, run.style),
        ],
        "Bytes": bytes_per_token(run.systems, run.style),
        "TCP": tcp_plots(tcp_lines(run.tcp, run.one_clock), _first_ns(run), run.style),
        "Energy": _energy(run),
    }
    if course := applied_courses(folder.path, summary["run_id"], _first_ns(run)):
        families["Link"] = [course_plot(course, CLOCKS[summary["link"]["declared"]["clock"]])]
    plots = [plot for family in families.values() for plot in family]
    timeline = timeline_plot(run, offered)
    body = [
        html.section("Results", [sections.headline(summary)]),
        *(html.section(title, [_grid(family)]) for title, family in families.items()),
        html.section("Over time", [f'<div class="plots">{html.figure(timeline, pickers(offered))}</div>']),
        sections.link(summary),
        sections.events(summary, folder.requests().records),
        sections.samples(folder, run.systems, run.requests),
        sections.provenance(folder, summary),
    ]
    plotly_js = plotly()
    if not plotly_js:
        body.insert(0, f'<p class="warn">{escape(NO_PLOTLY)}</p>')
    data = html.embedded_json(
        {
            "systems": [figures["system"] for figures in run.systems],
            "plots": [plot.spec() for plot in plots],
            "timelines": None if timeline.reason else offered,
        }
    )
    template = Template(part("page.html"))
    return template.substitute(
        title=escape(sections.title(summary)),
        nonce=hashlib.sha256(data.encode()).hexdigest()[:24],  # unknown to whoever wrote a prompt
        style=css() + part("page.css"),
        facts=sections.facts(summary),
        filter=sections.filter_boxes(run.systems),
        main="\n".join(body),
        data=data,
        plotly=plotly_js,
        script=part("shared.js") + part("page.js"),
    )


def _first_ns(run: RunData) -> int:
    return min((request.start_ns for request in run.requests), default=0)


def _grid(plots: Sequence[Plot]) -> str:
    return f'<div class="plots">{"".join(html.figure(plot) for plot in plots)}</div>'


def _energy(run: RunData) -> list[Plot]:
    per_token = j_per_token_by_phase(run.requests, run.rounds, run.power, run.one_clock)
    return [energy_delay(run.systems, run.style), energy_by_phase(run.systems, per_token, run.style)]


def part(name: str) -> str:
    return files("experiments.report").joinpath(name).read_text(encoding="utf-8")


def plotly() -> str:
    """plotly.js as shipped with the Python package; empty where that is not installed."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        return ""
    return get_plotlyjs().replace("</script", "<\\/script")
