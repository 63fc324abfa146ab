"""Trace files, three kinds of them. An error names the file and the line.

csv       a header, then a row per change, held until the next: `t_s` and any of `rate_mbps`, `delay_ms`, `loss_pct`,
          each for both directions, or as `up_rate_mbps`, `down_rate_mbps` and so on for one
mahimahi  packet deliveries (Mahimahi, Netravali et al., USENIX ATC 2015): whole milliseconds, one a line, at each of
          which 1504 bytes may pass; averaged over `step_ms`
mbps      a rate a line, for a second each; or `seconds rate` in two columns

Lines that are empty or begin with # are left out.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

from netem.traces.trace import KEYS, Point, Trace, TraceError

Format = Literal["csv", "mahimahi", "mbps"]
Side = Literal["up", "down"]
DELIVERY_BYTES = 1504
UPPER = {"rate_mbps": 100_000.0, "delay_ms": 60_000.0, "loss_pct": 100.0}
Line = tuple[int, str]  # its number, from 1


def read_trace(path: Path, format: Format | None = None, side: Side = "up", step_ms: float = 100.0) -> Trace:
    """`side` chooses a csv's columns, `step_ms` is what a Mahimahi trace is averaged over. Without `format` a file
    that begins with letters is csv, one of two columns mbps, and one of a single column mahimahi. Raises TraceError.
    """
    return parse_trace(path, read_content(path), format, side, step_ms)


def read_content(path: Path) -> bytes:
    """Raises TraceError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise TraceError(f"trace {path}: cannot be read: {error.strerror}") from None


def parse_trace(path: Path, content: bytes, format: Format | None, side: Side, step_ms: float) -> Trace:
    """As `read_trace`, of what was read."""
    try:
        text = content.decode("utf-8-sig")  # a byte order mark, as spreadsheets write it, is no part of the text
    except UnicodeDecodeError:
        raise TraceError(f"trace {path}: is not UTF-8 text") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not lines:
        raise TraceError(f"trace {path}: has no line in it")
    found = format or _format_of(lines[0][1])
    if found == "csv":
        return _read_csv(path, lines, side)
    return _read_mahimahi(path, lines, step_ms) if found == "mahimahi" else _read_mbps(path, lines)


def write_csv(path: Path, points: Iterable[Point], comment: str = "") -> None:
    """Both directions alike, every number as it is; `comment` is put in front."""
    points = list(points)
    keys = list(points[0].values)
    rows = [",".join(str(value) for value in (point.t_s, *point.values.values())) for point in points]
    head = [f"# {line}" for line in comment.splitlines()]
    path.write_text("\n".join([*head, ",".join(["t_s", *keys]), *rows]) + "\n", encoding="utf-8")


def _format_of(first: str) -> Format:
    if first[0].isalpha():
        return "csv"
    return "mbps" if len(first.split()) > 1 else "mahimahi"


def _read_csv(path: Path, lines: Sequence[Line], side: Side) -> Trace:
    header = [name.strip() for name in next(csv.reader([lines[0][1]]))]
    columns = _columns(path, lines[0][0], header, side)
    points = []
    for number, line in lines[1:]:
        cells = next(csv.reader([line]))
        if len(cells) != len(header):
            raise TraceError(f"trace {path} line {number}: {len(cells)} cells where the header has {len(header)}")
        values = {key: _number(path, number, cells[at], header[at]) for key, at in columns.items()}
        for key, value in values.items():
            if key in UPPER and not 0 <= value <= UPPER[key]:
                raise TraceError(f"trace {path} line {number}: {key} is {value:g}, outside of 0 to {UPPER[key]:g}")
        points.append(Point(**values))
    _rising(path, [(number, point.t_s) for (number, _), point in zip(lines[1:], points)])
    last_hold_s = points[-1].t_s - points[-2].t_s  # the last row holds as long as the one before it
    return Trace(tuple(points), points[-1].t_s + last_hold_s)


def _columns(path: Path, number: int, header: Sequence[str], side: Side) -> dict[str, int]:
    """Key -> column, of those that hold for this side."""
    where = f"trace {path} line {number}"
    allowed = ["t_s", *KEYS, *(f"{way}_{key}" for way in ("up", "down") for key in KEYS)]
    for name in header:
        if name not in allowed:
            raise TraceError(f"{where}: no column is called {name!r}; there are: {', '.join(allowed)}")
        if header.count(name) > 1:
            raise TraceError(f"{where}: column {name} is there twice")
        if name in KEYS and any(f"{way}_{name}" in header for way in ("up", "down")):
            raise TraceError(f"{where}: {name} holds for both directions, so {name} of one cannot stand beside it")
    if "t_s" not in header:
        raise TraceError(f"{where}: there is no column t_s")
    columns = {"t_s": header.index("t_s")}
    for key in KEYS:
        for name in (key, f"{side}_{key}"):
            if name in header:
                columns[key] = header.index(name)
    if len(columns) == 1:
        raise TraceError(f"{where}: says nothing of the way {side}: add {side}_rate_mbps, or rate_mbps for both ways")
    return columns


def _read_mahimahi(path: Path, lines: Sequence[Line], step_ms: float) -> Trace:
    times_ms = []
    for number, line in lines:
        if not line.isdecimal():
            raise TraceError(
                f"trace {path} line {number}: {line!r} is not a whole number of milliseconds, as every line of a"
                " Mahimahi trace is; for a rate a second say `format: mbps`"
            )
        times_ms.append(int(line))
        if len(times_ms) > 1 and times_ms[-1] < times_ms[-2]:
            raise TraceError(
                f"trace {path} line {number}: {line} ms comes after {times_ms[-2]}: the times of a Mahimahi trace never"
                " fall; for a rate a second say `format: mbps`"
            )
    period_ms = times_ms[-1]
    if period_ms == 0:
        raise TraceError(f"trace {path} line {lines[-1][0]}: the last time is 0, so the trace has no length")
    steps = max(1, math.floor(period_ms / step_ms + 1e-9))  # what is left at the end belongs to the last
    counts = [0] * steps
    for time_ms in times_ms:
        counts[min(steps - 1, int(time_ms / step_ms))] += 1
    points = []
    for step, deliveries in enumerate(counts):
        hold_ms = step_ms if step < steps - 1 else period_ms - step * step_ms
        points.append(Point(step * step_ms / 1e3, rate_mbps=deliveries * DELIVERY_BYTES * 8 / (hold_ms * 1e3)))
    return Trace(tuple(points), period_ms / 1e3, "mahimahi")


def _read_mbps(path: Path, lines: Sequence[Line]) -> Trace:
    points = []
    for second, (number, line) in enumerate(lines):
        cells = line.replace(",", " ").split()
        if len(cells) not in (1, 2) or len(cells) != len(lines[0][1].replace(",", " ").split()):
            raise TraceError(f"trace {path} line {number}: expected a rate, or seconds and a rate, as in every line")
        t_s = _number(path, number, cells[0], "seconds") if len(cells) == 2 else float(second)
        rate_mbps = _number(path, number, cells[-1], "rate")
        if not 0 <= rate_mbps <= UPPER["rate_mbps"]:
            raise TraceError(
                f"trace {path} line {number}: the rate is {rate_mbps:g} Mbit/s, outside of 0 to {UPPER['rate_mbps']:g}"
            )
        points.append(Point(t_s, rate_mbps=rate_mbps))
    if len(points) == 1:
        return Trace(tuple(points), 1.0, "mbps")
    zero_s = points[0].t_s  # such files often count from the middle of a longer recording
    _rising(path, [(number, point.t_s - zero_s) for (number, _), point in zip(lines, points)])
    points = [Point(point.t_s - zero_s, rate_mbps=point.rate_mbps) for point in points]
    return Trace(tuple(points), 2 * points[-1].t_s - points[-2].t_s, "mbps")


def _number(path: Path, number: int, cell: str, name: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        raise TraceError(f"trace {path} line {number}: {name} is {cell.strip()!r}, which is no number") from None
    if not math.isfinite(value):
        raise TraceError(f"trace {path} line {number}: {name} is {cell.strip()}, which is not finite")
    return value


def _rising(path: Path, times_s: Sequence[tuple[int, float]]) -> None:
    if len(times_s) < 2:
        raise TraceError(f"trace {path}: has {len(times_s)} rows; at least two make a course of time")
    if times_s[0][1] != 0:
        raise TraceError(f"trace {path} line {times_s[0][0]}: begins at t_s {times_s[0][1]:g}; begin at 0")
    for (_, before_s), (number, after_s) in pairwise(times_s):
        if after_s <= before_s:
            raise TraceError(f"trace {path} line {number}: t_s {after_s:g} does not come after {before_s:g}")
