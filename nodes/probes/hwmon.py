"""Any power or energy sensor that Linux lists under hwmon: INA219, INA226, INA260, board controllers,
supplies."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from nodes.probes import Channel, Finding, Joules, Probe, Reading, numbered

STEP_MS = 100.0  # of a chip that does not publish its update interval


class Rail:
    """One sensor: the product of its files times `scale` is watts, or joules where it is `cumulative`."""

    def __init__(self, label: str, paths: Sequence[Path], scale: float, cumulative: bool = False) -> None:
        self.label, self.scale = label, scale
        self.files = [path.open("rb", buffering=0) for path in paths]
        self.integral = Joules()
        self.start_j = self._value() if cumulative else None
        self.step_ms = _int(paths[0].parent / "update_interval") or STEP_MS
        self.renewed_ms = 0.0 if cumulative else self.step_ms

    def readings(self) -> list[Reading]:
        """Raises OSError or ValueError where the chip does not answer now."""
        value = self._value()
        if self.start_j is not None:
            return [Reading(self.label, max(0.0, value - self.start_j), "j", "measured")]
        joules = self.integral.add(value)
        return [
            Reading(self.label, joules, "j", "measured"),
            Reading(f"{self.label}.power", value, "w", "measured"),
        ]

    def _value(self) -> float:
        return math.prod(int(os.pread(file.fileno(), 32, 0)) for file in self.files) * self.scale

    def close(self) -> None:
        for file in self.files:
            file.close()


class Hwmon(Probe):
    """`total`: labels of the rails that together are the node. Which they are only the board's maker knows,
    so without it every rail is recorded and none counts."""

    name = "hwmon"
    absent = "no chip with a power or energy sensor"
    every_ms = 50.0
    blocking = True  # a register on a slow bus takes about half a millisecond

    def __init__(self, root: str | Path = "/sys", total: Sequence[str] = ()) -> None:
        self.root, self.wanted = Path(root), list(total)
        self.rails: list[Rail] = []

    def trial(self) -> Finding:
        self.close()
        denied, notes = "", []
        channels: list[Channel] = []
        sensors = list(self._sensors())
        for label, (_, paths, scale, cumulative) in zip(numbered(sensor[0] for sensor in sensors), sensors):
            try:
                rail = Rail(label, paths, scale, cumulative)
                channels += [Channel(r.channel, r.unit, r.status, False, rail.renewed_ms) for r in rail.readings()]
            except PermissionError:
                denied = f"sudo chmod a+r {paths[0]}"
                notes.append(f"{label} may not be read")
            except (OSError, ValueError) as error:
                notes.append(f"{label} dropped: {error}")
            else:
                self.rails.append(rail)
        if not channels:
            detail = "; ".join(notes) or self.absent
            status = "denied" if denied else "unsupported"
            return Finding(self.name, status, detail, denied or "use a meter, or declare watts (psutil_estimate)")
        labels = [rail.label for rail in self.rails]
        total = self._total(labels)
        missing = sorted(set(total) - set(labels))
        if missing:
            self.close()
            detail = f"no rail {', '.join(missing)}; there are: {', '.join(labels)}"
            return Finding(self.name, "unsupported", detail, "name rails that exist")
        counted = tuple(replace(channel, total=channel.name in total) for channel in channels)
        step_ms = max(self.every_ms, *(rail.step_ms for rail in self.rails))
        notes.insert(0, f"{', '.join(labels)}; counted: {' + '.join(total) or 'none (see the option total)'}")
        return Finding(self.name, "measured", "; ".join(notes), "", step_ms, "node" if total else "", counted)

    def read(self) -> list[Reading]:
        readings: list[Reading] = []
        for rail in self.rails:
            try:
                readings += rail.readings()
            except (OSError, ValueError):
                continue
        return readings

    def close(self) -> None:
        for rail in self.rails:
            rail.close()
        self.rails = []

    def _sensors(self) -> Iterator[tuple[str, list[Path], float, bool]]:
        """(label, files, scale, cumulative) of every sensor; a Jetson's belong to its own probe."""
        if is_tegra(self.root):
            return
        for chip in chips(self.root):
            for path in sorted(chip.iterdir()):
                kind = re.fullmatch(r"((energy|power)\d+)_(input|average)", path.name)
                if kind and not (kind[3] == "average" and (chip / f"{kind[1]}_input").exists()):
                    yield f"{text(chip / 'name')}.{label_of(chip, kind[1])}", [path], 1e-6, kind[2] == "energy"

    def _total(self, labels: list[str]) -> list[str]:
        return self.wanted


def chips(root: Path) -> list[Path]:
    """The hwmon chips under this /sys in the order of where they hang: their own numbers differ from boot to boot."""
    return sorted(root.glob("class/hwmon/hwmon*"), key=Path.resolve)


def is_tegra(root: Path) -> bool:
    """Whether the device tree under this /sys is an NVIDIA Jetson's."""
    return "nvidia,tegra" in text(root / "firmware/devicetree/base/compatible")


def label_of(chip: Path, sensor: str) -> str:
    return text(chip / f"{sensor}_label") or sensor


def text(path: Path) -> str:
    """What a small file says, or nothing where there is none."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _int(path: Path) -> int:
    content = text(path)
    return int(content) if content.isdigit() else 0
