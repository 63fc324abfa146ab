"""NVML against a stand-in that answers as drivers do, and against the real library where there is one."""

import importlib
import types

import pytest

from nodes.probes import make_probe


class NVMLError(Exception):
    def __init__(self, value):
        super().__init__({3: "Not Supported", 4: "Insufficient Permissions", 9: "Driver Not Loaded"}[value])
        self.value = value


class FakeNvml:
    """One GPU; `refuses` are the functions that answer NOT_SUPPORTED."""

    NVMLError, NVML_ERROR_NO_PERMISSION, NVML_CLOCK_SM = NVMLError, 4, 1

    def __init__(self, refuses=(), init_error=None):
        self.refuses, self.init_error = refuses, init_error
        self.energy_mj, self.power_mw, self.is_open = 5_000_000, 40_000, 0

    def nvmlInit(self):
        if self.init_error:
            raise NVMLError(self.init_error)
        self.is_open += 1

    def nvmlShutdown(self):
        self.is_open -= 1

    def __getattr__(self, name):
        answers = {
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetHandleByIndex": 0,
            "nvmlDeviceGetName": "Tesla T4",
            "nvmlDeviceGetTotalEnergyConsumption": self.energy_mj,
            "nvmlDeviceGetPowerUsage": self.power_mw,
            "nvmlDeviceGetUtilizationRates": types.SimpleNamespace(gpu=37),
            "nvmlDeviceGetMemoryInfo": types.SimpleNamespace(used=2**30),
            "nvmlDeviceGetClockInfo": 1590,
            "nvmlDeviceGetCurrentClocksThrottleReasons": 4,
        }

        def call(*args):
            if name in self.refuses:
                raise NVMLError(3)
            return answers[name]

        return call


def values(probe):
    return {reading.channel: reading.value for reading in probe.read()}


def test_energy_counter():
    lib = FakeNvml()
    probe = make_probe("nvml", lib=lib)
    finding = probe.trial()
    assert (finding.status, finding.scope) == ("measured", "gpu") and "energy counter" in finding.detail
    assert [(c.name, c.renewed_ms) for c in finding.channels if c.total] == [("gpu0.energy", 0.0)]
    assert values(probe) == {
        "gpu0.energy": 0.0,
        "gpu0.power": 40.0,
        "gpu0.utilisation": 37,
        "gpu0.memory": 2**30,
        "gpu0.clock": 1590e6,
        "gpu0.throttle": 4,
    }
    lib.energy_mj += 2500
    assert values(probe)["gpu0.energy"] == 2.5
    probe.close()
    assert lib.is_open == 0


def test_power_is_integrated_where_there_is_no_counter(monkeypatch):
    lib = FakeNvml(refuses={"nvmlDeviceGetTotalEnergyConsumption"})
    probe = make_probe("nvml", lib=lib)
    finding = probe.trial()
    assert "integrated from power" in finding.detail
    assert [(c.name, c.renewed_ms) for c in finding.channels if c.total] == [("gpu0.energy", 100.0)]
    start = values(probe)["gpu0.energy"]
    clock = importlib.import_module("time").monotonic() + 10
    monkeypatch.setattr("time.monotonic", lambda: clock)
    lib.power_mw = 60_000
    assert values(probe)["gpu0.energy"] - start == pytest.approx(50 * 10, rel=0.01)


def test_a_gpu_that_shows_no_power_is_unsupported():
    lib = FakeNvml(refuses={"nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage"})
    finding = make_probe("nvml", lib=lib).trial()
    assert finding.status == "unsupported" and "Tesla T4" in finding.detail and finding.remedy
    assert lib.is_open == 0


def test_what_is_not_supported_is_no_channel():
    finding = make_probe("nvml", lib=FakeNvml(refuses={"nvmlDeviceGetUtilizationRates"})).trial()
    assert "gpu0.utilisation" not in [channel.name for channel in finding.channels]


@pytest.mark.parametrize(("error", "status"), [(9, "unsupported"), (4, "denied")])
def test_no_driver_or_no_permission(error, status):
    finding = make_probe("nvml", lib=FakeNvml(init_error=error)).trial()
    assert finding.status == status and "nvidia-smi" in finding.remedy


def test_absent_library_says_how_to_get_it(monkeypatch):
    def refuse(name, *args, **kwargs):
        raise ImportError(name) if name == "pynvml" else None

    monkeypatch.setattr(importlib, "import_module", refuse)
    from nodes.probes.nvml import Nvml

    assert Nvml().trial().remedy == "pip install 'dssd-testbed[nvidia]'"


def test_the_real_library_answers_or_is_refused_cleanly():
    probe = make_probe("nvml")
    finding = probe.trial()
    if finding.usable:
        assert values(probe)
    else:
        assert finding.detail and finding.remedy
    probe.close()
