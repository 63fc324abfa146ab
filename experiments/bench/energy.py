"""Energy traces against what is known: a square wave's joules, the sampler's own cost, another node's clock; and the
trace of a run in Perfetto's own trace processor."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.bench.perfetto import PerfettoError, load
from experiments.bench.records import record
from experiments.launch import Outcome, run_nodes
from experiments.report import write_trace
from experiments.schema import Config
from experiments.store import create_run
from nodes.alignment import Alignment
from nodes.probes import USABLE, probe_names
from nodes.probes.cpu import cpu_seconds
from nodes.probes.energy import attribute
from nodes.probes.sampler import Sample, read_records
from nodes.probes.sampler_process import SamplerProcess
from transport.clock import ClockSample, Offset
from transport.control import ControlClient, ControlServer

HALF_MS, LOW_W, HIGH_W = 40.0, 1.0, 9.0
SAMPLING_MS, JITTER = 10.0, 0.1
UNIT_J = 61e-6  # what RAPL counts in
SAMPLERS = 5  # one after another; the median counts, the note has them all
SETTLE_S = 0.5  # what the first reads of all probes take is not what a second of sampling takes
AHEAD_NS, DRIFT_PPM = 5 * 3600 * 10**9, 200.0
UNLIKE_OURS = ClockSample(0, AHEAD_NS, AHEAD_NS, 1)  # a handshake that shows another clock


def measure(
    waves: int = 20, wave_s: float = 10.0, sampling_s: float = 5.0, apart_s: float = 20.0
) -> list[dict[str, Any]]:
    """`apart_s` is the time between the two comparisons of the clocks: the longer, the finer the drift."""
    rounds = [(_sampler_cost(sampling_s), _waking_pct(sampling_s)) for _ in range(SAMPLERS)]
    costs = sorted((cost for cost, _ in rounds), key=lambda cost: cost["value"])
    cost = costs[SAMPLERS // 2]
    waking_pct = statistics.median(pct for _, pct in rounds)
    cost["note"] += f"; {SAMPLERS} samplers took {', '.join(format(one['value'], '.2f') for one in costs)} %; "
    cost["note"] += f"processes between them that only wake as often {waking_pct:.2f} %"
    return [_attribution(waves, wave_s), cost, *_clock(apart_s), _trace()]


# Attribution ----------------------------------------------------------------------------------------------------------


def _attribution(waves: int, wave_s: float) -> dict[str, Any]:
    worst_pct = max(_wave_error_pct(seed, wave_s) for seed in range(waves))
    note = f"worst phase of {waves} waves, {wave_s:g} s of {LOW_W:g} and {HIGH_W:g} W each, {SAMPLING_MS:g} ms ± 10 %"
    return record("energy: attribution to 40 ms phases", worst_pct, "%", "<= 2", note)


def _wave_error_pct(seed: int, wave_s: float) -> float:
    """A square wave as a counter sees it, sampled with jitter and in no step with it, shared out to its halves."""
    chance, samples = random.Random(seed), []
    at_ms = -chance.uniform(1, 2) * SAMPLING_MS
    while at_ms <= wave_s * 1e3 + 2 * SAMPLING_MS:
        seen_ms = at_ms + chance.uniform(-JITTER, JITTER) * SAMPLING_MS
        samples.append(Sample(round(seen_ms * 1e6), "edge", "wave", "node", _wave_j(seen_ms), "j", "measured", True))
        at_ms += SAMPLING_MS
    halves = round(wave_s * 1e3 / HALF_MS) // 2 * 2
    phases = [
        (round(i * HALF_MS * 1e6), round((i + 1) * HALF_MS * 1e6), "verify" if i % 2 else "draft", "", "wave")
        for i in range(halves)
    ]
    joules = {row["phase"]: row["joules"] for row in attribute(samples, phases, "edge")}
    truth = {"draft": LOW_W, "verify": HIGH_W}
    whole_s = halves / 2 * HALF_MS / 1e3
    return max(abs(joules[phase] / (w * whole_s) - 1) * 100 for phase, w in truth.items())


def _wave_j(at_ms: float) -> float:
    pairs, rest_ms = divmod(at_ms, 2 * HALF_MS)
    high_ms = max(0.0, rest_ms - HALF_MS)
    joules = (pairs * HALF_MS * (LOW_W + HIGH_W) + (rest_ms - high_ms) * LOW_W + high_ms * HIGH_W) / 1e3
    return joules // UNIT_J * UNIT_J


# Sampler --------------------------------------------------------------------------------------------------------------


def _sampler_cost(seconds: float) -> dict[str, Any]:
    """A node's own: all probes of this machine, the estimate with watts that were made up for it. Its process is
    measured from outside, by the kernel's clock of it."""
    me = {"pids": {"bench": os.getpid()}}
    options: dict[str, dict[str, Any]] = {"psutil_estimate": {"idle_w": 1.0, "full_w": 2.0, **me}, "psutil_trace": me}
    probes = {name: options.get(name, {}) for name in probe_names()}
    with tempfile.TemporaryDirectory() as folder, SamplerProcess("bench") as sampler:
        sampler.start(Path(folder), probes, interval_ms=20.0, shared=True)
        time.sleep(SETTLE_S)
        before_s, began_s = cpu_seconds(sampler.process.pid), time.monotonic()
        time.sleep(seconds)
        took_s, elapsed_s = cpu_seconds(sampler.process.pid) - before_s, time.monotonic() - began_s
        cost = sampler.stop()
        [trace] = Path(folder).iterdir()
        findings = next(read_records(trace))["header"]["findings"]
    present = ", ".join(finding["probe"] for finding in findings if finding["status"] in USABLE)
    late = f"late {cost['late_ms']['median']:.2f} ms at the median, {cost['missed']} of {cost['ticks']} ticks missed"
    pct = 100 * took_s / elapsed_s
    return record("energy: sampler at 50 Hz", pct, "% of a core", "<= 1", f"{present}; {late}")


def _waking_pct(seconds: float) -> float:
    """What a process takes that wakes as often and does nothing: the part of a sampler's cost that is the machine's."""
    naps = f"[time.sleep(0.02) for _ in range({int(seconds / 0.02)})]"
    script = f"import time; began_s = time.process_time(); {naps}; print(time.process_time() - began_s)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return 100 * float(done.stdout) / seconds


# Clock ----------------------------------------------------------------------------------------------------------------


def _clock(apart_s: float) -> list[dict[str, Any]]:
    """A node in another process whose clock is hours ahead and drifts, met over a real socket as the edge is."""
    script = f"from experiments.bench.energy import serve_far_clock; serve_far_clock({AHEAD_NS}, {DRIFT_PPM})"
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        address = child.stdout.readline().strip()
        alignment = Alignment(address, address, False, lambda to: ControlClient(to, keys=None, identity=b"bench"))
        began_ns = time.monotonic_ns()
        alignment.measure({}, UNLIKE_OURS)
        time.sleep(apart_s)
        alignment.measure({}, UNLIKE_OURS)
        ended_ns = time.monotonic_ns()
    finally:
        child.communicate()  # its standard input closes, and it ends
    offset = Offset(**alignment.record()["offset"])
    instants = range(began_ns, ended_ns, max(1, (ended_ns - began_ns) // 100))
    error_ms = max(abs(offset.to_local_ns(far_clock_ns(t, AHEAD_NS, DRIFT_PPM)) - t) for t in instants) / 1e6
    bound = f"{offset.error_ns / 1e6:.3f} ms, {offset.drift_error_ppm:.1f} ppm bound by the round trips; loopback"
    drift_error_ppm = abs((offset.drift_ppm or 0.0) - DRIFT_PPM)
    return [
        record("energy: clock offset of a node 5 h ahead", error_ms, "ms", "<= 0.3", f"worst instant; {bound}"),
        record("energy: its drift of 200 ppm", drift_error_ppm, "ppm", "<= 2", f"two comparisons {apart_s:g} s apart"),
    ]


def far_clock_ns(here_ns: int, ahead_ns: int, drift_ppm: float) -> int:
    return here_ns + ahead_ns + round(here_ns * drift_ppm * 1e-6)


def serve_far_clock(ahead_ns: int, drift_ppm: float) -> None:
    """In a process of its own: a control line whose clock is not this machine's, until standard input closes."""
    here = time.monotonic_ns
    time.monotonic_ns = lambda: far_clock_ns(here(), ahead_ns, drift_ppm)
    with ControlServer("tcp://127.0.0.1:0", keys=None) as server:
        print(server.endpoint, flush=True)
        sys.stdin.read()


# Trace ----------------------------------------------------------------------------------------------------------------


def _trace() -> dict[str, Any]:
    """A run of two processes on loopback, its trace.json as Perfetto's trace processor takes it in."""
    config = Config.model_validate({
        "name": "bench", "systems": ["colocated_sd", "dssd", "dssd_lookahead"], "engine": "toy", "warmup": 0,
        "workload": {"max_new_tokens": 32, "requests": 2},
        "energy": {node: {"idle_w": 1.0, "full_w": 2.0} for node in ("device", "edge")},
    })  # fmt: skip
    name = "energy: events of trace.json that Perfetto takes"
    with tempfile.TemporaryDirectory(prefix="dssd-bench-") as path:
        folder = create_run(Path(path), config.resolved(), "trace")
        run_nodes(config, folder.path, lambda stage, fields: None, Outcome())
        trace = write_trace(folder)
        folder.close()
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
        written = sum(event["ph"] in "XsC" for event in events)
        try:
            loaded = load(trace)
        except PerfettoError as error:
            return record(name, 0.0, "%", ">= 100", str(error))
    taken = loaded.slices + loaded.flows + loaded.values - sum(loaded.problems.values())
    note = f"{loaded.slices} slices, {loaded.flows} arrows, {loaded.values} values of {len(loaded.counters)} counters"
    return record(name, 100.0 * taken / written, "%", ">= 100", f"{note}; problems: {loaded.problems or 'none'}")
