"""The parts of the page that are not plots: what ran, the headline, the link, events, samples, provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from experiments.report import html
from experiments.report.energy import OBTAINED
from experiments.report.link_rows import HEADINGS, link_rows
from experiments.report.palette import system_slots
from experiments.report.plot import Cell, Figures, Table
from experiments.store import RunFolder, StoreError
from experiments.table import COLUMNS, header_lines, link_text, note_lines
from nodes.records import RequestRecord
from nodes.runspec import read_runspec

SAMPLE_CHARACTERS = 4000
HEADLINE_KEYS = {  # the figure behind a column of the printed table, for sorting
    "tokens/s": "tokens_per_s",
    "vs edge_ar": "speedup_over_edge_ar",
    "TTFT ms": "ttft_ms",
    "accept. length": "mean_acceptance_length",
    "rounds /request": "rounds_per_request",
    "up /token": "bytes_up_per_token",
    "down /token": "bytes_down_per_token",
    "network % of time": "network_share",
    "J/token": "energy_j_per_token",
}


def title(summary: Mapping[str, Any]) -> str:
    return f"{summary['name']} · {summary['run_id']}"


def facts(summary: Mapping[str, Any]) -> str:
    """The console's header, and what the energy's status means."""
    lines = header_lines(summary)
    statuses = dict.fromkeys(figures["energy_status"] for figures in summary["systems"])
    lines += [f"energy: {status} ({OBTAINED[status]})" for status in statuses if status in OBTAINED]
    items = [f"<li>{escape(lines[0].removeprefix(title(summary)).removeprefix(' · '))}</li>"]
    for line in lines[1:]:
        head, colon, rest = line.partition(": ")
        items.append(f"<li><b>{escape(head)}</b>: {escape(rest)}</li>" if colon else f"<li>{escape(line)}</li>")
    return "\n".join(items)


def filter_boxes(systems: Sequence[Figures]) -> str:
    slots = system_slots([figures["system"] for figures in systems])
    boxes = []
    for figures in systems:
        name = escape(figures["system"])
        swatch = "swatch" if figures["exact"] else "swatch inexact"
        exact = "exact" if figures["exact"] else "not exact"
        boxes.append(
            f'<label title="{escape(figures["title"])} ({exact})"><input type="checkbox" value="{name}" checked>'
            f'<span class="{swatch}" style="--colour: var(--system-{slots[figures["system"]]})"></span>{name}</label>'
        )
    return "\n".join(boxes)


def headline(summary: Mapping[str, Any]) -> str:
    """The console's table, sortable, and its notes."""
    systems = summary["systems"]
    headings = [column.heading.replace("\n", " ") for column in COLUMNS]
    heads = "".join(
        f'<th{_class(column.left)}><button type="button">{escape(heading)}</button></th>'
        for column, heading in zip(COLUMNS, headings)
    )
    rows = []
    for figures in systems:
        cells = []
        for column, heading in zip(COLUMNS, headings):
            key = HEADLINE_KEYS.get(heading)
            value = figures.get(key) if key else None
            order = f' data-value="{"" if value is None else value}"' if key else ""
            cells.append(f"<td{_class(column.left)}{order}>{escape(column.show(figures))}</td>")
        kind = "" if figures["exact"] else ' class="inexact"'
        rows.append(f'<tr{kind} data-system="{escape(figures["system"])}">{"".join(cells)}</tr>')
    table = f"<table><thead><tr>{heads}</tr></thead>\n<tbody>{chr(10).join(rows)}</tbody></table>"
    return f'<div class="scroll headline">{table}</div>\n{html.listed(note_lines(summary))}'


def _class(left: bool) -> str:
    return ' class="text"' if left else ""


def link(summary: Mapping[str, Any]) -> str:
    """Declared, applied and observed, each way."""
    found = summary["link"]
    rows = link_rows(found)
    parts = [f"<p>{escape(link_text(found))}</p>"] if found else ["<p>The run did not get as far as its link.</p>"]
    if rows:
        parts.append(html.table(Table(HEADINGS, rows)))
    parts += [f'<p class="warn">{escape(problem)}</p>' for problem in found.get("problems") or []]
    parts.append(html.listed(f"not checked: {line}" for line in found.get("skipped") or []))
    rest = {key: found[key] for key in ("backend", "tcp", "router", "counters") if found.get(key)}
    if rest:
        parts.append(html.folded("TCP settings, router, counters", html.preformatted(_json(rest))))
    return html.section("Link", parts)


def events(summary: Mapping[str, Any], requests: Sequence[RequestRecord]) -> str:
    """What did not go smoothly: restarts, retries, failures, damaged lines."""
    zero_ns = min((request.start_ns for request in requests), default=0)
    rows: list[list[Cell]] = []
    for event in summary["events"]:
        t_s = (event["t_ns"] - zero_ns) / 1e9 if event.get("t_ns") and zero_ns else None
        details = {key: value for key, value in event.items() if key not in ("event", "t_ns")}
        rows.append([str(event.get("event", "event")), t_s, ", ".join(f"{k} {v}" for k, v in details.items())])
    for request in requests:
        troubles = [f"{n} {what}" for n, what in ((request.retries, "retries"), (request.resumed, "resumed")) if n]
        troubles += [f"failed: {request.error}"] if request.error else []
        if troubles:
            t_s = (request.start_ns - zero_ns) / 1e9
            rows.append([f"request {request.request_id}", t_s, ", ".join(troubles)])
    inner = html.table(Table(["event", "s since the first request", "details"], rows)) if rows else "<p>None.</p>"
    return html.section("Events", [inner])


def samples(folder: RunFolder, systems: Sequence[Figures], requests: Sequence[RequestRecord]) -> str:
    """The first prompt, and what each system made of it."""
    if not requests:
        return ""
    first = requests[0]
    try:
        prompts = {prompt.id: prompt.text for prompt in read_runspec(folder.path / "run.json").prompts}
    except (OSError, ValueError):
        prompts = {}
    texts: dict[str, str] = {}
    for request in requests:
        if (request.prompt_id, request.repeat) == (first.prompt_id, first.repeat):
            texts.setdefault(request.system, request.text)
    parts = [f"<h3>Prompt {escape(first.prompt_id)}</h3>"]
    parts += [html.preformatted(prompts[first.prompt_id][-SAMPLE_CHARACTERS:], "output")] if prompts else []
    for figures in systems:
        name = figures["system"]
        if name in texts:
            same = [other for other in texts if other != name and texts[other] == texts[name]]
            alike = f" · same text as {', '.join(same)}" if same else ""
            heading = f"{name} · {'exact' if figures['exact'] else 'not exact'}{alike}"
            parts.append(html.folded(heading, html.preformatted(texts[name][:SAMPLE_CHARACTERS], "output")))
    return html.section("Sample outputs", parts)


def provenance(folder: RunFolder, summary: Mapping[str, Any]) -> str:
    """On what, with what: the manifest, the models, the whole configuration."""
    try:
        manifest = html.preformatted(_json(folder.manifest()))
    except StoreError as error:
        manifest = f'<p class="warn">{escape(str(error))}</p>'
    config = (folder.path / "config.yaml").read_text(encoding="utf-8", errors="replace")
    parts = [html.folded("Manifest: versions, machine, clocks, link", manifest)]
    if summary.get("models"):
        parts.append(html.folded("Models", html.preformatted(_json(summary["models"]))))
    parts.append(html.folded("Configuration, resolved", html.preformatted(config)))
    return html.section("How it was made", parts)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, default=str)
