"""NVIDIA GPUs through NVML: energy counter, else power integrated; utilisation, memory, clock, throttling."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from nodes.probes import Channel, Finding, Joules, Probe, Reading

STEP_MS = 100.0  # both the energy counter and the power sensor move about this often
SLOW_S = 0.1  # utilisation and clocks are averages over at least this long

Query = Callable[[], float]
Queries = dict[Channel, Query]


class Nvml(Probe):
    """`devices`: which GPUs by index, all by default. `lib` stands in for pynvml."""

    name = "nvml"

    def __init__(self, devices: Sequence[int] | None = None, lib: Any = None) -> None:
        self.devices, self.lib = devices, lib
        self.open = False
        self.fast: Queries = {}
        self.slow: Queries = {}
        self.slow_due_s = 0.0

    def trial(self) -> Finding:
        self.close()
        try:
            self.lib = self.lib or importlib.import_module("pynvml")
        except ImportError:
            return Finding(self.name, "unsupported", "pynvml is not installed", "pip install 'dssd-testbed[nvidia]'")
        try:
            self.lib.nvmlInit()
            self.open = True
            indices = range(self.lib.nvmlDeviceGetCount()) if self.devices is None else self.devices
            names = [self._add(index) for index in indices]
        except self.lib.NVMLError as error:
            denied = error.value == self.lib.NVML_ERROR_NO_PERMISSION
            self.close()
            return Finding(
                self.name,
                "denied" if denied else "unsupported",
                str(error),
                "nvidia-smi must list the GPU for this user: install or load the NVIDIA driver",
            )
        channels = (*self.fast, *self.slow)
        if not any(channel.total for channel in channels):
            self.close()
            detail = f"{', '.join(names) or 'no GPU'}: shows neither energy nor power"
            return Finding(self.name, "unsupported", detail, "on a Jetson use the jetson probe; else a meter")
        return Finding(self.name, "measured", "; ".join(names), "", STEP_MS, "gpu", channels)

    def read(self) -> list[Reading]:
        queries = dict(self.fast)
        if time.monotonic() >= self.slow_due_s:
            self.slow_due_s = time.monotonic() + SLOW_S
            queries |= self.slow
        readings = []
        for channel, query in queries.items():
            try:
                readings.append(Reading(channel.name, query(), channel.unit, channel.status))
            except self.lib.NVMLError:
                continue
        return readings

    def close(self) -> None:
        if self.open:
            self.lib.nvmlShutdown()
        self.open, self.fast, self.slow = False, {}, {}

    def _add(self, index: int) -> str:
        """Tries every query on a GPU, keeps those that answer; returns what to call it. Raises NVMLError."""
        nvml = self.lib
        gpu = nvml.nvmlDeviceGetHandleByIndex(index)
        name = nvml.nvmlDeviceGetName(gpu)

        def keep(queries: Queries, what: str, unit: str, query: Query, **about: Any) -> bool:
            try:
                query()
            except nvml.NVMLError:
                return False
            queries[Channel(f"gpu{index}.{what}", unit, "measured", **about)] = query
            return True

        def power_w() -> float:
            return nvml.nvmlDeviceGetPowerUsage(gpu) / 1e3

        def counter_j() -> float:
            return nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1e3

        keep(self.slow, "power", "w", power_w)
        keep(self.slow, "utilisation", "pct", lambda: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu)
        keep(self.slow, "memory", "bytes", lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).used)
        keep(self.slow, "clock", "hz", lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM) * 1e6)
        keep(self.slow, "throttle", "bits", lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu))
        try:
            start_j = counter_j()
        except nvml.NVMLError:  # before Volta
            integral = Joules()
            about = {"total": True, "renewed_ms": STEP_MS}
            integrated = keep(self.fast, "energy", "j", lambda: integral.add(power_w()), **about)
            return f"{name}, energy integrated from power" if integrated else name
        keep(self.fast, "energy", "j", lambda: counter_j() - start_j, total=True)
        return f"{name}, energy counter"
