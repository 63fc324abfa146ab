"""Asks a host what it is and has (`check` runs there), and judges the answers."""

from __future__ import annotations

import json
import time
from typing import Any

from experiments.remote.deploy import FOLDERS, Place, code_hash
from experiments.remote.inventory import Role
from experiments.remote.ssh import LocalHost, RemoteError
from experiments.schema import Config

WITHIN_S = 600.0  # a large model may have to be read once, to know which it is
CLOCK_OFF_S = 5.0


def ask(config: Config, role: Role, host: LocalHost, place: Place) -> dict[str, Any]:
    """`{facts, checks}` of the host in this role (see check.py). Raises RemoteError when it cannot even be asked."""
    question = json.dumps(
        {
            "folders": FOLDERS,
            "version": code_hash(),
            "folder": place.folder,
            "engines": engines(config, role, host),
            "probes": getattr(config, role).probes,
            "interface": host.spec.interface,
        }
    )
    began = time.time()
    try:
        said = host.run([place.python, "-m", "experiments.remote.check"], place.source, question, WITHIN_S)
    except RemoteError as error:
        if not any(mark in str(error) for mark in ("not found", "No such file", "Permission denied")):
            raise
        remedy = f"name a python that is there ({place.python} is not) in the inventory"
        raise RemoteError(f"{error}\n  remedy: {remedy}") from None
    answer = json.loads(said.splitlines()[-1])
    answer["checks"].append(_clock(answer["facts"]["wall_s"], began, time.time()))
    return answer


def engines(config: Config, role: Role, host: LocalHost) -> dict[str, str]:
    """What the node in this role loads: its name in the configuration, and on that host."""
    loaded = [config.device_engine] if role == "device" else [config.edge_engine, config.edge_draft_engine]
    names = [str(engine["engine"]) for engine in loaded if engine]
    return {name: host.spec.models.get(name, name) for name in names}


def refuse(checks: dict[str, list[dict[str, Any]]]) -> None:
    """`checks` by host. Raises RemoteError naming everything that is not as it has to be, with what mends it."""
    lines = [
        f"{where}: {check['name']}: {check['detail']}\n  remedy: {check['remedy']}"
        for where, records in checks.items()
        for check in records
        if check["ok"] is False
    ]
    if lines:
        raise RemoteError("\n".join(lines))


def same_models(device: dict[str, Any], edge: dict[str, Any]) -> None:
    """A model that both load under one name has to be the same one. Raises RemoteError with both hashes."""
    here, there = device.get("models", {}), edge.get("models", {})
    for name in here:
        if name in there and here[name] != there[name]:
            raise RemoteError(
                f"{name} is {here[name]} on the device's host and {there[name]} on the edge's: two different models. "
                "Remedy: copy one of them to the other host, or name another under `models` in the inventory"
            )


def _clock(wall_s: float, began: float, ended: float) -> dict[str, Any]:
    """The clocks on the wall, to within the time that asking took. Results do not hang on them."""
    off_s = wall_s - (began + ended) / 2
    known_s = (ended - began) / 2
    detail = f"{off_s:+.1f} s against this machine's, known to {known_s:.1f} s"
    if abs(off_s) < CLOCK_OFF_S + known_s:
        return {"name": "clock", "ok": True, "detail": detail, "remedy": ""}
    remedy = "there: sudo timedatectl set-ntp true; the run itself compares monotonic clocks and does not mind"
    return {"name": "clock", "ok": None, "detail": detail, "remedy": remedy}
