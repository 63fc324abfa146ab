"""A trace that a bench meter wrote (Otii, Monsoon, PPK2, a power analyser), as samples like any other."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from nodes.probes import Joules, ProbeError
from nodes.probes.sampler import Sample

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def read_meter_csv(
    path: Path,
    node: str,
    start_ns: int,
    *,
    time_column: str,
    power_column: str,
    time_unit: str = "s",
    watts_per_unit: float = 1.0,
    delimiter: str = ",",
) -> Iterator[Sample]:
    """The meter's power, integrated, as the node's counted joules.

    The file's first line is at `start_ns` on the node's monotonic clock; finding that instant (a marker
    pulse, a burst of load) is the experimenter's work. Raises ProbeError for a column that is not there or a
    value that is no number, naming the line.
    """
    if time_unit not in SECONDS:
        raise ProbeError(f"unknown time unit {time_unit!r}; there are: {', '.join(SECONDS)}")
    joules, first_s, renewed_ms = Joules(), None, 0.0
    with path.open(newline="") as file:
        rows = csv.DictReader(file, delimiter=delimiter)
        for row in rows:
            try:
                at_s = float(row[time_column]) * SECONDS[time_unit]
                watts = float(row[power_column]) * watts_per_unit
                first_s = at_s if first_s is None else first_s
                renewed_ms = renewed_ms or (at_s - first_s) * 1e3
                value = joules.add(watts, at_s)
            except KeyError as missing:
                raise ProbeError(f"{path} has no column {missing}; it has: {', '.join(row)}") from None
            except (TypeError, ValueError) as error:
                raise ProbeError(f"{path}, line {rows.line_num}: {error}") from None
            t_ns = start_ns + round((at_s - first_s) * 1e9)
            yield Sample(t_ns, node, "meter_csv", power_column, value, "j", "measured", True, renewed_ms)
