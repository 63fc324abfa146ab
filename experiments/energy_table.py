"""`dssd energy`: the rows and the lines below them. Values stay in joules; nothing is computed but totals."""

from __future__ import annotations

from experiments.energy import NODES, WASTED, Row, told_apart
from experiments.energy_files import Energy
from experiments.reading import ConfigError

KEYS = {"system": ("system",), "request": ("system", "request_id")}


def check_by(by: str) -> None:
    if by not in KEYS:
        raise ConfigError(f"--by {by}: there are {' and '.join(KEYS)}")


def energy_table(energy: Energy, by: str) -> list[Row]:
    """Rows of node, phase and system (and request), systems together; they sum to the nodes' totals."""
    order = {node: number for number, node in enumerate(NODES)}
    rows = told_apart(energy.rows, KEYS[by])
    return sorted(rows, key=lambda row: (row["system"], row.get("request_id", ""), order[row["node"]]))


def energy_lines(energy: Energy) -> list[str]:
    """Totals, joules a token, and joules for nothing; and why something is not known."""
    lines = ["", *energy.block["broken_traces"]]
    for node, found in energy.block["nodes"].items():
        baseline = found["baseline"]
        if found["joules"] is None:
            lines.append(f"{node}: {found['reason']}")
            continue
        above = found["joules_above_idle"]
        idle = "idle watts not known" if above is None else (
            f"{above:.4g} J above {baseline['idle_w']:.3g} W idle ({baseline['source']})")  # fmt: skip
        lines.append(f"{node}: {found['joules']:.4g} J in {found['seconds']:.4g} s, {idle}; "
                     f"{found['status']} by {found['source']}")  # fmt: skip
    for node, found in energy.block["nodes"].items():
        if sampler := found["sampler"]:
            late = sampler["late_ms"].get("median", 0.0)
            lines.append(f"{node}'s sampler: {sampler['cpu_pct']:.2f} % of a core, {late:.2f} ms late at the median, "
                         f"{sampler['missed']} of {sampler['ticks'] + sampler['missed']} ticks missed")  # fmt: skip
    if not energy.block["clocks_compared"]:
        lines.append("edge: its clock was not compared with the device's, so its joules have no phases")
    for system in energy.block["systems"]:
        each = [(where, system[where]) for where in (*NODES, "total", "radio")]
        known = [f"{where} {per['j_per_token']:.4g}" for where, per in each if per["j_per_token"] is not None]
        wasted = [f"{name[:-2].replace('_', ' ')} {system[name]:.3g} J" for name in WASTED if system[name]]
        if known:
            lines.append(f"{system['system']}: J/token {', '.join(known)}" + "".join(f"; {text}" for text in wasted))
    return lines
