"""A link that changes while a run lasts: its traces and outages, played by the device's own time.

`link.clock` says what their time counts. `system`: each system's counted requests, put one behind the other; so every
system meets the same course, though they take turns. `request`: each request from its start. `run`: the clock on the
wall, from the first counted request on. Warm-up is served by the link as it stands at the beginning.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netem.spec import DIRECTIONS, LinkSpec
from netem.traces.player import Player

LOG = "link_trace.jsonl"
FILES = "traces"  # the files that were played, as they were


class Course:
    """Tells the player what time it is, from what the device says of its requests."""

    def __init__(self, player: Player, link: LinkSpec) -> None:
        self._player, self._clock = player, link.clock
        self._elapsed_s: dict[str, float] = defaultdict(float)
        self._began_ns: int | None = None

    def hear(self, event: str, fields: Mapping[str, Any]) -> None:
        """An event of the device's. Raises LinkError where the link could not follow."""
        self._player.check()
        if event not in ("begin", "request") or fields["warmup"]:
            return
        system = str(fields["system"])
        if event == "begin" and (self._began_ns is None or self._clock != "run"):
            self._began_ns = int(fields["t_ns"])
            t_s = self._elapsed_s[system] if self._clock == "system" else 0.0
            self._player.follow(self._began_ns, t_s, "" if self._clock == "run" else str(fields["request_id"]))
        elif event == "request" and self._clock != "run":
            self._elapsed_s[system] += fields["e2e_ms"] / 1e3
            self._player.rest()


def keep_files(link: LinkSpec, folder: Path) -> None:
    """A copy of every trace file in the run's folder."""
    for which in DIRECTIONS:
        if (trace := link.direction(which).trace) is not None:
            (folder / FILES).mkdir(exist_ok=True)
            (folder / FILES / f"{trace.file_sha256[:8]}-{Path(trace.file).name}").write_bytes(trace.content)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The changes, as the player wrote them; a line that a kill cut short is left out."""
    try:
        lines = (folder / LOG).read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def played(folder: Path) -> dict[str, Any]:
    """How it went, for the manifest: changes, how late they were, outages; empty where nothing was played."""
    log = read_log(folder)
    applied = [line for line in log if line["outcome"] == "applied"]
    if not applied:
        return {}
    late_ms = sorted((line["done_ns"] - line["due_ns"]) / 1e6 for line in applied)
    return {
        "changes": len(applied),
        "skipped": sum(line["outcome"] == "skipped" for line in log),
        "cuts": sum(line["event"] == "cut" for line in applied),
        "late_ms": {
            "median": round(statistics.median(late_ms), 3),
            "p99": round(late_ms[min(len(late_ms) - 1, int(0.99 * len(late_ms)))], 3),
            "max": round(late_ms[-1], 3),
        },
        "file": LOG,
    }
