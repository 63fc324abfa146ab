"""A battery that discharges feeds the whole node: its power, as the kernel's power_supply class shows it."""

from __future__ import annotations

from pathlib import Path

from nodes.probes import Channel, Finding, Joules, Probe, Reading
from nodes.probes.hwmon import text

STEP_MS = 1000.0  # gauges renew their figures once in one to several seconds


class Battery(Probe):
    """Reads nothing while a charger feeds the node: then the battery's power is not the node's."""

    name = "battery"
    every_ms = 250.0
    blocking = True  # firmware answers, in its own time

    def __init__(self, root: str | Path = "/sys/class/power_supply") -> None:
        self.root = Path(root)
        self.supplies: list[Path] = []
        self.integral = Joules()

    def trial(self) -> Finding:
        self.supplies = [
            supply
            for supply in sorted(self.root.glob("*"))
            if text(supply / "type") == "Battery" and text(supply / "scope") != "Device"  # not a mouse's
        ]
        if not self.supplies:
            return Finding(self.name, "unsupported", f"no battery in {self.root}", "use a plug meter")
        names = ", ".join(supply.name for supply in self.supplies)
        states = {supply.name: text(supply / "status") for supply in self.supplies}
        if "Discharging" not in states.values():
            return Finding(self.name, "unsupported", f"{names}: {', '.join(states.values())}", "unplug the charger")
        try:
            for supply in self.supplies:
                power_w(supply)
        except PermissionError as error:
            return Finding(self.name, "denied", str(error), f"sudo chmod a+r {self.root}/*/*_now")
        except (OSError, ValueError) as error:
            return Finding(self.name, "unsupported", f"{names}: {error}", "use a plug meter")
        node = Channel("node", "j", "measured", total=True, renewed_ms=STEP_MS)
        channels = (node, Channel("power", "w", "measured"))
        return Finding(self.name, "measured", f"{names}, discharging", "", STEP_MS, "node", channels)

    def read(self) -> list[Reading]:
        states = [text(supply / "status") for supply in self.supplies]
        if "Discharging" not in states or "Charging" in states:
            return []
        watts = sum(power_w(s) for s, state in zip(self.supplies, states) if state == "Discharging")
        return [
            Reading("node", self.integral.add(watts), "j", "measured"),
            Reading("power", watts, "w", "measured"),
        ]


def power_w(supply: Path) -> float:
    """Watts out of a battery. Some gauges show power, others current and voltage; the sign differs by driver.

    Raises OSError where it shows neither, ValueError on nonsense."""
    if (supply / "power_now").exists():
        return abs(int((supply / "power_now").read_text())) / 1e6
    current_ua = int((supply / "current_now").read_text())
    return abs(current_ua) * int((supply / "voltage_now").read_text()) / 1e12
