"""Energy of a node whose engine is paced: its time was declared, so its joules are a model too (see
engine/paced.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from nodes.probes import Channel, Finding, Probe, Reading


class PacedModel(Probe):
    """joules = idle_w x elapsed + the sum over the paced engines of added_w x busy_s().

    `idle_w`: the watts at rest of the machine that the pacing stands for. By engine: `added_w`, what is drawn on top
    of them while it computes; `busy_s`, which returns the cumulative seconds it has been computing, the forward in
    progress included.
    """

    name = "paced_model"

    def __init__(
        self,
        idle_w: float | None = None,
        added_w: Mapping[str, float | None] | None = None,
        busy_s: Mapping[str, Callable[[], float]] | None = None,
    ) -> None:
        self.idle_w, self.added_w, self.busy_s = idle_w, added_w or {}, busy_s or {}
        self.start_s = time.monotonic()
        self.start_busy_s = {engine: seconds() for engine, seconds in self.busy_s.items()}

    def trial(self) -> Finding:
        if not self.busy_s:
            return Finding(
                self.name,
                "unsupported",
                "no paced engine here",
                "run a node with a paced engine; it hands over its busy seconds",
            )
        lacking = [engine for engine, watts in self.added_w.items() if watts is None]
        if self.idle_w is None or lacking:
            return Finding(
                self.name,
                "unsupported",
                f"no watts declared for {', '.join(lacking) or 'the node at rest'}, and none are assumed",
                "declare idle_w and active_w in the pace of each engine of the node, edge.draft_engine's too",
            )
        added = " and ".join(f"{watts:g} W while {engine} computes" for engine, watts in self.added_w.items())
        detail = f"{self.idle_w:g} W idle, plus {added}, busy as the paced engines declare"
        busy = (Channel(f"{engine}.busy", "s", "modelled") for engine in self.added_w)
        channels = (Channel("node", "j", "modelled", total=True), *busy)
        return Finding(self.name, "modelled", detail, resolution_ms=1.0, scope="node", channels=channels)

    def read(self) -> list[Reading]:
        assert self.idle_w is not None
        busy_s = {engine: self.busy_s[engine]() - start_s for engine, start_s in self.start_busy_s.items()}
        joules = self.idle_w * (time.monotonic() - self.start_s)
        joules += sum((self.added_w[engine] or 0.0) * seconds for engine, seconds in busy_s.items())
        return [
            Reading("node", joules, "j", "modelled"),
            *(Reading(f"{engine}.busy", seconds, "s", "modelled") for engine, seconds in busy_s.items()),
        ]
