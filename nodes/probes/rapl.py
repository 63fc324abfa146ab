"""Intel and AMD processors: RAPL energy counters as Linux's powercap shows them, a channel per domain."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nodes.probes import Channel, Finding, Probe, Reading

TICK_MS = 1.0  # the counters move about once a millisecond
SETTLE_S = 0.02  # a package that stands still for this long is not counting
SAME_UJ = 1_000_000  # two counters this close, read at once, are one
MAX_DOMAIN_W = 2000.0  # a step that needs more than this is a misread wrap, not power


@dataclass
class Domain:
    """One counter. `joules` grows from the first read; a wrap adds the range, an impossible step nothing."""

    label: str
    file: BinaryIO
    range_uj: int  # 0 where it cannot be read: then a wrap is an impossible step
    last_uj: int
    last_s: float
    joules: float = 0.0
    impossible: int = 0

    def repeats(self, other: Domain) -> bool:
        """The same domain through another door, or one package's counter shown once for each of its dies."""
        without_die, others = (re.sub(r"-die-\d+", "", domain.label) for domain in (self, other))
        close = abs(self.last_uj - other.last_uj) < SAME_UJ
        return without_die == others and (self.label == other.label or close)

    def read_j(self) -> float:
        """Joules since the first read. Raises OSError or ValueError when the counter cannot be read now."""
        now_uj, now_s = int(os.pread(self.file.fileno(), 32, 0)), time.monotonic()
        step_uj = now_uj - self.last_uj
        if step_uj < 0:
            step_uj += self.range_uj
        if 0 <= step_uj <= MAX_DOMAIN_W * 1e6 * max(now_s - self.last_s, TICK_MS / 1e3):
            self.joules += step_uj / 1e6
        else:
            self.impossible += 1
        self.last_uj, self.last_s = now_uj, now_s
        return self.joules


class Rapl(Probe):
    """`root` is powercap's folder. Whole packages count towards the total, and with `count_dram` the memory,
    which is no part of the package; core and uncore are inside the package, psys is around everything.

    Counters wrap (after a minute or so under heavy load): whoever reads must come by more often than that.
    """

    name = "rapl"

    def __init__(self, root: str | Path = "/sys/class/powercap", count_dram: bool = False) -> None:
        self.root, self.count_dram = Path(root), count_dram
        self.domains: list[Domain] = []

    def trial(self) -> Finding:
        self.close()
        denied, notes = self._open_all()
        time.sleep(SETTLE_S)
        for domain in [d for d in self.domains if d.read_j() == 0.0 and self._counts(d.label)]:
            notes.append(f"{domain.label} dropped: its counter stands still")
            self.domains.remove(domain)
            domain.file.close()
        channels = [Channel(d.label, "j", "measured", self._counts(d.label)) for d in self.domains]
        if any(channel.total for channel in channels):
            detail = "; ".join([", ".join(d.label for d in self.domains), *notes])
            channels.append(Channel("impossible_steps", "count", "measured"))
            return Finding(self.name, "measured", detail, "", TICK_MS, "cpu", tuple(channels))
        self.close()
        if denied:
            remedy = f"sudo chmod a+r {self.root}/intel-rapl*/energy_uj"
            return Finding(self.name, "denied", "; ".join(notes), remedy)
        remedy = "sudo modprobe intel_rapl_msr (virtual machines and Arm boards have no RAPL)"
        return Finding(self.name, "unsupported", "; ".join(notes) or f"no RAPL domain in {self.root}", remedy)

    def read(self) -> list[Reading]:
        readings = []
        for domain in self.domains:
            try:
                readings.append(Reading(domain.label, domain.read_j(), "j", "measured"))
            except (OSError, ValueError):
                continue  # left out of this tick; the counter itself forgets nothing
        impossible = sum(domain.impossible for domain in self.domains)
        return [*readings, Reading("impossible_steps", impossible, "count", "measured")]

    def close(self) -> None:
        for domain in self.domains:
            domain.file.close()
        self.domains = []

    def _open_all(self) -> tuple[bool, list[str]]:
        """Fills `domains`, mmio doubles after the zones they repeat; returns whether any was denied, and notes."""
        denied, notes = False, list[str]()
        for path in sorted(self.root.glob("intel-rapl*:*/energy_uj"), key=lambda p: ("mmio" in str(p), p)):
            zone = path.parent
            try:
                limit = zone / "max_energy_range_uj"
                range_uj = int(limit.read_text()) if os.access(limit, os.R_OK) else 0
                file = path.open("rb", buffering=0)
                raw_uj = int(os.pread(file.fileno(), 32, 0))
                domain = Domain(self._label(zone), file, range_uj, raw_uj, time.monotonic())
            except (OSError, ValueError) as error:
                denied |= isinstance(error, PermissionError)
                notes.append(f"{zone.name} cannot be read: {error}")
            else:
                twin = next((other.label for other in self.domains if domain.repeats(other)), None)
                if twin is None:
                    self.domains.append(domain)
                else:
                    file.close()
                    notes.append(f"{zone.name} dropped: {twin} again")
        return denied, notes

    def _label(self, zone: Path) -> str:
        """`package-0`, `package-0.core`, `psys`: the vendor's names, a sub-domain under its package."""
        name = (zone / "name").read_text().strip()
        parent = re.fullmatch(r"(.+:\d+):\d+", zone.name)
        return f"{self._label(self.root / parent[1])}.{name}" if parent else name

    def _counts(self, label: str) -> bool:
        package, _, part = label.partition(".")
        return package.startswith("package") and (not part or (part == "dram" and self.count_dram))
