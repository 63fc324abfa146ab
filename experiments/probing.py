"""Probes outside a run: trace any program, and find this machine's watts at rest and under load."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nodes.probes import Probe, ProbeError, find_probes, make_probe, parse_probe, probe_names
from nodes.probes.calibrate import calibrate
from nodes.probes.energy import counters, energy_between
from nodes.probes.sampler import Sampler, read_samples

NODE = "machine"
REST_BETWEEN_S = 0.05  # between two looks whether the program has ended


def record_command(command: Sequence[str], out: Path, probes: Sequence[str], interval_ms: float) -> dict[str, Any]:
    """Run `command` and write what the probes say meanwhile to `out`; by default all probes of this machine. The
    program's own CPU and memory are among it (those of its children are not), joules are the machine's.

    Raises ProbeError: an unknown probe, a program that cannot be started, a file that is there already.
    """
    if out.exists():
        raise ProbeError(f"{out} is there already: name another file, traces are never overwritten")
    specs = dict(map(parse_probe, probes)) or {name: {} for name in probe_names()}
    for name, options in specs.items():
        make_probe(name, **options).close()  # what is misspelt is told before the program runs
    began_s = time.monotonic()
    try:
        process = subprocess.Popen(list(command))
    except OSError as error:
        raise ProbeError(f"cannot start {shlex.join(command)}: {error.strerror}") from None
    try:
        watched = {"pids": {Path(command[0]).name: process.pid}, "net_pid": process.pid}
        specs["psutil_trace"] = {**watched, **specs.get("psutil_trace", {})}
        sampler = Sampler([make_probe(name, **options) for name, options in specs.items()], NODE, out, interval_ms)
        with sampler:
            code = _wait(process)
            seconds = time.monotonic() - began_s
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    counted = counters(read_samples(out))
    source = sampler.energy_source
    joules = None
    if counted:
        span = max(int(c.t_ns[0]) for c in counted), min(int(c.t_ns[-1]) for c in counted)
        joules = energy_between(counted, NODE, *span).joules
    return {
        "out": str(out), "command": list(command), "returncode": code, "seconds": seconds, "joules": joules,
        "status": source.status, "source": "+".join(source.probes), "reason": source.reason,
        "sampler": sampler.cost(),
    }  # fmt: skip


def _wait(process: subprocess.Popen) -> int:
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the terminal told the program too: its last moments belong to the trace
            time.sleep(REST_BETWEEN_S)


def calibrate_machine(probe: str | None, seconds: float) -> dict[str, Any]:
    """Idle and full-load watts by the named probe, or by the first that measures the node, else its CPU. Raises
    ProbeError where none does, with the remedies there are."""
    return asdict(calibrate(_sensor() if probe is None else _named(probe), seconds))


def _named(spec: str) -> Probe:
    name, options = parse_probe(spec)
    return make_probe(name, **options)


def _sensor() -> Probe:
    findings = find_probes()
    for scope in ("node", "cpu"):
        for finding in findings:
            if finding.status == "measured" and finding.scope == scope:
                return make_probe(finding.probe)
    remedies = [f"{f.probe}: {f.remedy}" for f in findings if f.status == "denied"]
    hint = "; ".join(remedies) or "a plug meter works everywhere: --probe plug:url=http://ADDRESS"
    raise ProbeError(f"nothing on this machine measures its power. {hint}")
