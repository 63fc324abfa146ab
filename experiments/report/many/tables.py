"""The page's tables. Every row says which runs it is about, which is what the filters go by."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from statistics import median
from typing import Any

from experiments.axes import value_text
from experiments.collection import Collection, Run, link_label
from experiments.report import html
from experiments.report.energy import OBTAINED
from experiments.report.many.winners import Condition
from experiments.report.predicted import CRITICAL
from experiments.table import LABELS, model_text

Cell = str | float | None
HEADLINE = {  # heading: figure
    "tokens/s": "tokens_per_s",
    "ms/token": "ms_per_token",
    "vs edge_ar": "speedup_over_edge_ar",
    "p": "speedup_p_value",
    "TTFT ms": "ttft_ms",
    "accept. length": "mean_acceptance_length",
    "up B/token": "bytes_up_per_token",
    "down B/token": "bytes_down_per_token",
    "network share": "network_share",
    "target calls /token": "target_calls_per_token",
    "J/token": "energy_j_per_token",
}
WITH_INTERVAL = ("tokens_per_s", "speedup_over_edge_ar", "energy_j_per_token")
INTERVAL = "95 %"


def table(headings: Sequence[str], rows: Iterable[tuple[Mapping[str, str], Sequence[Cell]]], kind: str = "") -> str:
    """Sortable; each row with its data-* attributes."""
    found = list(rows)
    texts = [any(isinstance(cells[i], str) for _, cells in found) for i in range(len(headings))]
    heads = "".join(
        f'<th{" class=text" if text else ""}><button type="button">{escape(heading)}</button></th>'
        for heading, text in zip(headings, texts)
    )
    lines = []
    for about, cells in found:
        marks = "".join(f' data-{key}="{escape(value)}"' for key, value in about.items())
        lines.append(f"<tr{marks}>{''.join(map(html.cell, cells, texts))}</tr>")
    return (
        f'<div class="scroll tall {kind}"><table><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>{chr(10).join(lines)}</tbody></table></div>"
    )


def headline(collection: Collection) -> str:
    """Every system of every run."""
    axes = list(collection.all_axes)
    figures = [
        part for name, key in HEADLINE.items() for part in ([name, INTERVAL] if key in WITH_INTERVAL else [name])
    ]
    siblings = any(row.figures.get("speedup_beside") for row in collection.rows)
    headings = ["system", "exact", "link", *axes, *figures, "energy", "requests", "run", "machine", "day"]
    headings += ["edge_ar of"] if siblings else []
    rows = []
    for i, row in enumerate(collection.rows):
        run = collection.runs[row.run]
        cells: list[Cell] = [row.system, "yes" if row.figures["exact"] else "no", _link_of(run)]
        cells += [_axis_cell(row.axes.get(axis)) for axis in axes]
        cells += _headline_cells(row.figures)
        cells += [row.figures["energy_status"], float(row.figures["requests"]), run.label]
        cells += [run.host or None, run.day or None]
        cells += [row.figures.get("speedup_beside")] if siblings else []
        rows.append(({"row": str(i)}, cells))
    return table(headings, rows, "headline")


def _headline_cells(figures: Mapping[str, Any]) -> Iterator[Cell]:
    for key in HEADLINE.values():
        if key in WITH_INTERVAL:
            yield figures.get(key)
            ends = figures.get(f"{key}_ci95")
            yield f"{html.number(ends[0])} to {html.number(ends[1])}" if ends else None
        else:
            yield figures.get(key)


def winners(found: Sequence[Condition]) -> str:
    """Per condition the best exact system and the best of all."""
    headings = ["link", "condition", "best exact", "ms/token", "second", "slower by %", "p", "best of all", "ms/token "]
    rows = []
    for condition in found:
        ranking, best = condition.ranking, condition.best
        first, second = [*ranking, None, None][:2]
        cells: list[Cell] = [condition.link, condition.rest or None, first]
        cells += [condition.ms_per_token[first] if first else None, second]
        cells += [condition.behind_pct(second) if second else None, condition.p_value]
        cells += [best if best != first else "the same", condition.ms_per_token[best]]
        rows.append(({"runs": _listed(condition.runs)}, cells))
    return table(headings, rows)


def distances(found: Sequence[Condition]) -> str:
    """Per system where it is the fastest exact one, and where it is faster than the edge alone."""
    headings = ["system", "exact", "conditions", "wins", "where it wins", "beats edge_ar", "where it beats edge_ar"]
    headings += ["least saved %", "most saved %", "closest to the winner %", "median %", "farthest %"]
    systems = list(dict.fromkeys(name for condition in found for name in condition.ms_per_token))
    rows = []
    for system in systems:
        mine = [condition for condition in found if system in condition.ms_per_token]
        behind = sorted(pct for condition in mine if (pct := condition.behind_pct(system)) is not None)
        saved = [(pct, condition) for condition in mine if (pct := condition.saved_pct(system)) is not None]
        won = [condition for condition in mine if condition.best_exact == system]
        sooner = [condition for pct, condition in saved if pct > 0]
        cells: list[Cell] = [system, "yes" if all(condition.exact[system] for condition in mine) else "no"]
        cells += [float(len(mine)), float(len(won)), _places(won, mine)]
        cells += [float(len(sooner)), _places(sooner, mine)] if saved else [None, None]
        cells += [min(pct for pct, _ in saved), max(pct for pct, _ in saved)] if saved else [None, None]
        cells += [behind[0], median(behind), behind[-1]] if behind else [None, None, None]
        rows.append(({"system": system}, cells))
    return table(headings, rows)


def _places(some: Sequence[Condition], of: Sequence[Condition]) -> str | None:
    if len(some) == len(of):
        return "everywhere"
    places = list(dict.fromkeys(condition.name for condition in some))
    return "; ".join(places[:5]) + (f" and {len(places) - 5} more" if len(places) > 5 else "") or None


def links(collection: Collection) -> str:
    """Declared, applied, observed, a row a run."""
    headings = [
        "run", "link", "backend", "RTT declared ms", "observed", "up Mbit/s declared", "applied", "observed ",
        "down Mbit/s declared", "applied ", "observed  ", "loss up/down declared %", "observed %", "problems",
    ]  # fmt: skip
    rows = []
    for i, run in enumerate(collection.runs):
        link = run.summary.get("link") or {}
        declared, applied, observed = (link.get(key) or {} for key in ("declared", "applied", "observed"))
        ways = [(declared.get(w) or {}, applied.get(w) or {}, observed.get(w) or {}) for w in ("up", "down")]
        rtt_ms = sum(float(one[0].get("delay_ms") or 0) for one in ways)
        cells: list[Cell] = [run.label, _link_of(run), str(link.get("backend") or "–"), rtt_ms]
        cells.append((observed.get("rtt_ms") or {}).get("median"))
        for one in ways:
            cells += [part.get("rate_mbps") for part in one]
        cells.append(" / ".join(f"{one[0].get('loss_pct') or 0:g}" for one in ways))
        cells.append(" / ".join("–" if (seen := one[2].get("loss_pct")) is None else f"{seen:g}" for one in ways))
        cells.append("; ".join(map(str, link.get("problems") or [])) or None)
        rows.append(({"runs": str(i)}, cells))
    return table(headings, rows)


def stands_for(collection: Collection) -> str:
    """What was paced, toy, estimated or modelled, a row a run."""
    headings = ["run", "device", "edge", "labels", "energy", "machine", "commit", "started"]
    rows = []
    for i, run in enumerate(collection.runs):
        systems = run.summary["systems"]
        statuses = dict.fromkeys(figures["energy_status"] for figures in systems)
        machine, software = run.manifest.get("machine") or {}, run.manifest.get("software") or {}
        git = software.get("git") or {}
        models = run.summary.get("models") or {}
        cells: list[Cell] = [run.label, *(_model(models.get(node)) for node in ("device", "edge"))]
        cells += [", ".join(run.summary["labels"]) or "measured as it ran", ", ".join(statuses)]
        cells += [f"{machine.get('cpu', '')} {machine.get('host', '')}".strip() or None]
        cells += [str(git.get("commit", ""))[:8] + ("*" if git.get("dirty") else "") or None]
        cells += [str(run.manifest.get("started") or "–")]
        rows.append(({"runs": str(i)}, cells))
    labels = {label for run in collection.runs for label in run.summary["labels"]}
    obtained = {figures["energy_status"] for run in collection.runs for figures in run.summary["systems"]}
    meaning = [f"{label}: {LABELS[label]}" for label in sorted(labels & LABELS.keys())]
    meaning += [f"energy {status}: {OBTAINED[status]}" for status in sorted(obtained & OBTAINED.keys())]
    return table(headings, rows) + html.listed([*meaning, "* beside a commit: files differed from it"])


def critical(collection: Collection) -> str:
    """The formulas' critical round trips, and whether the run kept to them."""
    headings = [
        "system", "link", *collection.all_axes, "formula ms/token", "measured", "residual %", "RTT declared ms",
        "critical RTT beside edge_ar", "formula says", "measured says", "critical RTT beside colocated_sd", "run",
    ]  # fmt: skip
    rows = []
    for i, row in enumerate(collection.rows):
        found = row.figures.get("predicted") or {}
        rtts = found.get("critical_rtt_ms") or {}
        if "edge_ar" not in rtts:
            continue
        run = collection.runs[row.run]
        declared = (run.summary.get("link") or {}).get("declared") or {}
        rtt_ms = sum(float((declared.get(way) or {}).get("delay_ms") or 0) for way in ("up", "down"))
        speedup = row.figures["speedup_over_edge_ar"]
        cells: list[Cell] = [row.system, _link_of(run)]
        cells += [_axis_cell(row.axes.get(axis)) for axis in collection.all_axes]
        cells += [found["ms_per_token"], found["ms_per_token_measured"], found["residual_pct"], rtt_ms, rtts["edge_ar"]]
        cells += ["faster" if rtt_ms < rtts["edge_ar"] else "slower"]
        cells += [None if speedup is None else "faster" if speedup > 1 else "slower"]
        cells += [rtts.get("colocated_sd"), run.label]
        rows.append(({"row": str(i)}, cells))
    return table(headings, rows) + f'<p class="note">{escape(CRITICAL)}</p>' if rows else ""


def each_run(collection: Collection) -> str:
    """Manifest, models and configuration of every run, folded."""
    parts = []
    for i, run in enumerate(collection.runs):
        config = (run.path / "config.yaml").read_text(encoding="utf-8", errors="replace")
        inner = f'<p class="note">{escape(str(run.path))}</p>'
        inner += html.folded("Configuration, resolved", html.preformatted(config))
        inner += html.folded("Manifest", html.preformatted(_json(run.manifest)))
        inner += html.folded("Models", html.preformatted(_json(run.summary.get("models") or {})))
        title = " · ".join(part for part in (run.label, _link_of(run), _place(run)) if part)
        parts.append(f'<details data-runs="{i}"><summary>{escape(title)}</summary>{inner}</details>')
    return "\n".join(parts)


def _place(run: Run) -> str:
    return ", ".join(f"{key} {value_text(value)}" for key, value in run.axes.items() if not key.startswith("link."))


def _link_of(run: Run) -> str:
    return link_label((run.summary.get("link") or {}).get("declared") or {})


def _axis_cell(value: Any) -> Cell:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return None if value is None else str(value)


def _model(model: Mapping[str, Any] | None) -> str:
    return model_text(model) if model else "–"


def _listed(runs: Sequence[int]) -> str:
    return " ".join(map(str, runs))


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, default=str)
