"""A node's sampler beside the node: what it reads is the node's, and whatever happens to either leaves a trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nodes.busy import BusyTime
from nodes.limits import limited
from nodes.probes import ProbeError
from nodes.probes.cpu import cpu_seconds
from nodes.probes.energy import counters, energy_between
from nodes.probes.sampler import read_records, read_samples
from nodes.probes.sampler_process import SamplerProcess

ME = {"node": os.getpid()}
TRACE = {"psutil_trace": {"pids": ME}}
MODEL = {"paced_model": {"idle_w": 2.0, "added_w": {"target": 10.0, "draft": 3.0}}}


def start(sampler: SamplerProcess, out: Path, probes, **more):
    return sampler.start(out, probes, 20.0, **more)


def test_what_it_traces_is_this_process_and_not_itself(tmp_path):
    with SamplerProcess("edge") as sampler:
        start(sampler, tmp_path, TRACE)
        before_s, until_s = time.process_time(), time.process_time() + 0.3
        while time.process_time() < until_s:
            sum(range(1000))
        used_s = time.process_time() - before_s
    cpu = [s.value for s in read_samples(tmp_path / "power.edge.jsonl") if s.channel == "node.cpu"]
    assert cpu[-1] - cpu[0] == pytest.approx(used_s, abs=0.1)


def test_the_busy_times_of_paced_engines_cross_over(tmp_path):
    busy = {"target": BusyTime(), "draft": BusyTime()}
    with SamplerProcess("edge") as sampler:
        source = start(sampler, tmp_path, MODEL, paced=True, busy=busy)
        assert (source.probes, source.status) == (("paced_model",), "modelled")
        time.sleep(0.1)
        t0_ns = time.monotonic_ns()
        time.sleep(0.1)
        for _ in range(2):
            for word in busy.values():
                word.begin()
                time.sleep(0.1)
                word.end()
                time.sleep(0.1)
        t1_ns = time.monotonic_ns()
        time.sleep(0.1)
    found = energy_between(counters(read_samples(tmp_path / "power.edge.jsonl")), "edge", t0_ns, t1_ns)
    added_j = 10.0 * busy["target"].seconds() + 3.0 * busy["draft"].seconds()
    assert found.joules == pytest.approx(2.0 * (t1_ns - t0_ns) / 1e9 + added_j, rel=0.02)


def test_a_computation_in_progress_counts_in_the_other_process():
    mine = BusyTime()
    theirs = BusyTime(os.dup(mine.fd))
    assert theirs.seconds() == 0.0
    mine.begin()
    time.sleep(0.05)
    assert 0.05 <= theirs.seconds() <= mine.seconds()
    mine.end()
    assert theirs.seconds() == mine.seconds() >= 0.05


def test_it_goes_on_while_the_node_holds_its_interpreter(tmp_path):
    with SamplerProcess("device") as sampler:
        start(sampler, tmp_path, {"psutil_estimate": {"idle_w": 1.0, "full_w": 2.0, "pids": ME}})
        t0_ns = time.monotonic_ns()
        while time.monotonic_ns() < t0_ns + 3 * 10**9:
            _ = 7**500_000  # one step of the interpreter: no other thread of this process runs meanwhile
        t1_ns = time.monotonic_ns()
    inside = {s.t_ns for s in read_samples(tmp_path / "power.device.jsonl") if t0_ns < s.t_ns < t1_ns}
    assert len(inside) >= 20, "of about 150"


def test_it_is_light_and_its_cost_is_what_the_kernel_counts(tmp_path):
    with SamplerProcess("device") as sampler:
        start(sampler, tmp_path, TRACE)
        maps = Path(f"/proc/{sampler.process.pid}/maps").read_text()
        before_s = cpu_seconds(sampler.process.pid)
        time.sleep(1.0)
        took_s = cpu_seconds(sampler.process.pid) - before_s
        footer = sampler.stop()
    assert "torch" not in maps and "numpy" not in maps and "zmq" not in maps
    assert took_s * 0.5 <= footer["cpu_s"] <= took_s + 0.1
    assert footer["ticks"] > 10 and footer["late_ms"]["max"] >= footer["late_ms"]["median"] >= 0


def test_what_the_device_is_held_to_is_not_for_its_sampler(tmp_path):
    everything = os.sched_getaffinity(0)
    with SamplerProcess("device") as sampler, limited(cpus=[min(everything)]):
        start(sampler, tmp_path, TRACE)
        assert os.sched_getaffinity(sampler.process.pid) == everything


NODE = """
import os, signal, sys, time
from pathlib import Path
from nodes.probes.sampler_process import SamplerProcess
sampler = SamplerProcess("edge")
sampler.start(Path(sys.argv[1]), {"psutil_trace": {"pids": {"node": os.getpid()}}}, 20.0)
print(sampler.process.pid, flush=True)
time.sleep(60)
"""


def test_a_node_that_is_killed_takes_it_along_and_nothing_is_lost(tmp_path):
    node = subprocess.Popen([sys.executable, "-c", NODE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    pid = int(node.stdout.readline())
    time.sleep(0.3)
    os.kill(pid, signal.SIGTERM)  # as a terminal's Ctrl-C reaches both: it is the node's to answer
    os.kill(pid, signal.SIGINT)
    time.sleep(0.2)
    killed_ns = time.monotonic_ns()
    node.kill()
    node.communicate()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    *_, last = read_records(tmp_path / "power.edge.jsonl")
    assert last["footer"]["clock"]["monotonic_ns"] >= killed_ns


def test_a_sampler_that_is_killed_costs_its_trace_and_not_the_run(tmp_path, caplog):
    with SamplerProcess("edge") as sampler:
        start(sampler, tmp_path, TRACE)
        time.sleep(0.5)
        sampler.process.kill()
        time.sleep(0.1)
        assert sampler.stop() == {}
    assert "ended with code -9" in caplog.text
    assert not any("footer" in record for record in read_records(tmp_path / "power.edge.jsonl"))


def test_what_cannot_be_sampled_is_told_before_the_run(tmp_path):
    for probes, out, error, says in (
        ({"psutil_estimate": {"watts": 3}}, tmp_path, ProbeError, "no option 'watts'"),
        ({"seismograph": {}}, tmp_path, ProbeError, "unknown probe 'seismograph'"),
        (TRACE, tmp_path / "missing" / "folder", OSError, "No such file"),
    ):
        with SamplerProcess("edge") as sampler, pytest.raises(error, match=says):
            start(sampler, out, probes)
