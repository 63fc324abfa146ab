"""Runs commands, and reads back from the kernel what is in force."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from typing import Any

from netem.errors import CommandError
from netem.qdisc import BUCKET, HANDLE, NEVER_LIMITS
from netem.spec import DirectionSpec

COMMAND_TIMEOUT_S = 20.0
NETEMS_NAMES = {"p": "enter", "r": "leave", "1-h": "bad_loss", "1-k": "good_loss"}  # of Gilbert's chances
_LOSS_STATES = ("p13", "p31", "p32", "p23", "p14")
SHOWN = (  # where `tc -j` shows it, under which name; our key, and its unit in tc's
    ("delay", "delay", "delay_ms", 1e3),
    ("delay", "jitter", "jitter_ms", 1e3),
    ("delay", "correlation", "correlation_pct", 100),
    ("loss-random", "loss", "loss_pct", 100),
    ("loss-random", "correlation", "loss_correlation_pct", 100),
    ("reorder", "reorder", "reorder_pct", 100),
    ("reorder", "correlation", "reorder_correlation_pct", 100),
    ("duplicate", "duplicate", "duplicate_pct", 100),
    ("duplicate", "correlation", "duplicate_correlation_pct", 100),
    ("corrupt", "corrupt", "corrupt_pct", 100),
    ("corrupt", "correlation", "corrupt_correlation_pct", 100),
    *(("loss-gemodel", name, f"gilbert_{ours}_pct", 100) for name, ours in NETEMS_NAMES.items()),
    *(("loss-state", name, f"loss_state_{name}_pct", 100) for name in _LOSS_STATES),
    ("slot", "min-delay", "slot_min_ms", 1e3),
    ("slot", "max-delay", "slot_max_ms", 1e3),
    ("slot", "distribution", "slot_mean_ms", 1e3),
    ("slot", "jitter", "slot_jitter_ms", 1e3),
    ("slot", "packets", "slot_packets", 1),
    ("slot", "bytes", "slot_bytes", 1),
)
_KEYS = [key for _, _, key, _ in SHOWN if not key.startswith(("gilbert", "loss_state", "slot"))]
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
    rate = options.get("rate", {})
    rate_mbps = rate.get("rate", 0) * 8 / 1e6
    values = {
        "queue_packets": options.get("limit"),
        "rate_mbps": rate_mbps if rate_mbps < _never_limits_mbps() else 0,
        "rate_overhead_bytes": rate.get("packetoverhead", 0),
        "rate_cell_bytes": rate.get("cellsize", 0),
        "rate_cell_overhead_bytes": rate.get("celloverhead", 0),
        "reorder_gap": options.get("gap", 0),
        "ecn": bool(options.get("ecn")),
    }
    for where, name, key, factor in SHOWN:
        values[key] = options.get(where, {}).get(name, 0) * factor
    values = {key: value if isinstance(value, bool) else round(value, 6) for key, value in values.items() if value}
    return values | ({"seed": options["seed"]} if "seed" in options else {})


def bottleneck_values(qdiscs_json: str) -> dict[str, Any]:
    """What the token bucket of a rate that varies says: its rate, {} where there is none."""
    for qdisc in json.loads(qdiscs_json or "[]"):
        if qdisc.get("kind") == "tbf" and qdisc.get("handle") == BUCKET:
            return {"rate_mbps": round(qdisc["options"]["rate"] * 8 / 1e6, 6)}
    return {}


def expected_values(spec: DirectionSpec) -> dict[str, Any]:
    """What `applied_values` has to say once `spec` is in force."""
    if not spec.is_shaped:
        return {}
    values: dict[str, Any] = {"queue_packets": spec.limit_packets, "rate_mbps": spec.rate_mbps or 0}
    values["reorder_gap"] = spec.reorder_gap or (1 if spec.reorder_pct else 0)
    for key in (*("rate_overhead_bytes", "rate_cell_bytes", "rate_cell_overhead_bytes", "ecn"), *_KEYS):
        values[key] = getattr(spec, key, 0)
    if not spec.mean_loss_pct:  # as at times in a trace: then tc neither takes nor shows what goes with it
        values |= {"ecn": False, "loss_correlation_pct": 0}
    for model, prefix in ((spec.gilbert, "gilbert"), (spec.loss_states, "loss_state")):
        for name, chance_pct in model.netem_pct.items() if model else ():
            values[f"{prefix}_{NETEMS_NAMES.get(name, name)}_pct"] = chance_pct
    if slot := spec.slot:
        uniform = slot.distribution == "uniform"
        names = ("slot_min_ms", "slot_max_ms") if uniform else ("slot_mean_ms", "slot_jitter_ms")
        values |= zip(names, slot.bounds_ms if uniform else (slot.mean_ms, slot.jitter_ms))
        values |= {"slot_packets": slot.packets, "slot_bytes": slot.bytes}
    values = {key: value for key, value in values.items() if value}
    return values | ({"seed": spec.seed} if spec.seed is not None else {})


def differences(spec: DirectionSpec, applied: dict[str, Any]) -> list[str]:
    """One sentence per value the kernel did not take as declared.

    Let pass: 0.1 %, and a step of the last digit `tc` shows (it prints times in whole microseconds, rounded
    down).
    """
    expected = expected_values(spec)
    found = []
    unasked = {"seed", "ecn"} if spec.ecn else {"seed"}  # drawn where none is given; kept while nothing is lost
    for key in sorted(expected.keys() | applied.keys()):
        if key in unasked and key not in expected:
            continue
        want, have = expected.get(key, 0), applied.get(key, 0)
        if key == "seed" and want != have:  # an old kernel passes over what it does not know
            found.append(f"seed: declared {want}, in force {have or 'none'}: it takes Linux 6.6 where netem runs")
        elif abs(want - have) > max(1e-3 * abs(want), 0.0011 if key.endswith("_ms") else 1e-4):
            found.append(f"{key}: declared {want:g}, in force {have:g}")
    return found


def _never_limits_mbps() -> float:
    return float(NEVER_LIMITS.removesuffix("gbit")) * 1e3
