"""A second opinion: the same GPUs' and packages' counters as the library Zeus reads them (ml.energy/zeus)."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

from nodes.probes import Channel, Finding, Probe, Reading
from nodes.probes.nvml import STEP_MS

Counters = dict[str, Callable[[], float]]


class Zeus(Probe):
    """Recorded beside the probes nvml and rapl and never counted: two readers of one counter have to agree, and where
    they do not, one of them is wrong. `lib` stands in for zeus.device."""

    name = "zeus"
    every_ms = 100.0
    blocking = True  # it asks a process of its own about wrapped counters

    def __init__(self, lib: Any = None) -> None:
        self.lib = lib
        self.counters: Counters = {}
        self.start_j: dict[str, float] = {}

    def trial(self) -> Finding:
        try:
            self.lib = self.lib or importlib.import_module("zeus.device")
        except ImportError as error:
            if error.name == "zeus":
                return Finding(self.name, "unsupported", "Zeus is not installed", "pip install 'dssd-testbed[zeus]'")
            return Finding(
                self.name, "unsupported", f"Zeus cannot be imported: {error}", "pip install 'dssd-testbed[zeus]'"
            )
        notes: list[str] = []
        for kind, found in (("gpu", self._gpus), ("cpu", self._cpus)):
            try:
                counters = found()
                self.start_j |= {name: query() for name, query in counters.items()}
                self.counters |= counters
            except Exception as error:  # Zeus has an exception for each thing that a machine may lack
                notes.append(f"no {kind}: {error}")
        if not self.counters:
            denied = any("ermission" in note for note in notes)
            return Finding(
                self.name,
                "denied" if denied else "unsupported",
                "; ".join(notes),
                "it reads what nvml and rapl read: see their remedies",
            )
        channels = tuple(Channel(name, "j", "measured") for name in self.counters)
        detail = "; ".join([", ".join(self.counters), *notes, "a cross-check, never counted"])
        return Finding(self.name, "measured", detail, "", STEP_MS, "", channels)

    def read(self) -> list[Reading]:
        return [Reading(name, query() - self.start_j[name], "j", "measured") for name, query in self.counters.items()]

    def _gpus(self) -> Counters:
        gpus = self.lib.get_gpus()

        def joules(index: int) -> float:
            return gpus.get_total_energy_consumption(index) / 1e3

        return {f"gpu{i}.energy": partial(joules, i) for i in range(len(gpus))}

    def _cpus(self) -> Counters:
        cpus = self.lib.get_cpus()

        def joules(index: int, part: str) -> float:
            return getattr(cpus.get_total_energy_consumption(index), part) / 1e3

        found: Counters = {}
        for i in range(len(cpus)):
            found[f"package-{i}"] = partial(joules, i, "cpu_mj")
            if cpus.supports_get_dram_energy_consumption(i):
                found[f"package-{i}.dram"] = partial(joules, i, "dram_mj")
        return found
