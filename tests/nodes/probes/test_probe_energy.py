"""Integration and attribution against closed forms: the parts sum to the whole, and holes stay holes."""

import numpy as np
import pytest

from nodes.probes import Joules
from nodes.probes.energy import attribute, counters, energy_between, integrate, power_w
from nodes.probes.sampler import Sample

MS = 1_000_000
T0 = 10**15 + 7  # an uptime at which float nanoseconds would already be too coarse


def trace(
    joules_at_s,
    seconds=2.0,
    period_ms=10.0,
    jitter=0.1,
    node="edge",
    probe="rapl",
    channel="package-0",
    status="measured",
    drop=(),
    total=True,
    seed=0,
):
    """Samples of a counter that follows `joules_at_s`, jittered; those in the `drop` windows (s) are lost."""
    rng = np.random.default_rng(seed)
    at_s = np.arange(0, seconds + 1e-9, period_ms / 1e3)
    at_s[1:-1] += rng.uniform(-jitter, jitter, len(at_s) - 2) * period_ms / 1e3
    return [
        Sample(T0 + int(t * 1e9), node, probe, channel, float(joules_at_s(t)), "j", status, total)
        for t in at_s
        if not any(a < t < b for a, b in drop)
    ]


def ns(seconds):
    return T0 + int(seconds * 1e9)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (lambda t: 3.0 * t, lambda a, b: 3.0 * (b - a)),
        (lambda t: 2.0 * t + t * t, lambda a, b: 2.0 * (b - a) + b * b - a * a),
    ],
    ids=["constant", "ramp"],
)
def test_closed_forms(curve, expected):
    got = energy_between(trace(curve), "edge", ns(0.3051), ns(1.7123))
    assert got.joules == pytest.approx(expected(0.3051, 1.7123), rel=1e-4)
    assert (got.status, got.source, got.flags) == ("measured", "rapl", ())


def test_parts_sum_to_the_whole():
    rng = np.random.default_rng(1)
    (counter,) = counters(trace(lambda t: 5 * t + np.sin(9 * t) / 9))
    cuts = np.sort(rng.integers(ns(0), ns(2), 500))
    parts = integrate(counter, list(zip(cuts[:-1].tolist(), cuts[1:].tolist())))
    (whole,) = integrate(counter, [(int(cuts[0]), int(cuts[-1]))])
    assert sum(part.joules for part in parts) == pytest.approx(whole.joules, abs=1e-9)


def test_a_bound_in_a_gap_has_no_value():
    samples = trace(lambda t: 3.0 * t, drop=[(0.8, 1.0)])
    inside = energy_between(samples, "edge", ns(0.5), ns(0.9))
    assert inside.joules is None and "gap" in inside.flags
    across = energy_between(samples, "edge", ns(0.5), ns(1.5))
    assert across.joules == pytest.approx(3.0, rel=1e-3) and across.flags == ("spans_gap",)
    before = energy_between(samples, "edge", ns(0.5), ns(0.7))
    assert before.joules == pytest.approx(0.6, rel=1e-3) and before.flags == ()


def test_a_few_lost_ticks_are_no_gap():
    assert energy_between(trace(lambda t: t, drop=[(0.80, 0.83)]), "edge", ns(0.81), ns(1.5)).flags == ()


def test_outside_the_samples_is_refused():
    assert energy_between(trace(lambda t: t), "edge", ns(-0.1), ns(1.0)).flags == ("outside",)
    assert energy_between(trace(lambda t: t), "edge", ns(-0.1), ns(1.0)).joules is None


def test_a_coarse_counter_is_flagged_and_not_followed_along_its_stairs():
    stairs = trace(lambda t: 30.0 * np.floor(t * 10 + 1e-9) / 10, seconds=4.0)  # 3 J every 100 ms
    short = energy_between(stairs, "edge", ns(1.12), ns(1.16))
    assert "below_resolution" in short.flags
    assert short.joules == pytest.approx(30 * 0.04, rel=0.15)  # along the stairs it would be zero
    assert energy_between(stairs, "edge", ns(1.0), ns(3.0)).flags == ()


def test_only_total_channels_of_the_node_count():
    samples = trace(lambda t: 2 * t) + trace(lambda t: 3 * t, probe="nvml", channel="gpu0")
    samples += trace(lambda t: 9 * t, channel="package-0.core", total=False) + trace(lambda t: 7 * t, node="device")
    got = energy_between(samples, "edge", ns(0.5), ns(1.5))
    assert got.joules == pytest.approx(5.0) and got.source == "rapl+nvml"
    assert energy_between(samples, "nobody", ns(0.5), ns(1.5)).flags == ("no_samples",)
    core = counters(samples, "edge", channels=[("rapl", "package-0.core")])
    assert energy_between(core, "edge", ns(0.5), ns(1.5)).joules == pytest.approx(9.0)


def test_a_mixture_is_as_good_as_its_worst_part():
    samples = trace(lambda t: t) + trace(lambda t: t, probe="guess", status="estimated")
    assert energy_between(samples, "edge", ns(0.5), ns(1.5)).status == "estimated"


def test_a_counter_that_starts_again():
    first, second = trace(lambda t: 3.0 * t + 100, seconds=1.0), trace(lambda t: 3.0 * t, seconds=1.0)
    samples = first + [s._replace(t_ns=s.t_ns + int(1.01e9)) for s in second]
    got = energy_between(samples, "edge", ns(0.5), ns(1.51))
    assert got.joules is None and got.flags == ("counter_reset",)  # nothing counted between its end and its beginning
    assert energy_between(samples, "edge", ns(1.005), ns(1.51)).joules is None
    for t0, t1 in ((0.1, 0.9), (1.1, 1.9)):
        assert energy_between(samples, "edge", ns(t0), ns(t1)).joules == pytest.approx(3.0 * 0.8, rel=1e-3)


@pytest.mark.parametrize("hole_s", [0.9, 4.0, 6.0, 60.0])
@pytest.mark.parametrize("renewed_ms", [0.0, 1000.0])
def test_the_sum_over_a_hole_is_known_where_something_counted_on(hole_s, renewed_ms):
    """5 W, and 100 W in a hole. A counter counts on; a sensor of watts that is not read for five of its steps saw
    nothing, so over that no sum is known, and no row but `gap` has anything of it."""

    def read(at_s):
        return at_s <= 10.0 or at_s >= 10.0 + hole_s

    integral, samples = Joules(), []
    for at_s in filter(read, np.arange(0.0, 40.0 + hole_s, 0.25)):
        true_j = 5.0 * at_s + 95.0 * min(max(at_s - 10.0, 0.0), hole_s)
        joules = integral.add(5.0, at_s) if renewed_ms else true_j
        samples.append(Sample(ns(at_s), "edge", "plug", "node", joules, "j", "measured", True, renewed_ms))
    across = energy_between(samples, "edge", ns(5.0), ns(15.0 + hole_s))
    rows = by_phase(attribute(samples, [(ns(5.0), ns(15.0 + hole_s), "verify", "dssd", "r0")], "edge"))
    if hole_s > 5.0 and renewed_ms:
        assert across.joules is None and across.flags == ("counter_reset",)
        assert rows["gap", ""]["joules"] == 0.0 and rows["gap", ""]["seconds"] == pytest.approx(hole_s, abs=0.3)
        assert rows["verify", "r0"]["joules"] == pytest.approx(5.0 * 10.0, rel=0.03)
    else:
        true_j = 5.0 * (10.0 + hole_s) + (0.0 if renewed_ms else 95.0 * hole_s)
        assert across.joules == pytest.approx(true_j, rel=0.01) and ("gap", "") not in rows
        assert across.flags == (("spans_gap",) if hole_s > 1.25 else ())
    for t0, t1 in ((1.0, 9.0), (11.0 + hole_s, 29.0 + hole_s)):
        assert energy_between(samples, "edge", ns(t0), ns(t1)).joules == pytest.approx(5.0 * (t1 - t0), rel=0.01)


PHASES = [
    (ns(0.2), ns(0.5), "draft", "dssd", "r0"),
    (ns(0.5), ns(0.9), "wait", "dssd", "r0"),
    (ns(0.9), ns(1.1), "draft", "dssd", "r1"),
]


def by_phase(rows):
    return {(row["phase"], row["request_id"]): row for row in rows}


def test_attribution_sums_to_the_whole_and_the_rest_is_idle():
    rows = by_phase(attribute(trace(lambda t: 4.0 * t), PHASES, "edge"))
    assert rows["draft", "r0"]["joules"] == pytest.approx(1.2, rel=1e-3)
    assert rows["wait", "r0"]["joules"] == pytest.approx(1.6, rel=1e-3)
    assert rows["idle", ""]["joules"] == pytest.approx(4.0 * (0.2 + 0.9), rel=1e-3)
    assert sum(row["joules"] for row in rows.values()) == pytest.approx(8.0, abs=1e-9)
    assert sum(row["seconds"] for row in rows.values()) == pytest.approx(2.0, abs=1e-9)


def test_phases_at_once_share_and_waiting_yields():
    together = [
        (ns(0.5), ns(1.5), "verify", "dssd", "a"),
        (ns(1.0), ns(1.5), "verify", "dssd", "b"),
        (ns(0.0), ns(2.0), "wait", "dssd", "a"),
    ]
    rows = by_phase(attribute(trace(lambda t: 4.0 * t), together, "edge"))
    assert rows["verify", "a"]["joules"] == pytest.approx(2 + 1, rel=1e-3)
    assert rows["verify", "b"]["joules"] == pytest.approx(1, rel=1e-3)
    assert rows["wait", "a"]["joules"] == pytest.approx(4, rel=1e-3)
    assert sum(row["joules"] for row in rows.values()) == pytest.approx(8.0, abs=1e-9)


def test_what_a_gap_hides_is_nobodys():
    rows = by_phase(attribute(trace(lambda t: 4.0 * t, drop=[(0.4, 0.6)]), PHASES, "edge"))
    assert rows["gap", ""]["joules"] == pytest.approx(4.0 * 0.2, rel=0.15)
    assert rows["draft", "r0"]["joules"] == pytest.approx(4.0 * 0.2, rel=0.1)
    assert sum(row["joules"] for row in rows.values()) == pytest.approx(8.0, abs=1e-9)


@pytest.mark.parametrize("late_s", [-0.4, -0.007, 0.0, 0.007, 0.4])
def test_holes_of_two_probes_that_overlap_are_one(late_s):
    """A stall leaves a hole in all that is read one after the other. Outside of both every phase has what it drew; what
    is inside, both counters' joules of all that time, is nobody's."""
    samples = trace(lambda t: 4.0 * t, seconds=6.0, drop=[(2.0, 4.0)])
    samples += trace(lambda t: 6.0 * t, seconds=6.0, probe="nvml", drop=[(2.0 + late_s, 4.0 + late_s)], seed=1)
    phases = [(ns(0.5), ns(3.0), "verify", "dssd", "a"), (ns(3.0), ns(5.5), "verify", "dssd", "b")]
    rows = by_phase(attribute(samples, phases, "edge"))
    seconds = {"a": 1.5 + min(0.0, late_s), "b": 1.5 - max(0.0, late_s)}
    for request, known_s in seconds.items():
        assert rows["verify", request]["joules"] == pytest.approx(10.0 * known_s, abs=0.2)
        assert rows["verify", request]["seconds"] == pytest.approx(known_s, abs=0.02)
    assert rows["gap", ""]["seconds"] == pytest.approx(2.0 + abs(late_s), abs=0.04)
    assert sum(row["joules"] for row in rows.values()) == pytest.approx(60.0, abs=1e-6)


def test_windows_below_resolution_are_counted():
    stairs = trace(lambda t: 30.0 * np.floor(t * 10 + 1e-9) / 10)
    short = [(ns(0.1 + i / 10), ns(0.14 + i / 10), "verify", "dssd", "r0") for i in range(18)]
    row = by_phase(attribute(stairs, short, "edge"))["verify", "r0"]
    assert (row["windows"], row["windows_below_resolution"]) == (18, 18)
    assert row["joules"] == pytest.approx(30 * 0.04 * 18, rel=0.1)  # one is not known, many are


def gauge(renewed_ms, period_ms, seconds=20.0, half_s=0.4):
    """Watts that are 5 and 50 in turn, as a sensor latches them every `renewed_ms`, polled and integrated."""
    integral, samples = Joules(), []
    for at_ms in np.arange(0.0, seconds * 1e3, period_ms):
        latched_s = at_ms // renewed_ms * renewed_ms / 1e3
        joules = integral.add(50.0 if latched_s // half_s % 2 else 5.0, at_ms / 1e3)
        samples.append(Sample(ns(at_ms / 1e3), "edge", "plug", "node", joules, "j", "measured", True, renewed_ms))
    return samples


@pytest.mark.parametrize("period_ms", [50.0, 250.0, 1000.0, 2500.0])
def test_what_a_gauge_of_watts_cannot_resolve_is_flagged_however_often_it_is_polled(period_ms):
    """Such joules move at every read; their step is the sensor's or the reading's, whichever is longer."""
    samples = gauge(1000.0, period_ms)
    (counter,) = counters(samples)
    assert counter.step_ns == pytest.approx(max(1000.0, period_ms) * MS)
    phases = [(ns(i * 0.4), ns((i + 1) * 0.4), "verify" if i % 2 else "draft", "dssd", "r0") for i in range(40)]
    for row in attribute(samples, phases, "edge"):
        assert row["windows_below_resolution"] == row["windows"]
    assert "below_resolution" in energy_between(samples, "edge", ns(5.0), ns(5.9)).flags
    assert energy_between(samples, "edge", ns(5.0), ns(12.6)).flags == ()


def test_a_counter_keeps_the_step_that_it_shows():
    """A counter moves when it counts: nothing but its steps says how fine it is."""
    stairs = trace(lambda t: 3.0 * np.floor(t * 40 + 1e-9) / 40, seconds=4.0, jitter=0.0)
    assert counters(stairs)[0].step_ns == pytest.approx(25 * MS, rel=0.25)
    assert counters(trace(lambda t: 3.0 * t, jitter=0.0))[0].step_ns == pytest.approx(10 * MS, rel=0.01)


def test_power_over_time():
    t_ns, watts = power_w(trace(lambda t: 4.0 * t, drop=[(0.8, 1.0)]), "edge", step_ms=50)
    assert np.isnan(watts[(t_ns > ns(0.85)) & (t_ns < ns(0.95))]).all()
    assert np.nanmax(np.abs(watts - 4.0)) < 0.1


def square_j(t, low_w=1.0, high_w=9.0, half_s=0.04):
    """Joules at time t of a power that is low and high in turn."""
    pairs = np.floor(t / (2 * half_s) + 1e-9)
    rest = t - pairs * 2 * half_s
    high_s = np.maximum(0.0, rest - half_s)
    return pairs * half_s * (low_w + high_w) + (rest - high_s) * low_w + high_s * high_w


@pytest.mark.parametrize("seed", range(3))
def test_short_phases_at_100_hz_are_told_apart(seed):
    samples = trace(square_j, seconds=4.0, period_ms=10.0, jitter=0.1, seed=seed)
    phases = [  # with some microseconds between them, as in life
        (ns(i * 0.04) + 2000, ns((i + 1) * 0.04), "verify" if i % 2 else "draft", "dssd", "r0") for i in range(100)
    ]
    rows = by_phase(attribute(samples, phases, "edge"))
    assert rows["draft", "r0"]["joules"] == pytest.approx(50 * 0.04 * 1.0, rel=0.02)
    assert rows["verify", "r0"]["joules"] == pytest.approx(50 * 0.04 * 9.0, rel=0.02)
    assert sum(row["joules"] for row in rows.values()) == pytest.approx(float(square_j(4.0)), abs=1e-9)


def test_windows_outside_are_counted_and_what_is_above_idle():
    rows = by_phase(
        attribute(trace(lambda t: 4.0 * t), [*PHASES, (ns(1.9), ns(2.5), "draft", "dssd", "r2")], "edge", idle_w=1.0)
    )
    assert rows["draft", "r0"]["windows_outside"] == 0 and rows["draft", "r2"]["windows_outside"] == 1
    assert rows["draft", "r2"]["joules"] == pytest.approx(0.4, rel=0.01)
    assert rows["draft", "r0"]["joules_above_idle"] == pytest.approx(0.9, rel=0.01)
    assert attribute(trace(lambda t: t), PHASES, "edge", span=(ns(5), ns(6))) == []


def test_a_measured_counter_that_stands_still_is_suspected():
    def stuck(t):
        return 3.0 * min(t, 1.0)

    samples = trace(stuck, seconds=3.0)
    assert energy_between(samples, "edge", ns(0.2), ns(0.8)).flags == ()
    assert "stands_still" in energy_between(samples, "edge", ns(0.5), ns(2.5)).flags
    model = trace(stuck, seconds=3.0, status="modelled")  # a model of 0 W at rest may
    assert energy_between(model, "edge", ns(0.5), ns(2.5)).flags == ()
