"""Calibration against a sensor whose watts are known."""

import time
from contextlib import contextmanager

import psutil
import pytest

from nodes.probes import Channel, Finding, Joules, Probe, ProbeError, Reading, make_probe
from nodes.probes.calibrate import busy_cores, calibrate


class Bench(Probe):
    """3 W at rest, 11 W while `loaded`."""

    name = "bench"
    loaded = False

    def trial(self):
        self.joules = Joules()
        channel = Channel("node", "j", "measured", total=True)
        return Finding(self.name, "measured", "a bench", "", 1.0, "node", (channel,))

    def read(self):
        return [Reading("node", self.joules.add(11.0 if self.loaded else 3.0), "j", "measured")]


def test_idle_and_full_are_told_apart(monkeypatch):
    monkeypatch.setattr("nodes.probes.calibrate.SETTLE_S", 0.0)
    bench = Bench()

    @contextmanager
    def load():
        bench.loaded = True
        bench.joules.last = None  # the change itself is in no window
        yield
        bench.loaded = False
        bench.joules.last = None

    found = calibrate(bench, seconds=0.3, load=load)
    assert (found.idle_w, found.full_w) == (pytest.approx(3.0, rel=0.05), pytest.approx(11.0, rel=0.05))
    assert (found.probe, found.status, found.scope) == ("bench", "measured", "node")
    estimate = make_probe("psutil_estimate", idle_w=found.idle_w, full_w=found.full_w)
    assert estimate.trial().status == "estimated"
    estimate.close()


def test_the_load_loads_and_leaves_nothing_behind():
    others = set(psutil.Process().children())  # of tests before this one
    with busy_cores():
        children = set(psutil.Process().children()) - others
        deadline = time.monotonic() + 20
        while not all(child.cpu_times().user > 0 for child in children):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert children
    assert not any(child.is_running() for child in children)


def test_without_a_sensor_there_is_nothing_to_calibrate_by():
    with pytest.raises(ProbeError, match=r"psutil_estimate is unsupported.*idle_w"):
        calibrate(make_probe("psutil_estimate"))
    with pytest.raises(ProbeError, match="psutil_estimate is estimated"):
        calibrate(make_probe("psutil_estimate", idle_w=1, full_w=2))
