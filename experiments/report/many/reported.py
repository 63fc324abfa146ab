"""Reported, formula and measured side by side, for runs at a setting that a paper has numbers for."""

from __future__ import annotations

from html import escape

from experiments.collection import Collection
from experiments.predict.reported import Beside, beside_reported, load_reported
from experiments.report import html
from experiments.report.plot import Cell

HEADINGS = (
    "system", "models", "NTT ms", "Mbit/s", "γ", "top-k", "source",
    "speedup reported", "formula, paper's α", "formula, run's parts", "measured",
    "T_comm s reported", "formula, paper's α ", "never billed s", "formula, run's parts ", "measured ",
    "α paper", "α run", "rounds, paper's α", "rounds measured", "run",
)  # fmt: skip
NOTE = (
    "Speedups are over the target's own time per token, no network in it, as the papers have them; T_comm is for as "
    "many tokens as the paper generated. Formula, paper's α: its equations with its own acceptance and forward times. "
    "Formula, run's parts: with acceptance, times and bytes as this run measured them. Never billed: the part of the "
    "formula that the paper's own numbers leave out."
)


def rows_beside(collection: Collection) -> list[tuple[int, list[Cell]]]:
    """(row of the collection, cells under HEADINGS), in the order of settings."""
    found: list[tuple[int, Beside, str]] = []
    for i, row in enumerate(collection.rows):
        run = collection.runs[row.run]
        found += [(i, one, run.label) for one in beside_reported(row, run)]
    found.sort(key=lambda one: (one[1].top_k == 0, one[1].setting.pace, one[1].setting.system, one[1].setting))
    return [(i, _cells(collection.rows[i].system, one, label)) for i, one, label in found]


def _cells(system: str, one: Beside, run: str) -> list[Cell]:
    setting = one.setting
    speedups = [account.speedup for account in (one.billed, one.formula, one.own_parts, one.measured)]
    never_billed = one.never_billed_s or None
    return [
        system, setting.pace, setting.rtt_ms, setting.rate_mbps, float(setting.draft_length),
        float(one.top_k) if one.top_k else "none", one.table, *speedups,
        one.billed.comm_s, one.formula.comm_s, never_billed, one.own_parts.comm_s, one.measured.comm_s,
        one.acceptance, one.acceptance_measured, one.formula.rounds, one.measured.rounds, run,
    ]  # fmt: skip


def remarks(collection: Collection) -> list[str]:
    """What has to be known about the papers whose numbers are beside these runs."""
    papers = {one.paper for row in collection.rows for one in beside_reported(row, collection.runs[row.run])}
    known = {one.paper: one.remarks for one in load_reported() if one.paper in papers}
    return [line for paper, lines in known.items() for line in (f"Reported: {paper}.", *lines)]


def reported(collection: Collection) -> str:
    """The section's inside; empty where no run is at a published setting."""
    from experiments.report.many.tables import table

    rows = rows_beside(collection)
    if not rows:
        return ""
    body = table(HEADINGS, [({"row": str(i)}, cells) for i, cells in rows])
    return f'<p class="note">{escape(NOTE)}</p>{body}{html.listed(remarks(collection))}'
