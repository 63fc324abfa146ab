"""Zeus as a second reader of the same counters: labelled alike, never counted, refused by name where it is absent."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from nodes.probes import choose_energy_source, make_probe
from nodes.probes.zeus import Zeus


class Missing(Exception):
    """As ZeusGPUInitError and its like."""


class Gpus:
    """As zeus.device.get_gpus(): millijoules since the driver was loaded."""

    def __init__(self):
        self.mj = [5_000_000, 7_000_000]

    def __len__(self):
        return len(self.mj)

    def get_total_energy_consumption(self, index):
        return self.mj[index]


class Cpus:
    """As zeus.device.get_cpus()."""

    mj = 1_000.0

    def __len__(self):
        return 1

    def get_total_energy_consumption(self, index):
        return SimpleNamespace(cpu_mj=self.mj, dram_mj=self.mj / 10)

    def supports_get_dram_energy_consumption(self, index):
        return True


def raises(message):
    def get():
        raise Missing(message)

    return get


def test_counters_of_both_kinds_from_the_first_read_on():
    gpus, cpus = Gpus(), Cpus()
    probe = Zeus(SimpleNamespace(get_gpus=lambda: gpus, get_cpus=lambda: cpus))
    finding = probe.trial()
    assert [c.name for c in finding.channels] == ["gpu0.energy", "gpu1.energy", "package-0", "package-0.dram"]
    gpus.mj[1] += 2_500
    cpus.mj += 400.0
    assert {r.channel: r.value for r in probe.read()} == pytest.approx(
        {"gpu0.energy": 0.0, "gpu1.energy": 2.5, "package-0": 0.4, "package-0.dram": 0.04}
    )


def test_it_is_never_the_source_of_a_nodes_joules():
    probe = Zeus(SimpleNamespace(get_gpus=Gpus, get_cpus=raises("RAPL unavailable")))
    finding = probe.trial()
    assert finding.usable and "no cpu: RAPL unavailable" in finding.detail
    assert not any(channel.total for channel in finding.channels)
    assert choose_energy_source([finding]).probes == ()


def test_a_machine_without_either_is_told_why():
    nothing = SimpleNamespace(get_gpus=raises("NVML and AMDSMI unavailable"), get_cpus=raises("RAPL unavailable"))
    finding = Zeus(nothing).trial()
    assert finding.status == "unsupported" and "NVML" in finding.detail and "RAPL" in finding.detail
    denied = SimpleNamespace(get_gpus=raises("none"), get_cpus=raises("no permission to read /sys/class/powercap"))
    assert Zeus(denied).trial().status == "denied"


def test_absent_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "zeus", None)
    monkeypatch.setitem(sys.modules, "zeus.device", None)
    finding = make_probe("zeus").trial()
    assert finding.status == "unsupported" and "dssd-testbed[zeus]" in finding.remedy


def test_the_real_library_answers_or_is_refused_cleanly():
    pytest.importorskip("zeus.device", reason="Zeus is not installed (pip install 'dssd-testbed[zeus]')")
    finding = make_probe("zeus").trial()
    assert finding.usable or (finding.detail and finding.remedy)
