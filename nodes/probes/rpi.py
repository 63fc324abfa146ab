"""Raspberry Pi 5: the twelve rails that its power controller measures, through `vcgencmd pmic_read_adc`."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Sequence

from nodes.probes import Channel, Finding, Joules, Probe, Reading

LINE = re.compile(r"(\w+)_([AV])\s+(?:current|volt)\(\d+\)=(-?[\d.]+)")
FIT_GAIN, FIT_OFFSET_W = 1.1451, 0.5879  # against one board's plug meter: github.com/jfikar/RPi5-power


class Rpi(Probe):
    """`rails` is the plain sum of volts times amperes. What hangs on 5 V directly (USB, HATs, NVMe) and the
    controller's own losses are not in it; `board` adds them by a line fitted on one board, so it is an
    estimate. `count_board` makes it the node's energy instead of the sum. Each read starts a program: ten a
    second at most.
    """

    name = "rpi"
    every_ms = 100.0
    blocking = True

    def __init__(self, command: Sequence[str] = ("vcgencmd", "pmic_read_adc"), count_board: bool = False) -> None:
        self.command, self.count_board = list(command), count_board
        self.rails, self.board = Joules(), Joules()

    def trial(self) -> Finding:
        if shutil.which(self.command[0]) is None:
            return Finding(
                self.name,
                "unsupported",
                f"no {self.command[0]}: not a Raspberry Pi",
                "on a Raspberry Pi: sudo apt install raspi-utils",
            )
        try:
            result = subprocess.run(self.command, capture_output=True, text=True, timeout=5)
        except (OSError, subprocess.TimeoutExpired) as error:
            return Finding(self.name, "unsupported", str(error), "check the program by hand")
        said = (result.stdout + result.stderr).strip()
        powers = rail_powers_w(result.stdout)
        if not powers:
            if re.search(r"permission|can't open|vcio|vchiq", said, re.IGNORECASE):
                return Finding(self.name, "denied", said, "sudo usermod -aG video $USER, then log in again")
            return Finding(
                self.name,
                "unsupported",
                said or "it answers nothing",
                "before the Pi 5 boards measure no current: use a meter",
            )
        detail = f"{len(powers)} rails; USB, HATs and NVMe on 5 V are not among them"
        status = "estimated" if self.count_board else "measured"
        channels = (
            Channel("rails", "j", "measured", not self.count_board, self.every_ms),
            Channel("board", "j", "estimated", self.count_board, self.every_ms),
            *(Channel(f"{rail}.power", "w", "measured") for rail in powers),
        )
        return Finding(self.name, status, detail, "", self.every_ms, "node", channels)

    def read(self) -> list[Reading]:
        answer = subprocess.run(self.command, capture_output=True, text=True, timeout=5, check=True).stdout
        powers = rail_powers_w(answer)
        if not powers:
            raise OSError(f"{self.command[0]} answered {answer!r}")
        sum_w, now_s = sum(powers.values()), time.monotonic()
        return [
            Reading("rails", self.rails.add(sum_w, now_s), "j", "measured"),
            Reading("board", self.board.add(FIT_GAIN * sum_w + FIT_OFFSET_W, now_s), "j", "estimated"),
            *(Reading(f"{rail}.power", watts, "w", "measured") for rail, watts in powers.items()),
        ]


def rail_powers_w(answer: str) -> dict[str, float]:
    """Watts of each rail that shows both a current and a voltage; EXT5V and BATT show a voltage only."""
    values = {(rail, unit): float(value) for rail, unit, value in LINE.findall(answer)}
    return {r: amps * values[r, "V"] for (r, unit), amps in values.items() if unit == "A" and (r, "V") in values}
