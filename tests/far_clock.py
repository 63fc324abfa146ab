"""An edge whose clock is hours away and drifts, as a device meets it over the control line."""

from __future__ import annotations

import random
from contextlib import contextmanager

from transport.clock import ClockSample

MS_NS = 10**6
HOUR_NS = 3600 * 10**9
ELSEWHERE = {"clock": "another boot", "control_port": 7777}
HANDSHAKE = ClockSample(0, 5 * HOUR_NS, 5 * HOUR_NS, MS_NS)


class FarEdge:
    """Hours away and `drift_ppm` fast, behind a link with jitter; `now_ns` is the device's clock."""

    def __init__(self, offset_ns=5 * HOUR_NS, drift_ppm=200.0, name="another boot"):
        self.offset_ns, self.drift_ppm, self.name, self.now_ns = offset_ns, drift_ppm, name, 10**12
        self.chance, self.called = random.Random(1), []

    def at(self, device_ns):
        return device_ns + self.offset_ns + round(device_ns * self.drift_ppm * 1e-6)

    def clock_exchange(self):
        up, stay, down = (round(self.chance.uniform(*way) * MS_NS) for way in ((0.2, 2), (0.01, 0.1), (0.2, 2)))
        sent = self.now_ns
        arrived, left = sent + up, sent + up + stay
        self.now_ns = left + down
        return ClockSample(sent, self.at(arrived), self.at(left), self.now_ns), self.name

    @contextmanager
    def call(self, address):
        self.called.append(address)
        yield self
