"""The page over many runs: its tables made here, its plots drawn by many.js, so that filters reach them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from experiments.axes import value_text
from experiments.collection import Collection, Row, collect, link_label, link_size
from experiments.report import html
from experiments.report.many import tables
from experiments.report.many.reported import reported
from experiments.report.many.winners import conditions
from experiments.report.page import NO_PLOTLY, part, plotly
from experiments.report.palette import PARTS, css
from experiments.report.plot import Style
from experiments.report.rounds import parts_of
from experiments.report.sections import filter_boxes
from experiments.store import replacing

LINK = "link"
METRICS = {  # figure: what it is called; the first is shown first
    "speedup_over_edge_ar": "speedup over edge_ar",
    "tokens_per_s": "tokens/s",
    "ms_per_token": "ms per token",
    "ttft_ms": "TTFT (ms)",
    "ttft_ms_p90": "TTFT, p90 (ms)",
    "tpot_ms": "TPOT (ms)",
    "itl_ms_p50": "ITL, p50 (ms)",
    "itl_ms_p90": "ITL, p90 (ms)",
    "itl_ms_p99": "ITL, p99 (ms)",
    "e2e_ms": "a request (ms)",
    "mean_acceptance_length": "acceptance length",
    "draft_acceptance_rate": "accepted / proposed",
    "acceptance_rate_tested": "accepted / tested",
    "rounds_per_request": "rounds per request",
    "bytes_up_per_token": "bytes up per token",
    "bytes_down_per_token": "bytes down per token",
    "link_bytes_up_per_token": "interface bytes up per token",
    "link_bytes_down_per_token": "interface bytes down per token",
    "network_share": "share of time on the network",
    "target_calls_per_token": "calls of the target per token",
    "unverified_share": "share of unverified tokens",
    "target_logprob_per_token": "log-likelihood per token under the target",
    "energy_j_per_token": "energy per token (J)",
    "energy_device_j_per_token": "device energy per token (J)",
    "energy_edge_j_per_token": "edge energy per token (J)",
}
PREDICTED = {  # figure, by where it is found in `predicted`
    "predicted_ms_per_token": "ms_per_token",
    "steady_ms_per_token": "ms_per_token_measured",
    "residual_pct": "residual_pct",
    "predicted_round_ms": "round_ms",
    "steady_round_ms": "round_ms_measured",
    "round_residual_pct": "round_residual_pct",
}
MANY_NAMES = 4  # of experiments: no title any more
NOT_A_METRIC = {"requests", "failed_requests", "output_tokens", "discarded_tokens", "retries", "resumed"}


def write_sweep_report(folder: Path) -> Path:
    """Write `report.html` over all complete runs below `folder`, and return its path. Raises StoreError without any."""
    path = Path(folder) / "report.html"
    write_many_report(collect([Path(folder)]), path)
    return path


def write_many_report(collection: Collection, path: Path) -> None:
    text = render(collection)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def render(collection: Collection) -> str:
    """The whole page as text."""
    systems = _systems(collection.rows)
    found = conditions(collection)
    body = [
        _axis_filter(collection),
        html.section("Results", [tables.headline(collection)]),
        html.section(
            "Speedup over the edge alone",
            [
                _figure("heat", "Systems across links", HEAT, ("axis",)),
                _figure("curves", "Any figure over any axis", CURVES, ("metric", "axis")),
            ],
        ),
        html.section("Which system wins where", [
            f'<p class="note">{WINNERS}</p>',
            tables.winners(found), tables.distances(found),
        ]),
        html.section("Rounds, drafts, bytes, latency", [_rounds(collection)]),
        html.section("Quality against calls of the target", [_quality()]),
        html.section("Energy against delay", [_figure("energy", "Every system of every run", ENERGY)]),
        html.section("Predicted against measured", [
            _figure("predicted", "The formulas over the measured points", PREDICTION, ("of", "axis")),
            html.folded("Critical round trips, predicted and measured", tables.critical(collection) or "<p>None.</p>"),
        ]),
        *_beside_papers(collection),
        html.section("Links: declared, applied, observed", [tables.links(collection)]),
        html.section("What stood for what", [tables.stands_for(collection)]),
        html.section("Every run: configuration, manifest, models", [tables.each_run(collection)]),
    ]  # fmt: skip
    if collection.left_out:
        body.insert(1, f'<p class="warn">Left out:</p>{html.listed(collection.left_out)}')
    script = plotly()
    if not script:
        body.insert(0, f'<p class="warn">{escape(NO_PLOTLY)}</p>')
    data = html.embedded_json(page_data(collection, systems))
    machines = {run.host for run in collection.runs}
    started = sorted(run.day for run in collection.runs)
    names = sorted({str(run.summary["name"]) for run in collection.runs})
    facts = [
        f"{len(collection.runs)} runs, {len(systems)} systems, {len(collection.rows)} rows",
        f"{len(machines)} machine{'s' * (len(machines) != 1)} ({', '.join(sorted(machines))}), {_days(started)}",
        "differing in: " + (", ".join(collection.all_axes) or "nothing"),
    ]
    return Template(part("page.html")).substitute(
        title=escape(", ".join(names) if len(names) <= MANY_NAMES else f"{len(names)} experiments"),
        nonce=hashlib.sha256(data.encode()).hexdigest()[:24],  # unknown to whoever wrote a prompt
        style=css() + part("page.css"),
        facts="\n".join(f"<li>{escape(fact)}</li>" for fact in facts),
        filter=filter_boxes(systems),
        main="\n".join(body),
        data=data,
        plotly=script,
        script=part("shared.js") + part("many_rounds.js") + part("many.js"),
    )


WINNERS = (
    "By ms per token of whole requests. A system wins where no exact one is faster. p: how often two systems that are "
    "alike would differ so much on these prompts. Over all runs of a condition: the filters hide rows, they do not "
    "change them."
)
HEAT = (
    "How many times the edge's tokens per second over the same link; geometric means over the runs shown. Blue: faster "
    "than the edge alone, orange: slower."
)
CURVES = (
    "Lines go through the geometric means of the runs shown at each value (plain means where not all are positive); "
    "dots are single runs, bars 95 % intervals. Marks on the line of 1: where the formulas put the critical round trip."
)
ENERGY = (
    "Both nodes from a request's start to its end; lower left is better, and nothing that is shown is both "
    "quicker and thriftier than what is ringed, the Pareto front. How joules were obtained is in the labels."
)
PREDICTION = (
    "Circles measured, dashed lines and diamonds the formula with the run's own parts; below, how far the measurement "
    "is from it. Each request's first round is left out."
)
ROUNDS = {  # plot: title, caption
    "anatomy": ("Time per round", "Means over the runs shown; the parts add up to the round."),
    "positions": ("Acceptance by position", "How often the i-th drafted token was kept, of the rounds that had one."),
    "lengths": (
        "Acceptance by draft length",
        "Tokens kept by how many were drafted; the one that follows not counted.",
    ),
    "bytes": ("Bytes per token", "Counted three ways; geometric means over the runs shown."),
    "latency": ("Latency", "Percentiles of each run, as geometric means over the runs shown."),
}
QUALITY = {  # plot: title, horizontal, vertical
    "quality-calls": ("Likelihood against calls", "target_calls_per_token", "target_logprob_per_token"),
    "quality-time": ("Likelihood against time", "ms_per_token", "target_logprob_per_token"),
    "unverified-calls": ("Unverified tokens against calls", "target_calls_per_token", "unverified_share"),
    "unverified-time": ("Unverified tokens against time", "ms_per_token", "unverified_share"),
}
QUALITY_NOTE = (
    "A line a system, a point a threshold (p_t, u_th, c_th, a router's); crosses are systems without one. The edge "
    "alone calls the target once a token. Under sampling an exact system's likelihood is what the target's own output "
    "gets: below it quality was lost, above it the draft is sharper than its target, which is no merit."
)


def page_data(collection: Collection, systems: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What many.js draws from: columns over rows, axes as numbers of values."""
    rows, style = collection.rows, Style(systems)
    axes = {key: list(values) for key, values in collection.all_axes.items()}
    links = [link_label((run.summary.get("link") or {}).get("declared") or {}) for run in collection.runs]
    axes[LINK] = list(dict.fromkeys(link for _, link in sorted(_by_size(collection, links))))
    at = {key: {value: i for i, value in enumerate(values)} for key, values in axes.items()}
    metrics = _metrics(rows)
    columns = {key: [_number(row, key) for row in rows] for key in [*metrics, *PREDICTED]}
    return {
        "systems": [figures["system"] for figures in systems],
        "style": {
            f["system"]: {
                "colour": style.colour(f["system"]), "symbol": style.symbol(f["system"]), "exact": f["exact"],
            }
            for f in systems
        },
        "parts": {part: PARTS[part][0] for part in _parts(collection)},
        "runs": [run.label for run in collection.runs],
        "axes": {key: {"values": values, "texts": [value_text(v) for v in values]} for key, values in axes.items()},
        "run_axes": list(collection.axes),
        "metrics": metrics,
        "quality": {name: list(spec[1:]) for name, spec in QUALITY.items()},
        "rows": {
            "run": [row.run for row in rows],
            "system": [row.system for row in rows],
            "kind": [row.kind for row in rows],
            "energy_status": [row.figures["energy_status"] for row in rows],
            "critical": [_critical_ms(row) for row in rows],
            "parts": [_rounded(row.figures["parts_ms"]) for row in rows],
            "positions": [list(_positions(row)) for row in rows],
            "lengths": [_lengths(row) for row in rows],
            "axes": {
                key: [at[key].get(links[row.run] if key == LINK else row.axes.get(key), -1) for row in rows]
                for key in axes
            },
            "intervals": {
                key: [row.figures.get(f"{key}_ci95") for row in rows]
                for key in metrics
                if any(row.figures.get(f"{key}_ci95") for row in rows)
            },
            "figures": columns,
        },
    }  # fmt: skip


def _by_size(collection: Collection, links: Sequence[str]) -> list[tuple[tuple[float, float], str]]:
    """Links with their round trip and how slow they are."""
    declared = [(run.summary.get("link") or {}).get("declared") or {} for run in collection.runs]
    return [(link_size(one), link) for one, link in zip(declared, links)]


def _metrics(rows: Sequence[Row]) -> dict[str, str]:
    """Every number that some row has; those with a name of their own first."""
    found = {key for row in rows for key, value in row.figures.items() if isinstance(value, int | float)}
    found -= {key for row in rows for key, value in row.figures.items() if isinstance(value, bool)} | NOT_A_METRIC
    named = {key: name for key, name in METRICS.items() if key in found}
    return {**named, **{key: key for key in sorted(found - named.keys())}}


def _number(row: Row, key: str) -> float | None:
    value = (row.figures.get("predicted") or {}).get(PREDICTED[key]) if key in PREDICTED else row.figures.get(key)
    return float(f"{value:.5g}") if isinstance(value, int | float) else None


def _critical_ms(row: Row) -> float | None:
    return ((row.figures.get("predicted") or {}).get("critical_rtt_ms") or {}).get("edge_ar")


def _systems(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One of each name; exact where all of that name are."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        mine = found.setdefault(row.system, {"system": row.system, "title": row.figures["title"], "exact": True})
        mine["exact"] = mine["exact"] and row.figures["exact"]
    return list(found.values())


def _axis_filter(collection: Collection) -> str:
    """A box for every value of every axis."""
    fields = []
    for key, values in collection.all_axes.items():
        boxes = "".join(
            f'<label><input type="checkbox" data-axis="{escape(key)}" value="{i}" checked>'
            f"{escape(value_text(value))}</label>"
            for i, value in enumerate(values)
        )
        fields.append(f"<fieldset><legend>{escape(key)}</legend>{boxes}</fieldset>")
    count = '<p class="note" id="count" role="status"></p>'
    if not fields:
        return f'<div id="axes">{count}</div>'
    return (
        f'<details id="axes" open><summary>Filter by condition</summary><div>{"".join(fields)}</div>{count}</details>'
    )


def _figure(
    name: str, title: str, caption: str, selects: Sequence[str] = (), wide: bool = True, legend: str = ""
) -> str:
    """A plot's place; its selects are filled by the script."""
    picks = "".join(
        f'<label>{escape(what)} <select id="{name}-{what}" aria-label="{escape(f"{title}: {what}")}"></select></label>'
        for what in selects
    )
    controls = f'<div class="pick">{picks}</div>' if picks else ""
    return (
        f'<figure{" class=wide" if wide else ""} id="figure-{name}"><h3>{escape(title)}</h3>{controls}{legend}'
        f'<div id="plot-{name}" role="img" aria-label="{escape(title)}"></div>'
        f'<p class="absent" id="absent-{name}" hidden></p><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _days(days: Sequence[str]) -> str:
    """`2026-01-02`, `2026-01-02 to 2026-01-05`."""
    return " to ".join(dict.fromkeys((days[0], days[-1])))


def _parts(collection: Collection) -> list[str]:
    return parts_of([row.figures for row in collection.rows])


def _positions(row: Row) -> Iterator[list[float]]:
    """[position in the draft, share kept]"""
    for i, share in enumerate(row.figures["acceptance_by_position"]):
        if share is not None:
            yield [i + 1, share]


def _lengths(row: Row) -> list[list[float]]:
    """[tokens drafted, mean number kept]"""
    return [[one["drafted"], one["accepted"]] for one in row.figures["acceptance_by_length"]]


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {key: float(f"{value:.5g}") for key, value in figures.items()}


def _rounds(collection: Collection) -> str:
    legends = {"anatomy": html.legend(_parts(collection))}
    figures = "".join(
        _figure(name, title, caption, wide=False, legend=legends.get(name, ""))
        for name, (title, caption) in ROUNDS.items()
    )
    return f'<div class="plots">{figures}</div>'


def _beside_papers(collection: Collection) -> list[str]:
    inner = reported(collection)
    return [html.section("Reported, formula and measured", [inner])] if inner else []


def _quality() -> str:
    figures = "".join(_figure(name, spec[0], "", wide=False) for name, spec in QUALITY.items())
    return f'<p class="note">{escape(QUALITY_NOTE)}</p><div class="plots">{figures}</div>'
