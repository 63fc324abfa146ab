"""RAPL through perf: the layout from a tree, the system call for real on the kernel's software clock."""

import os
import time

import pytest

from nodes.probes import make_probe, rapl_perf

SOFTWARE, CPU_CLOCK = 1, 0  # an event source every kernel has: nanoseconds of a CPU


@pytest.fixture
def source(tmp_path):
    """A `power` event source whose `joules` are seconds of CPU 0, by the real perf_event_open."""
    files = {"type": SOFTWARE, "cpumask": 0, "modalias": "cpu:type:x86,ven0000fam0006mod0055:feature:,0000"}
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
    probe = make_probe("rapl_perf", root=source, cpus=source)
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
    reads = []
    for _ in range(2):
        began_s = time.monotonic()
        values = {reading.channel: reading.value for reading in probe.read()}
        reads.append((began_s, values["package-0"], time.monotonic()))
        time.sleep(0.2)
    (began_s, before, done_s), (again_s, after, ended_s) = reads
    assert again_s - done_s <= after - before <= ended_s - began_s, "a watt"
    probe.close()


@pytest.mark.parametrize(
    ("vendor", "packages", "dies_count", "watts"),
    [
        ("0002", 1, False, 100.0),  # Zen 4 on Linux 6.9: a CPU for each of four dies, one counter
        ("0009", 2, False, 200.0),
        ("0000", 2, True, 800.0),  # Cascade Lake-AP: dies with counters of their own
    ],
)
def test_every_counter_counts_once_however_many_cpus_show_it(source, monkeypatch, vendor, packages, dies_count, watts):
    """Counters of 100 W, each opened at 0 as perf opens them; four CPUs a package in the mask, dies of eight."""
    mask = range(0, packages * 32, 8)
    (source / "cpumask").write_text(",".join(map(str, mask)))
    for cpu in mask:
        (source / f"cpu{cpu}/topology").mkdir(parents=True)
        (source / f"cpu{cpu}/topology/physical_package_id").write_text(f"{cpu // 32}\n")
    (source / "modalias").write_text(f"cpu:type:x86,ven{vendor}fam0019mod0011:feature:,0000,0002\n")
    now, opened = [50.0], {}

    def open_counter(kind, config, cpu):
        fd = os.open(os.devnull, os.O_RDONLY)
        opened[fd] = now[0]
        return fd

    monkeypatch.setattr(rapl_perf, "_perf_event_open", open_counter)
    monkeypatch.setattr(rapl_perf, "_count", lambda fd: round(100.0 * (now[0] - opened[fd]) * 1e9))
    monkeypatch.setattr(rapl_perf.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    probe = make_probe("rapl_perf", root=source, cpus=source)
    counted = {channel.name for channel in probe.trial().channels if channel.total}
    assert counted == {f"package-{n}" for n in range(packages * (4 if dies_count else 1))}
    before = {reading.channel: reading.value for reading in probe.read()}
    now[0] += 3.0
    after = {reading.channel: reading.value for reading in probe.read()}
    assert sum(after[name] - before[name] for name in counted) == pytest.approx(3.0 * watts)
    probe.close()


def test_denied(source, monkeypatch):
    def refuse(kind, config, cpu):
        raise PermissionError(13, "perf_event_open: Permission denied")

    monkeypatch.setattr(rapl_perf, "_perf_event_open", refuse)
    finding = make_probe("rapl_perf", root=source, cpus=source).trial()
    assert finding.status == "denied" and "sudo sysctl kernel.perf_event_paranoid=0" in finding.remedy


def test_a_still_counter_is_not_counting(source, monkeypatch):
    monkeypatch.setattr(rapl_perf, "_count", lambda fd: 7)
    finding = make_probe("rapl_perf", root=source, cpus=source).trial()
    assert finding.status != "measured"


def test_cpu_lists():
    assert rapl_perf._cpus("0,28\n") == [0, 28] and rapl_perf._cpus("0-2,5") == [0, 1, 2, 5]


def test_nothing_there(tmp_path):
    assert make_probe("rapl_perf", root=tmp_path).trial().status == "unsupported"
