"""RAPL through perf: the layout from a tree, the system call for real on the kernel's software clock."""

import time

import pytest

from nodes.probes import make_probe, rapl_perf

SOFTWARE, CPU_CLOCK = 1, 0  # an event source every kernel has: nanoseconds of a CPU


@pytest.fixture
def source(tmp_path):
    """A `power` event source whose `joules` are seconds of CPU 0, by the real perf_event_open."""
    files = {"type": SOFTWARE, "cpumask": 0}
    for event in ("energy-pkg", "energy-cores", "energy-ram", "energy-psys"):
        files |= {
            f"events/{event}": f"event=0x{CPU_CLOCK:02x}",
            f"events/{event}.scale": "1.0e-9",
            f"events/{event}.unit": "Joules",
        }
    (tmp_path / "events").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(f"{content}\n")
    return tmp_path


def test_counts_for_real(source):
    probe = make_probe("rapl_perf", root=source)
    finding = probe.trial()
    if finding.status == "denied":
        assert "perf_event_paranoid" in finding.remedy
        pytest.skip(finding.detail)
    assert (finding.status, finding.scope) == ("measured", "cpu")
    assert {c.name: c.total for c in finding.channels} == {
        "package-0": True,
        "package-0.core": False,
        "package-0.dram": False,
        "psys": False,
    }
    before = {reading.channel: reading.value for reading in probe.read()}
    time.sleep(0.2)
    after = {reading.channel: reading.value for reading in probe.read()}
    assert after["package-0"] - before["package-0"] == pytest.approx(0.2, abs=0.1)
    probe.close()


def test_denied(source, monkeypatch):
    def refuse(kind, config, cpu):
        raise PermissionError(13, "perf_event_open: Permission denied")

    monkeypatch.setattr(rapl_perf, "_perf_event_open", refuse)
    finding = make_probe("rapl_perf", root=source).trial()
    assert finding.status == "denied" and "sudo sysctl kernel.perf_event_paranoid=0" in finding.remedy


def test_a_still_counter_is_not_counting(source, monkeypatch):
    monkeypatch.setattr(rapl_perf, "_count", lambda fd: 7)
    finding = make_probe("rapl_perf", root=source).trial()
    assert finding.status != "measured"


def test_cpu_lists():
    assert rapl_perf._cpus("0,28\n") == [0, 28] and rapl_perf._cpus("0-2,5") == [0, 1, 2, 5]


def test_nothing_there(tmp_path):
    assert make_probe("rapl_perf", root=tmp_path).trial().status == "unsupported"
