"""NVIDIA Jetson: the module's INA3221 and INA238 power monitors, each rail under the vendor's own label."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nodes.probes.hwmon import Hwmon, chips, is_tegra, label_of, text

INPUTS = ("VIN", "VDD_IN", "POM_5V_IN")  # what feeds the module; the other rails are inside it
FED_BY = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}  # AGX Orin: a rail inside another, by NVIDIA's table of rails


class Jetson(Hwmon):
    """Counts the input where it is measured (Orin Nano, Orin NX, Xavier NX, Thor), else the sum of the rails that lie
    in no other (AGX Orin, AGX Xavier), else the rails named in `total`.

    A rail is never called cpu or gpu here: VDD_CPU_GPU_CV is both. The carrier board is outside all of them but Thor's
    VIN, and the monitor averages inside, so that `resolution_ms` is at best its update interval.
    """

    name = "jetson"
    absent = "not a Jetson, or one without a power monitor"

    def _sensors(self) -> Iterator[tuple[str, list[Path], float, bool]]:
        if not is_tegra(self.root):
            return
        for chip in chips(self.root):
            if text(chip / "name") == "ina3221":
                for channel in "123":  # 7 is the sum of the shunt voltages, no rail
                    label = label_of(chip, f"in{channel}")
                    volts, amps = chip / f"in{channel}_input", chip / f"curr{channel}_input"
                    if label != "NC" and volts.exists() and amps.exists():
                        yield label, [volts, amps], 1e-6, False  # mV x mA
            elif text(chip / "name") == "ina238" and (chip / "power1_input").exists():
                label = next((text(p) for p in sorted(chip.glob("*_label"))), "") or "VIN"
                yield label, [chip / "power1_input"], 1e-6, False  # uW
        for name in sorted(self.root.glob("bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*")):  # JetPack 4
            number = name.name.rpartition("_")[2]
            yield text(name), [name.parent / f"in_power{number}_input"], 1e-3, False  # mW

    def _total(self, labels: list[str]) -> list[str]:
        inputs = [label for label in INPUTS if label in labels]
        return self.wanted or inputs[:1] or [label for label in labels if FED_BY.get(label) not in labels]
