"""The printed table of a sweep: a row per point and system, the mean of its passes, from the runs' summaries alone."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any

from experiments.sweep.folder import SweepFolder
from experiments.sweep.points import plain, short_names
from experiments.sweep.section import POINT
from experiments.sweep.status import standing
from experiments.table import LABELS, NOTHING, bytes_text

WIDTH = 200
KEPT = ("system", "exact", "energy_status", "labels")
MEANS = (
    "tokens_per_s", "speedup_over_edge_ar", "ttft_ms", "mean_acceptance_length", "rounds_per_request",
    "bytes_up_per_token", "bytes_down_per_token", "network_share", "energy_j_per_token",
)  # fmt: skip
Row = dict[str, Any]


def sweep_rows(folder: SweepFolder) -> list[Row]:
    """In the order of the file. `runs`: how many passes the means are of; `tokens_per_s_range` their extremes."""
    done = standing(folder).done
    rows = []
    for point in folder.definition["points"]:
        runs = [attempt.folder for turn, attempt in done.items() if turn.point == point["id"]]
        by_system: dict[str, list[Mapping[str, Any]]] = {}
        for run in runs:
            for figures in run.summary()["systems"]:
                by_system.setdefault(figures["system"], []).append(figures)
        rows += [{"point": point["name"], "axes": point["axes"], **_mean(passes)} for passes in by_system.values()]
    return rows


def _mean(passes: Sequence[Mapping[str, Any]]) -> Row:
    row = {"runs": len(passes), **{key: passes[0].get(key) for key in KEPT}}
    row["exact"] = all(figures["exact"] for figures in passes)
    for key in MEANS:
        values = [figures[key] for figures in passes if figures.get(key) is not None]
        row[key] = sum(values) / len(values) if values else None
    speeds = [figures["tokens_per_s"] for figures in passes if figures.get("tokens_per_s") is not None]
    row["tokens_per_s_range"] = [min(speeds), max(speeds)] if speeds else None
    return row


def print_sweep(folder: SweepFolder, rows: Sequence[Row], file: IO[str] | None = None) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    file = file or sys.stdout
    console = Console(file=file, width=None if file.isatty() else WIDTH, highlight=False)
    definition = folder.definition
    axes = list(dict.fromkeys(key for point in definition["points"] for key in point["axes"]))
    short = short_names(axes)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for key in axes:
        table.add_column(key if key == POINT else short[key].replace(".", ".\n"))
    for heading, left in HEADINGS:
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for row in rows:
        where = [plain(row["axes"][key]) if key in row["axes"] else "" for key in axes]
        table.add_row(*map(escape, [*where, *_cells(row)]), style="" if row["exact"] else "dim")
    console.print(escape(f"{definition['name']} · sweep {folder.id} · {len(definition['points'])} points"), end="")
    console.print(f" × {definition['repeats']} passes\n" if definition["repeats"] > 1 else "\n")
    console.print(table)
    labels = dict.fromkeys(label for row in rows for label in row["labels"] or ())
    if labels:
        console.print("labels: " + ", ".join(LABELS.get(label, label) for label in labels), style="dim")
    if not all(row["exact"] for row in rows):
        inexact = dict.fromkeys(row["system"] for row in rows if not row["exact"])
        console.print(f"not exact, so not the large model's output: {', '.join(inexact)}", style="dim")
    if definition["repeats"] > 1:
        console.print("means of the passes; ± is half of what lies between their extremes", style="dim")


HEADINGS = (
    ("system", True), ("exact", True), ("tokens/s", False), ("vs\nedge_ar", False), ("TTFT\nms", False),
    ("accept.\nlength", False), ("up\n/token", False), ("down\n/token", False), ("network\n% of time", False),
    ("J/token", False),
)  # fmt: skip


def _cells(row: Row) -> list[str]:
    spread = (row["tokens_per_s_range"][1] - row["tokens_per_s_range"][0]) / 2 if row["runs"] > 1 else 0.0
    joules = row["energy_j_per_token"]
    return [
        str(row["system"]),
        "yes" if row["exact"] else "no",
        _number(row["tokens_per_s"]) + (f" ±{_number(spread)}" if spread else ""),
        _number(row["speedup_over_edge_ar"], "×"),
        _number(row["ttft_ms"]),
        _number(row["mean_acceptance_length"]),
        bytes_text(row["bytes_up_per_token"]),
        bytes_text(row["bytes_down_per_token"]),
        NOTHING if row["network_share"] is None else f"{100 * row['network_share']:.0f} %",
        str(row["energy_status"] or NOTHING) if joules is None else f"{_number(joules)} {row['energy_status']}",
    ]


def _number(value: float | None, unit: str = "") -> str:
    """Three significant digits, never in powers of ten."""
    if value is None:
        return NOTHING
    return (f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}") + unit
