"""The sampler: what it writes survives, what it costs and misses is on record."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from nodes.probes import Channel, Finding, Probe, ProbeError, Reading, make_probe
from nodes.probes.energy import energy_between
from nodes.probes.sampler import Sampler, read_records, read_samples


class Ramp(Probe):
    """Joules at one watt; `hiccup` is called before each read."""

    name = "ramp"

    def __init__(self, hiccup=lambda: None):
        self.hiccup, self.start_s = hiccup, time.monotonic()

    def trial(self):
        channel = Channel("node", "j", "measured", total=True)
        return Finding(self.name, "measured", "a ramp", resolution_ms=1.0, scope="node", channels=(channel,))

    def read(self):
        self.hiccup()
        return [Reading("node", time.monotonic() - self.start_s, "j", "measured")]


def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(1000))


def test_trace_follows_a_real_load(tmp_path):
    pid = os.getpid()
    probes = [
        make_probe("psutil_trace", every_ms=20.0),
        make_probe("psutil_estimate", idle_w=2.0, full_w=10.0, cores=1, pids=[pid]),
    ]
    with Sampler(probes, "device", tmp_path) as sampler:
        time.sleep(0.05)
        before_s = time.process_time()
        burn(0.5)
        used_s = time.process_time() - before_s
        time.sleep(0.05)
    samples = list(read_samples(sampler.path))
    cpu = [s.value for s in samples if (s.probe, s.channel) == ("psutil_trace", "self.cpu")]
    assert cpu[-1] - cpu[0] == pytest.approx(used_s, abs=0.15)
    instants = [s.t_ns for s in samples if s.probe == "psutil_estimate"]
    t0_ns, t1_ns = instants[0], instants[-1]  # no hole has these inside
    got = energy_between(samples, "device", t0_ns, t1_ns)
    assert (got.status, got.source) == ("estimated", "psutil_estimate")
    assert got.joules == pytest.approx(2.0 * (t1_ns - t0_ns) / 1e9 + 8.0 * used_s, rel=0.15)


def test_trace_agrees_with_psutil():
    probe = make_probe("psutil_trace", pids={"parent": os.getppid(), "nobody": 2**22 + 1})
    finding = probe.trial()
    assert "not running: nobody" in finding.detail
    process = psutil.Process()
    burn(0.05)
    seen = {reading.channel: reading.value for reading in probe.read()}
    times = process.cpu_times()
    assert seen["self.cpu"] == pytest.approx(times.user + times.system, abs=0.05)
    assert seen["self.rss"] == pytest.approx(process.memory_info().rss, rel=0.05)
    assert seen["self.switches_voluntary"] == pytest.approx(process.num_ctx_switches().voluntary, abs=50)
    assert seen["lo.rx"] == pytest.approx(psutil.net_io_counters(pernic=True)["lo"].bytes_recv, rel=0.2)
    assert sum(name.endswith(".busy") for name in seen) == psutil.cpu_count()
    assert seen["parent.cpu"] > 0
    probe.close()


def test_throttling_is_counted_where_the_processor_does(tmp_path):
    folder = tmp_path / "devices/system/cpu/cpu0/thermal_throttle"
    folder.mkdir(parents=True)
    (folder / "package_throttle_count").write_text("12\n")
    probe = make_probe("psutil_trace", root=tmp_path)
    probe.trial()
    assert {reading.channel: reading.value for reading in probe.read()}["cpu.throttles"] == 12
    probe.close()


def test_frequency_and_heat_are_those_of_the_boards_files(tmp_path):
    files = {
        "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000",
        "devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "2500000",
        "class/hwmon/hwmon0/name": "coretemp",
        "class/hwmon/hwmon0/temp1_input": "51000",
        "class/hwmon/hwmon0/temp1_label": "Package id 0",
        "class/hwmon/hwmon0/temp2_input": "48500",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    probe = make_probe("psutil_trace", root=tmp_path)
    units = {channel.name: channel.unit for channel in probe.trial().channels}
    assert units["cpu.frequency"] == "hz" and units["coretemp.Package id 0"] == "c"
    seen = {reading.channel: reading.value for reading in probe.read()}
    assert seen["cpu.frequency"] == 2e9
    assert (seen["coretemp.Package id 0"], seen["coretemp.1"]) == (51.0, 48.5)
    probe.close()


def test_sensors_of_one_name_all_reach_the_trace_apart(tmp_path):
    """Two sockets, two drives, one chip that calls two places alike: as many channels as sensors, each with its own
    reading, wherever this boot's numbers put the chips."""
    for number, (device, chip, heat) in enumerate(
        [("0000:02:00.0", "nvme", {"Composite": 30}), ("0000:01:00.0", "nvme", {"Composite": 20}),
         ("coretemp.0", "coretemp", {"Core 0": 40, "Core 1": 41}), ("dell_smm", "dell_smm", {"Ambient": 50}),
         ("coretemp.1", "coretemp", {"Core 0": 42, "Core 1": 43})]
    ):  # fmt: skip
        folder = tmp_path / "devices" / device / f"hwmon{number}"
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{chip}\n")
        for place, (label, celsius) in enumerate(heat.items(), 1):
            (folder / f"temp{place}_label").write_text(f"{label}\n")
            (folder / f"temp{place}_input").write_text(f"{celsius}000\n")
        (tmp_path / "class/hwmon").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"class/hwmon/hwmon{number}").symlink_to(folder)
    (tmp_path / "devices/dell_smm/hwmon3/temp2_label").write_text("Ambient\n")
    (tmp_path / "devices/dell_smm/hwmon3/temp2_input").write_text("51000\n")
    probe = make_probe("psutil_trace", root=tmp_path)
    with Sampler([probe, Ramp()], "edge", tmp_path) as sampler:
        time.sleep(0.1)
    samples = list(read_samples(sampler.path))
    assert {s.channel: s.value for s in samples if s.unit == "c"} == {
        "nvme.Composite#1": 20, "nvme.Composite#2": 30,
        "coretemp.Core 0#1": 40, "coretemp.Core 0#2": 42, "coretemp.Core 1#1": 41, "coretemp.Core 1#2": 43,
        "dell_smm.Ambient#1": 50, "dell_smm.Ambient#2": 51,
    }  # fmt: skip
    assert any(s.probe == "ramp" for s in samples)


def test_a_probe_that_gives_one_name_twice_is_told_and_left_out(tmp_path):
    class Twins(Ramp):
        name = "twins"

        def trial(self):
            finding = super().trial()
            return replace(finding, channels=finding.channels * 2)

    with Sampler([Twins(), Ramp()], "edge", tmp_path) as sampler:
        time.sleep(0.1)
    assert sampler.findings[0].status == "unsupported" and "called node" in sampler.findings[0].detail
    assert {s.probe for s in read_samples(sampler.path)} == {"ramp", "sampler"}


def test_a_lane_that_dies_is_told(tmp_path):
    class Vague(Ramp):
        every_ms = "seldom"  # what another package's probe calls a number

    sampler = Sampler([Vague()], "edge", tmp_path).start()
    sampler._lanes[0].join(5)
    with pytest.raises(OSError, match=r"power\.edge\.jsonl is incomplete: .*TypeError"):
        sampler.stop()


def test_a_process_that_ends_stops_its_channels():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    probe = make_probe("psutil_trace", pids={"child": child.pid})
    assert "child.cpu" in {channel.name for channel in probe.trial().channels}
    child.kill()
    child.wait()
    seen = {reading.channel for reading in probe.read()}
    assert "self.cpu" in seen and "child.cpu" not in seen
    probe.close()


def test_cost_and_lateness_are_recorded(tmp_path):
    probes = [
        make_probe("psutil_trace"),
        make_probe("psutil_estimate", idle_w=1, full_w=2, pids=[os.getpid()]),
    ]
    with Sampler(probes, "edge", tmp_path) as sampler:
        time.sleep(2.0)
    first, *_, last = read_records(sampler.path)
    footer = last["footer"]
    seconds = (footer["clock"]["monotonic_ns"] - first["header"]["clock"]["monotonic_ns"]) / 1e9
    assert 0 < footer["cpu_s"] < seconds  # how small it is, `dssd bench energy` says
    assert footer["ticks"] + footer["missed"] == pytest.approx(seconds * 50, abs=5)
    assert 0 <= footer["late_ms"]["median"] <= footer["late_ms"]["p99"] <= footer["late_ms"]["max"]
    own = {s.channel: s.value for s in read_samples(sampler.path) if s.probe == "sampler"}
    assert own["ticks"] == footer["ticks"] and own["cpu"] == footer["cpu_s"]


def test_header_says_what_a_reader_needs(tmp_path):
    with Sampler([Ramp(), make_probe("psutil_estimate")], "edge", tmp_path, interval_ms=10) as sampler:
        pass
    header = next(read_records(sampler.path))["header"]
    assert header["node"] == "edge" and header["interval_ms"] == 10
    assert {"monotonic_ns", "wall_ns", "boot_id"} <= set(header["clock"])
    assert [f["status"] for f in header["findings"]] == ["measured", "unsupported"]
    assert header["energy_source"]["probes"] == ["ramp"] and header["energy_source"]["reason"]
    assert {s.probe for s in read_samples(sampler.path)} == {"ramp", "sampler"}  # what cannot be read is not


def test_long_format(tmp_path):
    with Sampler([Ramp()], "edge", tmp_path) as sampler:
        time.sleep(0.1)
    sample = next(s for s in read_samples(sampler.path) if s.probe == "ramp")
    assert sample._fields[:7] == ("t_ns", "node", "probe", "channel", "value", "unit", "status")
    assert sample[1:4] == ("edge", "ramp", "node") and sample[5:] == ("j", "measured", True, 0.0)


def test_missed_ticks_are_recorded_and_not_filled(tmp_path):
    stalls = iter([0.0] * 5 + [0.2])
    with Sampler([Ramp(lambda: time.sleep(next(stalls, 0.0)))], "edge", tmp_path, interval_ms=10) as sampler:
        time.sleep(0.5)
    gaps = [r["gap"]["missed"] for r in read_records(sampler.path) if "gap" in r]
    assert sum(gaps) == sampler.missed >= 15 and max(gaps) >= 15
    times = [s.t_ns for s in read_samples(sampler.path) if s.probe == "ramp"]
    assert len(times) <= 55 and all(b > a for a, b in itertools.pairwise(times))


def test_a_sensor_pulled_out_does_not_end_the_trace(tmp_path):
    def gone():
        raise OSError(5, "Input/output error")

    broken = Ramp(gone)
    broken.name = "broken"
    with Sampler([broken, Ramp()], "edge", tmp_path) as sampler:
        time.sleep(0.3)
    errors = [r["error"] for r in read_records(sampler.path) if "error" in r]
    assert len(errors) == 1 and errors[0]["probe"] == "broken" and "Input/output" in errors[0]["what"]
    assert sampler.errors > 5 and sum(s.probe == "ramp" for s in read_samples(sampler.path)) > 5


def test_a_slow_probe_does_not_delay_a_fast_one(tmp_path):
    class Plug(Ramp):
        blocking, every_ms = True, 100.0

    with Sampler([Plug(lambda: time.sleep(0.08)), Ramp()], "edge", tmp_path, interval_ms=10) as sampler:
        time.sleep(0.6)
    counts = [sum(r.get("p") == i for r in read_records(sampler.path)) for i in (0, 1)]
    assert counts[0] <= 10 and counts[1] > 30


def test_a_line_cut_short_is_left_out_and_a_restart_goes_on(tmp_path):
    with Sampler([Ramp()], "edge", tmp_path) as sampler:
        time.sleep(0.1)
    whole = list(read_samples(sampler.path))
    os.truncate(sampler.path, sampler.path.stat().st_size - 20)  # within the footer
    assert list(read_samples(sampler.path)) == whole
    with Sampler([Ramp()], "edge", tmp_path):
        time.sleep(0.1)
    assert list(read_samples(sampler.path))[: len(whole)] == whole
    assert sum("header" in r for r in read_records(sampler.path)) == 2


def test_a_line_broken_elsewhere_is_an_error(tmp_path):
    path = tmp_path / "power.x.jsonl"
    path.write_text('{"header": {}}\n{"p": 0, "t"\n{"p": 0}\n')
    with pytest.raises(ProbeError, match="line 2"):
        list(read_records(path))
    path.write_text('{"p": 0, "t": 1, "d": 0, "v": [1]}\n')
    with pytest.raises(ProbeError, match="header"):
        list(read_samples(path))


@pytest.mark.parametrize("seed", range(3))
def test_whatever_a_full_disk_takes_at_once_the_trace_is_whole_when_it_has_taken_all(tmp_path, monkeypatch, seed):
    """The file system takes any part of what it is given, or nothing for a while, and has room again at last."""
    write, chance, full, reads = os.write, random.Random(seed), [True], []

    def some_of_it(fd, data):
        if fd != sampler._fd or not full:
            return write(fd, data)
        if chance.random() < 0.7:
            raise OSError(28, "No space left on device")
        return write(fd, data[: chance.randint(0, 40)])

    sampler = Sampler([Ramp(lambda: reads.append(1))], "edge", tmp_path, interval_ms=5, flush_s=0.01).start()
    monkeypatch.setattr("nodes.probes.sampler.os.write", some_of_it)
    time.sleep(0.3)
    full.clear()
    footer = sampler.stop()
    first, *lines, last = (json.loads(line) for line in sampler.path.read_bytes().splitlines())
    assert "header" in first and last == {"footer": footer}
    assert sum(line.get("p") == 0 for line in lines) == len(reads)


def test_a_disk_that_stays_full_costs_the_rest_of_the_trace_and_says_so(tmp_path, monkeypatch):
    write, room = os.write, [10**6]

    def to_the_brim(fd, data):
        if fd != sampler._fd:
            return write(fd, data)
        if not room[0]:
            raise OSError(28, "No space left on device")
        took = write(fd, data[: room[0]])
        room[0] -= took
        return took

    sampler = Sampler([Ramp()], "edge", tmp_path, interval_ms=10, flush_s=0.02)
    monkeypatch.setattr("nodes.probes.sampler.os.write", to_the_brim)
    sampler.start()
    time.sleep(0.2)
    room[0] = 30
    time.sleep(0.1)
    with pytest.raises(OSError, match=r"power\.edge\.jsonl is incomplete: No space left") as raised:
        sampler.stop()
    assert raised.value.errno == 28, "which a node tells as such"
    assert any(s.probe == "ramp" for s in read_samples(sampler.path))
    with pytest.raises(OSError, match="No such file"):
        Sampler([Ramp()], "edge", tmp_path / "none" / "power.jsonl").start()


def standalone(tmp_path, *args):
    command = [sys.executable, "-m", "nodes.probes.sampler", "--node", "edge", "--out", str(tmp_path), *args]
    process = subprocess.Popen(command)
    path, deadline = tmp_path / "power.edge.jsonl", time.monotonic() + 20
    while not path.exists() or path.stat().st_size < 10_000:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    return process, path


def test_sigterm_flushes_everything(tmp_path):
    process, path = standalone(
        tmp_path,
        "--pid",
        str(os.getpid()),
        "--probe",
        f"psutil_estimate:idle_w=1,full_w=2,pids=[{os.getpid()}]",
    )
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    *_, last = read_records(path)
    assert "footer" in last
    channels = {(s.probe, s.channel) for s in read_samples(path)}
    assert {("psutil_trace", f"pid{os.getpid()}.cpu"), ("psutil_estimate", "node")} <= channels


def test_sigkill_loses_at_most_the_last_flush(tmp_path):
    process, path = standalone(tmp_path)
    killed_ns = time.monotonic_ns()
    process.kill()
    process.wait(10)
    last_ns = max(sample.t_ns for sample in read_samples(path))
    assert killed_ns - last_ns < 2e9  # flushed every 0.25 s; the rest is this machine being busy


def test_ends_with_the_process_it_traces(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    process, path = standalone(tmp_path, "--pid", str(child.pid))
    child.kill()
    child.wait()
    assert process.wait(10) == 0
    assert "footer" in json.loads(path.read_text().splitlines()[-1])


def test_a_wrong_option_is_named(tmp_path):
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "nodes.probes.sampler",
            "--node",
            "x",
            "--out",
            str(tmp_path),
            "--probe",
            "psutil_estimate:watt=1",
        ],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2 and "no option 'watt'" in result.stderr and "idle_w" in result.stderr
