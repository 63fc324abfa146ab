"""`dssd bench energy`, shortened: every figure is there, and what is deterministic holds."""

from __future__ import annotations

import time

from experiments.bench import PARTS
from experiments.bench.energy import far_clock_ns, measure


def test_every_figure_is_measured():
    here = time.monotonic_ns
    records = {r["name"]: r for r in measure(waves=2, wave_s=2.0, sampling_s=0.2, apart_s=0.5)}
    assert "energy" in PARTS and len(records) == 5
    assert records["energy: attribution to 40 ms phases"]["ok"]
    assert 0 < records["energy: sampler at 50 Hz"]["value"] < 100
    assert records["energy: clock offset of a node 5 h ahead"]["value"] < 5
    trace = records["energy: events of trace.json that Perfetto takes"]
    assert trace["ok"] or "install" in trace["note"], trace
    assert time.monotonic_ns is here, "only the other process has another clock"


def test_the_far_clock_is_ahead_and_drifts():
    assert far_clock_ns(10**9, 5, 200.0) - 10**9 == 5 + 200_000
