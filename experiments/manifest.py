"""On what and with what a run was made: enough to tell two results apart, and to make one again.

Reads files under /proc and /sys and asks git; what a machine does not have is left empty, never guessed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil

from experiments.power_state import power_state, text
from experiments.store import FOLDER_FORMAT
from nodes.probes.sampler import clock_pair

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "dssd-testbed", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pyzmq", "msgspec",
    "pydantic", "PyYAML", "psutil", "nvidia-ml-py", "pyarrow",
)  # fmt: skip
TCP_SYSCTLS = (
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_available_congestion_control",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_no_metrics_save",
    "net.ipv4.tcp_sack",
    "net.ipv4.tcp_timestamps",
    "net.ipv4.tcp_notsent_lowat",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.core.rmem_max",
    "net.core.wmem_max",
    "net.core.default_qdisc",
)


def start_manifest(config: Mapping[str, Any], run_id: str) -> dict[str, Any]:
    """What is known before anything runs. `config` is the resolved configuration."""
    return {
        "format": FOLDER_FORMAT,
        "name": config["name"],
        "run_id": run_id,
        "started": _now(),
        "ended": None,
        "status": "running",
        "argv": sys.argv,
        "seed": config["seed"],
        "repeats": config["repeats"],
        "software": software(),
        "machine": machine(),
        "clock": clock_pair(),
        "link": {"declared": config["link"]},
        "models": {},
    }


def end_manifest(
    manifest: Mapping[str, Any],
    *,
    status: str,
    link: Mapping[str, Any],
    models: Mapping[str, Any],
    events: list[dict[str, Any]],
    device: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The same with what came to be known. `status` is `complete`, or what ended the run; `link` what was
    applied and observed, `models` every node's `engine.describe()` with its hashes, `device` what the device left: how
    the edge's clock compares, what the device was held to."""
    return {
        **manifest,
        "ended": _now(),
        "status": status,
        "link": {**manifest["link"], **link},
        "models": dict(models),
        "events": events,
        "clock_at_end": clock_pair(),
        "edge_clock": (device or {}).get("clock", {}),
        "device_limits": (device or {}).get("limits", {}),
    }


def software() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "libzmq": _libzmq(),
        "git": git_state(ROOT),
    }


def machine() -> dict[str, Any]:
    """The machine this process sees; in the lab both nodes are on it, each in a network namespace of its
    own."""
    memory = psutil.virtual_memory()
    return {
        "host": hashlib.sha256(platform.node().encode()).hexdigest()[:12],  # tells machines apart, names none
        "cpu": _cpu_model(),
        "architecture": platform.machine(),
        "cores_logical": psutil.cpu_count(),
        "cores_physical": psutil.cpu_count(logical=False),
        "cores_usable": len(os.sched_getaffinity(0)),
        "memory_bytes": memory.total,
        "memory_available_bytes": memory.available,
        "load_1min": os.getloadavg()[0],  # somebody else's work, before ours begins
        **power_state(),
        "kernel": platform.release(),
        "os": _os_name(),
        "boot_id": _text("/proc/sys/kernel/random/boot_id"),
        "sysctl": {name: _text(f"/proc/sys/{name.replace('.', '/')}") for name in TCP_SYSCTLS},
    }


def git_state(root: Path) -> dict[str, Any]:
    """`commit` and `dirty` (tracked files differ from it); empty where `root` is no repository."""
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return {}
    return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}


def _git(root: Path, *arguments: str) -> str | None:
    if not (root / ".git").exists():  # an installed package inside somebody else's repository is not ours
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _libzmq() -> str:
    import zmq

    return zmq.zmq_version()


def _cpu_model() -> str:
    for line in _text("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "Hardware"):
            return value.strip()
    return platform.processor()


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _text(path: str) -> str:
    return text(Path(path))
