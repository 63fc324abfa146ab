"""How a machine is set to draw power: what its maker calls it, its governor and clocks, and on a Jetson its power mode.

Read from files, so that nobody has to be root and `nvpmodel` need not be run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


def power_state(root: Path = Path("/")) -> dict[str, Any]:
    """`frequency` by cpufreq policy; `power_mode` is nvpmodel's number and name. Empty is what the machine has not."""
    cpu = root / "sys/devices/system/cpu"
    return {
        "board": _board(root),
        "governor": text(cpu / "cpufreq/policy0/scaling_governor") or text(cpu / "cpu0/cpufreq/scaling_governor"),
        "turbo_off": text(cpu / "intel_pstate/no_turbo"),
        "frequency": {policy.name: _policy(policy) for policy in sorted((cpu / "cpufreq").glob("policy*"))},
        "power_mode": _power_mode(root),
        "tegra_release": text(root / "etc/nv_tegra_release").partition("\n")[0].lstrip("# "),
    }


def _board(root: Path) -> str:
    """As a board's firmware (Jetson, Raspberry Pi) or a PC's names itself."""
    model = text(root / "proc/device-tree/model").strip("\0")
    vendor, product = (text(root / "sys/class/dmi/id" / name) for name in ("sys_vendor", "product_name"))
    return model or f"{vendor} {product}".strip()


def _policy(policy: Path) -> dict[str, Any]:
    limits = {name: text(policy / f"scaling_{name}_freq") for name in ("min", "max")}
    return {
        "governor": text(policy / "scaling_governor"),
        **{f"{name}_mhz": int(khz) / 1e3 if khz.isdigit() else None for name, khz in limits.items()},
    }


def _power_mode(root: Path) -> dict[str, Any]:
    """nvpmodel notes the mode it set as `pmode:0002 fmode:quiet`; what the number means stands in its configuration."""
    found = re.search(r"pmode:(\d+)", text(root / "var/lib/nvpmodel/status"))
    if not found:
        return {}
    number = int(found[1])
    modes = re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", text(root / "etc/nvpmodel.conf"))
    return {"id": number, "name": {int(n): name for n, name in modes}.get(number, "")}


def text(path: Path) -> str:
    """What a small file says, or nothing where there is none or it may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
