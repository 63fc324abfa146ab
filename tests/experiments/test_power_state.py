"""What a manifest says of a machine's power settings, from files laid out as boards lay them out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.manifest import machine
from experiments.power_state import power_state

NVPMODEL_CONF = """\
# comments, then parameters, then the modes
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
CPU_ONLINE CORE_0 1
< PM_CONFIG DEFAULT=1 >
"""
ORIN_NANO = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.7, GCID: 42132812, BOARD: generic, EABI: aarch64\n# KERNEL\n",
    "etc/nvpmodel.conf": NVPMODEL_CONF,
    "var/lib/nvpmodel/status": "pmode:0001 fmode:quiet\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": "729600\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1344000\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_min_freq": "729600\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_max_freq": "1344000\n",
}
PC = {
    "sys/class/dmi/id/sys_vendor": "LENOVO\n",
    "sys/class/dmi/id/product_name": "20XW\n",
    "sys/devices/system/cpu/intel_pstate/no_turbo": "1\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "powersave\n",
}


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_a_jetson_says_its_power_mode(tmp_path):
    found = power_state(tree(tmp_path, ORIN_NANO))
    assert found["board"] == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert found["power_mode"] == {"id": 1, "name": "25W"} and found["governor"] == "schedutil"
    assert found["tegra_release"].startswith("R36 (release), REVISION: 4.7")
    slow = {"governor": "schedutil", "min_mhz": 729.6, "max_mhz": 1344.0}
    assert found["frequency"] == {"policy0": slow, "policy4": slow}


@pytest.mark.parametrize(
    ("status", "mode"), [("pmode:0008\n", {"id": 8, "name": ""}), ("", {}), ("garbage", {})]
)  # a mode that the configuration does not name keeps its number  # fmt: skip
def test_a_mode_without_a_name_and_none(tmp_path, status, mode):
    assert power_state(tree(tmp_path, {**ORIN_NANO, "var/lib/nvpmodel/status": status}))["power_mode"] == mode


def test_a_pc_has_a_governor_and_no_mode(tmp_path):
    found = power_state(tree(tmp_path, PC))
    assert (found["board"], found["governor"], found["turbo_off"]) == ("LENOVO 20XW", "powersave", "1")
    assert found["power_mode"] == {} and found["tegra_release"] == ""
    assert found["frequency"] == {"policy0": {"governor": "powersave", "min_mhz": None, "max_mhz": None}}


def test_it_is_in_the_manifest():
    found = machine()
    assert set(power_state()) <= set(found)
    json.dumps(found, allow_nan=False)
