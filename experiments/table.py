"""The printed table of a run, from its summary alone: for a terminal, and as Markdown for a README."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from experiments.quality import quality_lines

WIDTH = 120
NOTHING = "–"  # not measured, or not applicable
STREAMED = "*"
BETWEEN = {"hosts": "between two machines", "by hand": "what there was between the nodes"}
Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    heading: str  # may have two lines
    show: Callable[[Figures], str]
    left: bool = False


def print_table(summary: Mapping[str, Any], file: IO[str] | None = None) -> None:
    """Header, table and notes on stdout (or `file`), in colour where that is a terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    file = file or sys.stdout
    console = Console(file=file, width=WIDTH if not file.isatty() else None, highlight=False)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in COLUMNS:
        table.add_column(column.heading, justify="left" if column.left else "right", no_wrap=True)
    for figures in summary["systems"]:
        table.add_row(*(escape(column.show(figures)) for column in COLUMNS), style="" if figures["exact"] else "dim")
    for line in header_lines(summary):
        console.print(escape(line), soft_wrap=True)
    console.print()
    console.print(table, soft_wrap=not file.isatty())
    for line in note_lines(summary):
        console.print(escape(line), style="dim", soft_wrap=True)


def header_lines(summary: Mapping[str, Any]) -> list[str]:
    """What the figures below hold for: run, link, models, labels."""
    systems = summary["systems"]
    requests = sorted({figures["requests"] for figures in systems})
    counts = f"{requests[0]}" if len(requests) == 1 else f"{requests[0]} to {requests[-1]}" if requests else "no"
    status = summary.get("status", "complete")
    lines = [
        f"{summary['name']} · {summary['run_id']} · {counts} request{'s' * (counts != '1')} per system"
        + (f" · {status}" if status not in ("", "complete") else ""),
        f"link: {link_text(summary['link'])}",
    ]
    lines += [f"{node}: {model_text(model)}" for node, model in (summary.get("models") or {}).items()]
    if summary.get("device_limits"):
        lines.append(f"device held to: {limits_text(summary['device_limits'])}")
    if summary["labels"]:
        lines.append("labels: " + ", ".join(LABELS.get(label, label) for label in summary["labels"]))
    return lines


def limits_text(limits: Mapping[str, Any]) -> str:
    """`core 0, 0.25 of a core's time, 1500 MHz at most`: what it was really held to"""
    cpus = limits["cpus"]
    parts = [f"core{'s' * (len(cpus) != 1)} {', '.join(map(str, cpus))}"]
    if limits["cpu_share"] is not None:
        parts.append(f"{limits['cpu_share']:g} of a core's time")
    if limits["cpu_max_mhz"] is not None:
        parts.append(f"{limits['cpu_max_mhz']:g} MHz at most")
    return ", ".join(parts)


def note_lines(summary: Mapping[str, Any]) -> list[str]:
    """Below the table: what does not fit a cell and must not go unsaid."""
    lines = []
    systems = summary["systems"]
    if not all(figures["exact"] for figures in systems):
        inexact = ", ".join(figures["system"] for figures in systems if not figures["exact"])
        lines.append(f"not exact, so not the large model's output: {inexact}")
    if len(systems) > 1 and summary["absent_baselines"]:
        lines.append(f"baselines that are not among them: {', '.join(summary['absent_baselines'])}")
    if any(_streamed(figures) for figures in systems):
        lines.append(f"{STREAMED} streamed: the device asks once, and hears of every round as it is done")
    for figures in systems:
        kinds = (("failed_requests", "failed, not counted"), ("retries", "retried"), ("resumed", "resumed"))
        counts = [f"{figures[key]} {what}" for key, what in kinds if figures[key]]
        if counts:
            lines.append(f"requests of {figures['system']}: {', '.join(counts)}")
    most = max((figures["requests"] for figures in systems), default=0)
    for figures in systems:
        if figures["speedup_over_edge_ar"] is not None and figures["speedup_requests"] < most:
            both = figures["speedup_requests"]
            what = (
                f"over the requests that both answered, {both} of {most}" if both else "two rates, no request in common"
            )
            lines.append(f"vs edge_ar of {figures['system']}: {what}")
    for figures in systems:
        if figures.get("routed_share") is not None:
            share, cost = 100 * figures["routed_share"], _three(figures["route_ms"])
            lines.append(f"routing of {figures['system']}: {share:.0f} % of requests to the edge, {cost} ms to decide")
    for note in dict.fromkeys(figures["energy_note"] for figures in systems if figures["energy_note"]):
        noted = [figures["system"] for figures in systems if figures["energy_note"] == note]
        lines.append(f"energy{'' if len(noted) == len(systems) else ' of ' + ', '.join(noted)}: {note}")
    if played := summary["link"].get("played"):
        lines.append(played_text(played))
    lines += quality_lines(summary)
    lines += [_event_text(event) for event in summary["events"]]
    return lines


def link_text(link: Mapping[str, Any]) -> str:
    """`lte, up 10 Mbit/s 25 ms, down 30 Mbit/s 25 ms (netns, 50.1 ms round trip measured)`"""
    declared = link.get("declared") or {}
    outages = declared.get("outages") or []
    directions = [f"{which} {text}" for which in ("up", "down") if (text := _direction_text(declared.get(which) or {}))]
    if not directions and not outages:
        return BETWEEN.get(str(link.get("backend")), "this machine's own") + ", not shaped"
    parts = ([str(declared["profile"])] if declared.get("profile") else []) + directions
    parts += [f"cut {len(outages)} time{'s' * (len(outages) != 1)}"] if outages else []
    observed = (link.get("observed") or {}).get("rtt_ms") or {}
    measured = f"{observed['median']:.1f} ms round trip measured" if observed.get("median") else ""
    built = ", ".join(part for part in (str(link.get("backend") or ""), measured) if part)
    return ", ".join(parts) + (f" ({built})" if built else "")


def played_text(played: Mapping[str, Any]) -> str:
    """`the link changed 240 times, in force 0.7 ms after the due time at the median, 3.1 at most; cut 2 times`"""
    late, skipped = played["late_ms"], played["skipped"]
    text = (
        f"the link changed {played['changes']} times, in force {late['median']:.3g} ms after the due time at the median"
    )
    text += f", {late['max']:.3g} at most"
    text += f"; {skipped} changes were passed over, the next being due already" if skipped else ""
    return text + (f"; a direction was cut {played['cuts']} times" if played["cuts"] else "")


def model_text(model: Mapping[str, Any]) -> str:
    """`bundled:draft paced as facebook/opt-125m on NVIDIA H800`"""
    pace = model.get("pace") or {}
    text = str(model.get("engine", "?"))
    if pace:
        as_what = pace.get("model") or pace.get("name") or "declared"
        text += f" paced as {as_what}" + (f" on {pace['hardware']}" if pace.get("hardware") else "")
    return text


def bytes_text(n: float | None) -> str:
    """With decimal units, as links have: `38 B`, `4.2 kB`, `1.2 MB`."""
    if n is None:
        return NOTHING
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if n >= size * 0.9995:
            return f"{_three(n / size)} {unit}"
    return f"{_three(n)} B" if n else "0 B"


def _direction_text(direction: Mapping[str, Any]) -> str:
    gilbert, trace = direction.get("gilbert") or {}, direction.get("trace") or {}
    loss_pct = gilbert.get("mean_loss_pct") or direction.get("loss_pct")
    jitter = f" ± {direction['jitter_ms']:g}" if direction.get("jitter_ms") else ""
    parts = [
        f"{direction['rate_mbps']:g} Mbit/s" if direction.get("rate_mbps") else "",
        f"{direction['delay_ms']:g}{jitter} ms" if direction.get("delay_ms") else "",
        f"{loss_pct:g} % loss" if loss_pct else "",
        f"as {Path(trace['file']).name} goes" if trace else "",
    ]
    return " ".join(part for part in parts if part)


def _event_text(event: Mapping[str, Any]) -> str:
    details = ", ".join(f"{key} {value}" for key, value in event.items() if key not in ("event", "t_ns"))
    return str(event.get("event", "event")).replace("_", " ") + (f": {details}" if details else "")


def _three(value: float) -> str:
    """Three significant digits where that takes at most three places, never in powers of ten."""
    places = 0 if value >= 99.95 else 1 if value >= 9.995 else 2 if value >= 0.9995 else 3
    return f"{value:.{places}f}"


def _number(key: str, show: Callable[[float], str] = _three) -> Callable[[Figures], str]:
    return lambda figures: NOTHING if figures[key] is None else show(figures[key])


def _speed(figures: Figures) -> str:
    if figures["tokens_per_s"] is None:
        return NOTHING
    interval = figures["tokens_per_s_ci95"]
    spread = f" ±{_three((interval[1] - interval[0]) / 2)}" if interval else ""
    return _three(figures["tokens_per_s"]) + spread


def _rounds(figures: Figures) -> str:
    rounds, trips = figures["rounds_per_request"], figures["round_trips_per_request"]
    if not trips:  # nothing was asked of the edge
        return NOTHING
    return f"{rounds:.1f}{STREAMED if _streamed(figures) else ''}"


def _streamed(figures: Figures) -> bool:
    """Rounds that nothing was sent for; a system that keeps tokens unseen has such rounds too."""
    asked = 0 < (figures["round_trips_per_request"] or 0) < (figures["rounds_per_request"] or 0)
    return asked and not figures["unverified_share"]


def _joules(figures: Figures) -> str:
    """With how they were obtained: a number without it would pass for a measurement."""
    joules = figures["energy_j_per_token"]
    return figures["energy_status"] if joules is None else f"{_three(joules)} {figures['energy_status']}"


LABELS = {
    "paced": "paced (computing takes the declared time, rows the declared width)",
    "toy": "toy (tables, not models)",
}
COLUMNS = (
    Column("system", lambda figures: figures["system"], left=True),
    Column("exact", lambda figures: "yes" if figures["exact"] else "no", left=True),
    Column("tokens/s", _speed),
    Column("vs\nedge_ar", _number("speedup_over_edge_ar", lambda x: f"{x:.2f}×")),
    Column("TTFT\nms", _number("ttft_ms")),
    Column("accept.\nlength", _number("mean_acceptance_length", lambda x: f"{x:.2f}")),
    Column("rounds\n/request", _rounds),
    Column("up\n/token", lambda figures: bytes_text(figures["bytes_up_per_token"])),
    Column("down\n/token", lambda figures: bytes_text(figures["bytes_down_per_token"])),
    Column("network\n% of time", _number("network_share", lambda x: f"{100 * x:.0f} %")),
    Column("J/token", _joules),
)
