"""A cap on the clock frequency of cores, by the kernel's cpufreq (Documentation/admin-guide/pm/cpufreq.rst).

A policy governs one core or a cluster of them, so a cap may reach further than the cores it was meant for: what it
reaches is reported. A guard process writes the old values back when this process ends, however it ends.
"""

from __future__ import annotations

import subprocess
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

KHZ = 1000  # what cpufreq's files count in, per MHz
GUARD = 'cat >/dev/null; while [ $# -gt 0 ]; do printf %s "$1" >"$2"; shift 2; done'
RESTORED_WITHIN_S = 5.0
NO_CPUFREQ = (
    "this machine lets nobody set its clock (no {0}: virtual machines and containers have none); hold the device with "
    "device.cpus or device.cpu_share"
)


class FrequencyError(RuntimeError):
    """The cap cannot be held; the message names why and what would. Nothing has been changed."""


class FrequencyCap:
    """From its making to `release`, the policies of `cpus` go no higher than `max_mhz`. Raises FrequencyError."""

    def __init__(self, max_mhz: float, cpus: Collection[int], root: Path = Path("/")) -> None:
        folder = root / "sys/devices/system/cpu/cpufreq"
        policies = [policy for policy in sorted(folder.glob("policy*")) if _cores(policy) & set(cpus)]
        if not policies:
            raise FrequencyError(NO_CPUFREQ.format(folder))
        khz = round(max_mhz * KHZ)
        self.before = {policy: _text(policy / "scaling_max_freq") for policy in policies}
        for policy in policies:
            _check(policy, khz)
        values = [word for policy, old in self.before.items() for word in (old, str(policy / "scaling_max_freq"))]
        self._guard = subprocess.Popen(  # a session of its own: whoever kills ours does not kill it
            ["sh", "-c", GUARD, "frequency-guard", *values], stdin=subprocess.PIPE, start_new_session=True
        )
        try:
            self._set(khz)
        except BaseException:
            self.release()
            raise

    def _set(self, khz: int) -> None:
        for policy in self.before:
            path = policy / "scaling_max_freq"
            try:
                path.write_text(str(khz))
            except PermissionError:
                raise FrequencyError(f"{path} may only be written by root: run the device as root") from None
            except OSError as error:
                raise FrequencyError(f"{path} does not take {khz} kHz: {error.strerror}") from None
            if (held := _text(path)) != str(khz):
                steps = _text(policy / "scaling_available_frequencies")
                there = f"; its steps are {steps} kHz" if steps else ""
                raise FrequencyError(f"{path} took {held} kHz for {khz}{there}: name one that it takes")

    def read(self) -> dict[str, Any]:
        """By policy: the cap in MHz as the kernel holds it, the one before, and the cores it reaches."""
        return {
            policy.name: {
                "max_mhz": int(_text(policy / "scaling_max_freq")) / KHZ,
                "before_mhz": int(old) / KHZ,
                "cpus": sorted(_cores(policy)),
                "governor": _text(policy / "scaling_governor"),
            }
            for policy, old in self.before.items()
        }

    def release(self) -> list[str]:
        """Write the old values back; returns the files that do not hold them now."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        with suppress(subprocess.TimeoutExpired):  # then it goes on by itself
            self._guard.wait(RESTORED_WITHIN_S)
        files = {policy / "scaling_max_freq": old for policy, old in self.before.items()}
        return [str(path) for path, old in files.items() if not path.exists() or _text(path) != old]


def _check(policy: Path, khz: int) -> None:
    lowest, highest = int(_text(policy / "cpuinfo_min_freq")), int(_text(policy / "cpuinfo_max_freq"))
    if not lowest <= khz <= highest:
        between = f"{lowest / KHZ:g} and {highest / KHZ:g} MHz"
        raise FrequencyError(f"{policy.name} runs between {between}: {khz / KHZ:g} MHz is no cap that it can hold")
    floor = int(_text(policy / "scaling_min_freq"))
    if khz < floor:
        raise FrequencyError(
            f"{policy.name} is held above {floor / KHZ:g} MHz (scaling_min_freq), so it cannot go down to "
            f"{khz / KHZ:g}: lower that first"
        )


def _cores(policy: Path) -> set[int]:
    return {int(core) for core in _text(policy / "related_cpus").split()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise FrequencyError(f"{path} cannot be read: {error.strerror}") from None
