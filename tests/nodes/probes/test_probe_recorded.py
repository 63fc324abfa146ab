"""Energy from elsewhere: a recorded trace, a bench meter's file, another package's probe."""

import sys
import time

import pytest

from nodes.probes import ProbeError, make_probe, probe_names
from nodes.probes.energy import energy_between
from nodes.probes.meter_csv import read_meter_csv
from nodes.probes.sampler import Sampler, read_samples


@pytest.fixture
def recording(tmp_path):
    """Half a second of a node whose two watts are known."""
    with Sampler([make_probe("psutil_estimate", idle_w=2.0, full_w=2.0)], "edge", tmp_path) as sampler:
        time.sleep(0.5)
    return sampler.path


def test_replay_repeats_a_trace_and_calls_it_a_model(recording, tmp_path):
    probe = make_probe("replay", path=str(recording))
    finding = probe.trial()
    assert (finding.status, finding.scope) == ("modelled", "node") and recording.name in finding.detail
    with Sampler([probe], "again", tmp_path, interval_ms=10) as sampler:
        time.sleep(0.4)
    again = [s for s in read_samples(sampler.path) if s.probe == "replay" and s.total]
    got = energy_between(again, "again", again[0].t_ns, again[-1].t_ns)
    assert got.status == "modelled"
    assert got.joules == pytest.approx(2.0 * (again[-1].t_ns - again[0].t_ns) / 1e9, rel=0.05)


def test_replay_is_silent_after_its_last_sample(recording, monkeypatch):
    probe = make_probe("replay", path=str(recording), probe="psutil_estimate")
    probe.trial()
    later = time.monotonic() + 60
    monkeypatch.setattr("time.monotonic", lambda: later)
    assert probe.read() == []


def test_replay_of_what_is_no_trace(tmp_path, recording):
    assert make_probe("replay", path=str(tmp_path / "none")).trial().status == "unsupported"
    (tmp_path / "x").write_text("hello\nworld\n")
    assert make_probe("replay", path=str(tmp_path / "x")).trial().status == "unsupported"
    assert "no samples of rapl" in make_probe("replay", path=str(recording), probe="rapl").trial().detail


def test_meter_csv(tmp_path):
    lines = [f"{i * 10},{1500 if i < 50 else 2500}" for i in range(101)]  # ms, mW
    (tmp_path / "otii.csv").write_text("\n".join(["Timestamp (ms),Power (mW)", *lines]))
    how = {"time_column": "Timestamp (ms)", "power_column": "Power (mW)", "time_unit": "ms", "watts_per_unit": 1e-3}
    samples = list(read_meter_csv(tmp_path / "otii.csv", "device", 10**15, **how))
    got = energy_between(samples, "device", 10**15, 10**15 + 10**9)
    assert got.joules == pytest.approx(0.5 * 1.5 + 0.5 * 2.5, rel=0.01) and got.status == "measured"
    assert samples[-1].renewed_ms == pytest.approx(10)
    with pytest.raises(ProbeError, match=r"no column 'watts'; it has: Timestamp"):
        list(read_meter_csv(tmp_path / "otii.csv", "device", 0, **how | {"power_column": "watts"}))
    (tmp_path / "bad.csv").write_text("Timestamp (ms),Power (mW)\n0,1\n10,over\n")
    with pytest.raises(ProbeError, match="line 3"):
        list(read_meter_csv(tmp_path / "bad.csv", "device", 0, **how))


SENSORS = {  # the probes that integrate watts, and how often each of their sensors renews them
    "battery": ({"BAT0/type": "Battery", "BAT0/status": "Discharging", "BAT0/power_now": 9_500_000}, {"node": 1000.0}),
    "hwmon": (
        {
            "class/hwmon/hwmon0/name": "ina226", "class/hwmon/hwmon0/power1_input": 2_500_000,
            "class/hwmon/hwmon0/update_interval": 250, "class/hwmon/hwmon0/energy1_input": 7_000_000,
            "class/hwmon/hwmon1/name": "power_meter", "class/hwmon/hwmon1/power1_average": 80_000_000,
        },
        {"ina226.power1": 250.0, "power_meter.power1": 100.0, "ina226.energy1": 0.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SENSORS)
def test_a_trace_says_how_often_the_watts_behind_its_joules_are_renewed(tmp_path, name):
    files, renewed_ms = SENSORS[name]
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"{content}\n")
    with Sampler([make_probe(name, root=tmp_path)], "edge", tmp_path) as sampler:
        time.sleep(0.1)
    samples = list(read_samples(sampler.path))
    assert {s.channel: s.renewed_ms for s in samples if s.unit == "j"} == renewed_ms


def test_a_trace_from_before_that_was_told_is_read_as_before(tmp_path):
    (tmp_path / "power.edge.jsonl").write_text(
        '{"header": {"node": "edge", "probes": ["plug"], "columns": [[["node", "j", "measured", true]]]}}\n'
        '{"p": 0, "t": 5, "d": 1, "v": [1.5]}\n'
    )
    [sample] = read_samples(tmp_path / "power.edge.jsonl")
    assert sample == (5, "edge", "plug", "node", 1.5, "j", "measured", True, 0.0)


def test_another_package_adds_a_probe(tmp_path, monkeypatch):
    (tmp_path / "my_meter.py").write_text(
        "from nodes.probes import Channel, Finding, Probe, Reading\n"
        "class Meter(Probe):\n"
        "    name = 'my_meter'\n"
        "    def __init__(self, port='/dev/ttyUSB0'): self.port = port\n"
        "    def trial(self): return Finding(self.name, 'denied', self.port, 'sudo usermod -aG dialout $USER')\n"
        "    def read(self): return []\n"
        "not_a_probe = 7\n"
    )
    info = tmp_path / "my_meter-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-meter\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dssd.probes]\nmy_meter = my_meter:Meter\nbad = my_meter:not_a_probe\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "my_meter" in probe_names()
    assert make_probe("my_meter", port="/dev/x").trial().detail == "/dev/x"
    with pytest.raises(ProbeError, match="it has: port"):
        make_probe("my_meter", volts=5)
    with pytest.raises(ProbeError, match="no Probe class"):
        make_probe("bad")
    sys.modules.pop("my_meter")
