"""Energy of a node whose engine is paced: its time was declared, so its joules are a model too (see
engine/paced.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from nodes.probes import Channel, Finding, Probe, Reading


class PacedModel(Probe):
    """joules = idle_w x elapsed + (active_w - idle_w) x busy_s().

    `busy_s` returns the cumulative seconds the paced engine has been computing, the forward in progress
    included. `idle_w`, `active_w`: the watts of the machine that the pacing stands for, at rest and
    computing.
    """

    name = "paced_model"

    def __init__(
        self,
        idle_w: float | None = None,
        active_w: float | None = None,
        busy_s: Callable[[], float] | None = None,
    ) -> None:
        self.idle_w, self.active_w, self.busy_s = idle_w, active_w, busy_s
        self.start_s = time.monotonic()
        self.start_busy_s = busy_s() if busy_s else 0.0

    def trial(self) -> Finding:
        if self.busy_s is None:
            return Finding(
                self.name,
                "unsupported",
                "no paced engine here",
                "run a node with a paced engine; it hands over its busy seconds",
            )
        if self.idle_w is None or self.active_w is None:
            return Finding(
                self.name,
                "unsupported",
                "no watts declared, and none are assumed",
                "declare idle_w and active_w of the machine that the profile stands for",
            )
        detail = f"{self.idle_w} W idle, {self.active_w} W computing, busy as the paced engine declares"
        channels = (Channel("node", "j", "modelled", total=True), Channel("busy", "s", "modelled"))
        return Finding(self.name, "modelled", detail, resolution_ms=1.0, scope="node", channels=channels)

    def read(self) -> list[Reading]:
        assert self.busy_s is not None and self.idle_w is not None and self.active_w is not None
        busy_s = self.busy_s() - self.start_busy_s
        joules = self.idle_w * (time.monotonic() - self.start_s) + (self.active_w - self.idle_w) * busy_s
        return [Reading("node", joules, "j", "modelled"), Reading("busy", busy_s, "s", "modelled")]
