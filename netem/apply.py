"""Runs commands, and reads back from the kernel what is in force."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from typing import Any

from netem.errors import CommandError
from netem.plan import HANDLE, NEVER_LIMITS
from netem.spec import DirectionSpec

COMMAND_TIMEOUT_S = 20.0
SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:"  # where tc and ip live, and a user's PATH does not


def execute(argv: Sequence[str]) -> str:
    """Run one command and return what it printed. Raises CommandError with its stderr when it fails or
    hangs.
    """
    environment = {**os.environ, "PATH": SYSTEM_PATH + os.environ.get("PATH", ""), "LC_ALL": "C"}
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            env=environment,
            start_new_session=True,  # the terminal's Ctrl-C must not stop half a setup or a teardown
        )
    except FileNotFoundError:
        raise CommandError(argv, f"'{argv[0]}' is not installed") from None
    except subprocess.TimeoutExpired:
        raise CommandError(argv, f"no answer within {COMMAND_TIMEOUT_S:g} s") from None
    if done.returncode != 0:
        raise CommandError(argv, done.stderr or done.stdout)
    return done.stdout


def our_netem(qdiscs_json: str) -> dict[str, Any] | None:
    """Our qdisc out of `tc -j -s qdisc show dev …`, None where the direction is not shaped."""
    for qdisc in json.loads(qdiscs_json or "[]"):
        if qdisc.get("kind") == "netem" and qdisc.get("handle") == HANDLE:
            return dict(qdisc)
    return None


def applied_values(qdisc: dict[str, Any] | None) -> dict[str, Any]:
    """What netem says is in force, in our names and units; only what is set."""
    if qdisc is None:
        return {}
    options = qdisc["options"]
    delay, loss, gilbert = (
        options.get("delay", {}),
        options.get("loss-random", {}),
        options.get("loss-gemodel", {}),
    )
    rate_mbps = options.get("rate", {}).get("rate", 0) * 8 / 1e6
    values = {
        "queue_packets": options.get("limit"),
        "delay_ms": delay.get("delay", 0) * 1e3,
        "jitter_ms": delay.get("jitter", 0) * 1e3,
        "correlation_pct": delay.get("correlation", 0) * 100,
        "loss_pct": loss.get("loss", 0) * 100,
        "loss_correlation_pct": loss.get("correlation", 0) * 100,
        "gilbert_enter_pct": gilbert.get("p", 0) * 100,
        "gilbert_leave_pct": gilbert.get("r", 0) * 100,
        "reorder_pct": options.get("reorder", {}).get("reorder", 0) * 100,
        "duplicate_pct": options.get("duplicate", {}).get("duplicate", 0) * 100,
        "corrupt_pct": options.get("corrupt", {}).get("corrupt", 0) * 100,
        "rate_mbps": rate_mbps if rate_mbps < _never_limits_mbps() else 0,
    }
    return {key: round(value, 6) for key, value in values.items() if value}


def expected_values(spec: DirectionSpec) -> dict[str, Any]:
    """What `applied_values` has to say once `spec` is in force."""
    if not spec.is_shaped:
        return {}
    values = {
        "queue_packets": spec.limit_packets,
        "gilbert_enter_pct": spec.gilbert.enter_pct if spec.gilbert else 0,
        "gilbert_leave_pct": spec.gilbert.leave_pct if spec.gilbert else 0,
    }
    for key in (
        "delay_ms",
        "jitter_ms",
        "correlation_pct",
        "loss_pct",
        "loss_correlation_pct",
        "reorder_pct",
        "duplicate_pct",
        "corrupt_pct",
        "rate_mbps",
    ):
        values[key] = getattr(spec, key) or 0
    return {key: value for key, value in values.items() if value}


def differences(spec: DirectionSpec, applied: dict[str, Any]) -> list[str]:
    """One sentence per value the kernel did not take as declared.

    Let pass: 0.1 %, and a step of the last digit `tc` shows (it prints times in whole microseconds, rounded
    down).
    """
    expected = expected_values(spec)
    found = []
    for key in sorted(expected.keys() | applied.keys()):
        want, have = expected.get(key, 0), applied.get(key, 0)
        if abs(want - have) > max(1e-3 * abs(want), 0.0011 if key.endswith("_ms") else 1e-4):
            found.append(f"{key}: declared {want:g}, in force {have:g}")
    return found


def _never_limits_mbps() -> float:
    return float(NEVER_LIMITS.removesuffix("gbit")) * 1e3
