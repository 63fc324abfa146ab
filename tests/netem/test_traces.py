"""Traces as files, as values over time, as generators; what a configuration may say of them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from itertools import islice, pairwise, takewhile
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from netem.apply import expected_values
from netem.errors import LinkError
from netem.lab import Lab
from netem.qdisc import FRAME_BYTES
from netem.spec import LinkSpec
from netem.traces.files import DELIVERY_BYTES, read_trace, write_csv
from netem.traces.generate import KINDS, Grid, fading, handover, on_off, packet_error, rayleigh, walk
from netem.traces.player import Event, Player, Start, events
from netem.traces.sketch import describe, lines
from netem.traces.trace import Point, Trace, TraceError

CSV = "# measured somewhere\nt_s,rate_mbps,up_delay_ms,down_loss_pct\n0,8,10,0\n\n0.5,2,40,1.5\n2,0,20,0\n"


def written(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


# Files ---------------------------------------------------------------------------------------------------------------


def test_each_way_has_its_columns_and_the_last_row_holds_as_long_as_the_one_before(tmp_path):
    path = written(tmp_path, CSV)
    up, down = read_trace(path, side="up"), read_trace(path, side="down")
    assert up.points == (Point(0, 8, 10), Point(0.5, 2, 40), Point(2, 0, 20)) and up.period_s == 3.5
    assert down.points[1] == Point(0.5, rate_mbps=2, loss_pct=1.5)
    assert up.mean("rate_mbps") == pytest.approx((0.5 * 8 + 1.5 * 2) / 3.5)


def test_a_mahimahi_trace_delivers_what_its_lines_say(tmp_path):
    times_ms = [*sorted(np.random.default_rng(1).integers(0, 5000, 3000).tolist()), 5000]
    path = written(tmp_path, "\n".join(map(str, times_ms)), "cell.up")
    for step_ms in (20, 100, 330):
        trace = read_trace(path, step_ms=step_ms)
        assert (trace.format, trace.period_s) == ("mahimahi", 5.0)
        assert trace.mean("rate_mbps") * 5.0 == pytest.approx(len(times_ms) * DELIVERY_BYTES * 8 / 1e6)
        within = [t_ms for t_ms in times_ms if t_ms < step_ms]
        assert trace.points[0].rate_mbps == pytest.approx(len(within) * DELIVERY_BYTES * 8 / (step_ms * 1e3))


@pytest.mark.parametrize("step_ms", [10, 100, 330])
def test_a_mahimahi_trace_may_be_of_any_length(tmp_path, step_ms):
    """A steady one is steady to its end, which is no change of its own, but for a packet at the edge of a step."""
    for period_ms in [1, 7, 99, *range(1000, 1012), 1050, 1099]:
        path = written(tmp_path, "\n".join(map(str, range(1, period_ms + 1))), "steady.up")
        spec = LinkSpec.model_validate({"up": {"trace": {"file": str(path), "step_ms": step_ms}}})
        trace = spec.up.trace.trace
        assert trace.finest_s >= min(step_ms, period_ms) / 1e3 - 1e-9
        assert trace.mean("rate_mbps") == pytest.approx(DELIVERY_BYTES * 8 / 1e3)
        assert trace.column("rate_mbps") == pytest.approx([DELIVERY_BYTES * 8 / 1e3] * len(trace.points), rel=0.11)


def test_rates_a_second_in_one_column_or_two(tmp_path):
    one = read_trace(written(tmp_path, "3.5\n0\n12\n", "a"), format="mbps")
    assert [(p.t_s, p.rate_mbps) for p in one.points] == [(0, 3.5), (1, 0), (2, 12)] and one.period_s == 3
    two = read_trace(written(tmp_path, "100.5 3\n101 4\n102.5 5\n", "b"))
    assert [(p.t_s, p.rate_mbps) for p in two.points] == [(0, 3), (0.5, 4), (2, 5)] and two.period_s == 3.5


def test_what_is_written_is_read_again(tmp_path):
    late = [Point(10_000 + i / 20 if i else 0.0, 1e5 / 3, 1e-4 / (i + 1)) for i in range(200)]
    for points in (fading(Grid(5, 0.05, 3)), late):
        write_csv(tmp_path / "mine.csv", points, "two\nlines")
        assert read_trace(tmp_path / "mine.csv").points == tuple(points)


@pytest.mark.parametrize("text", [CSV, "5\n9\n", "100.5 3\n101 4\n"])
def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path, text):
    assert read_trace(written(tmp_path, "\ufeff" + text)) == read_trace(written(tmp_path, text, "plain"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["has no line"]),
        ("t_s,speed\n0,1\n1,2\n", ["line 1", "'speed'", "rate_mbps"]),
        ("rate_mbps\n1\n2\n", ["line 1", "no column t_s"]),
        ("t_s,rate_mbps\n0,1\n", ["1 rows"]),
        ("t_s,rate_mbps\n0,1\n1,2,3\n", ["line 3", "3 cells"]),
        ("t_s,rate_mbps\n0,1\n\n0,2\n", ["line 4", "0 does not come after 0"]),
        ("t_s,rate_mbps\n1,1\n2,2\n", ["line 2", "begin at 0"]),
        ("t_s,rate_mbps\n0,1\n1,fast\n", ["line 3", "'fast'", "no number"]),
        ("t_s,rate_mbps\n0,1\n1,nan\n", ["line 3", "not finite"]),
        ("t_s,rate_mbps\n0,1\n1,-2\n", ["line 3", "-2", "outside"]),
        ("t_s,loss_pct\n0,1\n1,101\n", ["line 3", "101"]),
        ("t_s,down_rate_mbps\n0,1\n1,2\n", ["nothing of the way up", "up_rate_mbps"]),
        ("t_s,rate_mbps,up_rate_mbps\n0,1,1\n1,2,2\n", ["holds for both"]),
        ("5\n3\n", ["line 2", "never fall", "format: mbps"]),
        ("5\n3.5\n", ["line 2", "'3.5'", "format: mbps"]),
        ("0\n0\n", ["no length"]),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_line(tmp_path, text, words):
    path = written(tmp_path, text, "bad")
    with pytest.raises(TraceError) as raised:
        read_trace(path)
    assert all(word in str(raised.value) for word in [str(path), *words]), raised.value


# Over time -----------------------------------------------------------------------------------------------------------


def played_between(spec: LinkSpec, from_s: float, until_s: float) -> list[Event]:
    return list(takewhile(lambda event: event.t_s < until_s, events(spec, from_s)))


@pytest.mark.parametrize("loop", [True, False])
@pytest.mark.parametrize(("offset_s", "speed", "from_s"), [(0, 1, 0), (0.7, 1, 0), (0, 3, 0.4), (1.9, 0.5, 11.3)])
def test_what_is_played_is_the_trace_at_that_time(tmp_path, loop, offset_s, speed, from_s):
    """At every instant the last change is the trace's value there, wherever playing begins."""
    played = {"file": str(written(tmp_path, CSV)), "loop": loop, "offset_s": offset_s, "speed": speed}
    spec, trace = LinkSpec(up={"trace": played}), read_trace(tmp_path / "trace.csv")
    until_s = from_s + 2.5 * trace.period_s / speed
    changes = played_between(spec, from_s, until_s)
    assert changes[0].t_s == from_s and all(a.t_s < b.t_s for a, b in pairwise(changes))
    for t_s in np.linspace(from_s, until_s, 400, endpoint=False) + 1e-7:
        place_s = offset_s + t_s * speed
        wanted = trace.at(place_s % trace.period_s if loop else min(place_s, trace.period_s))
        last = [event for event in changes if event.t_s <= t_s][-1]
        assert last.point is not None and last.point.values == wanted.values, t_s
    for number, change in enumerate(changes):
        ends = (later.t_s for later in changes[number:] if later.point.rate_mbps != change.point.rate_mbps)
        assert change.until_s == next(ends, change.until_s)
    assert (changes[-1].until_s == math.inf) is not loop


class Kernel(Lab):
    """Stands for a busy link's: takes every command, and counts what the bucket lets through."""

    def __init__(self, spec: LinkSpec) -> None:
        super().__init__("stub", "netns", spec)
        self._bps, self._open, self.bits = 1e6 * (self.now.up.rate_mbps or 0.0), True, 0.0

    def _run_one(self, place: str, argv: Sequence[str]) -> str:
        if "tbf" in argv:  # which a change fills; a busy one holds half a frame
            self._bps = float(argv[argv.index("rate") + 1].removesuffix("bit"))
            self.bits += 8 * (int(argv[argv.index("burst") + 1]) - FRAME_BYTES / 2)
        if "plug" in argv:
            self._open = argv[-1] == "release_indefinite"
        return ""

    def _applied(self, which: str) -> dict[str, object]:
        asked = expected_values(self.now.direction(which))
        return asked | {"rate_mbps": self._bps / 1e6} if which == "up" else asked

    def lasts(self, seconds: float) -> None:
        self.bits += self._bps * seconds if self._open else 0.0


CONSTANT = "t_s,rate_mbps,delay_ms\n0,10,10\n0.5,10,20\n"
DELAY_FIRST = "t_s,rate_mbps,delay_ms\n0,10,10\n0.5,10,20\n1,5,20\n"
SHUT_FIRST = "t_s,rate_mbps\n0,0\n1,4\n2,4\n"
SLOW = "t_s,rate_mbps\n0,0.02\n60,5\n120,0.1\n"


@pytest.mark.parametrize("loop", [True, False])
@pytest.mark.parametrize("from_s", [0.0, 0.6, 61.0])
@pytest.mark.parametrize("text", [CSV, CONSTANT, DELAY_FIRST, SHUT_FIRST, SLOW])
def test_a_busy_link_lets_through_what_its_trace_says_and_reads_back_at_any_time(tmp_path, text, from_s, loop):
    """Told of only what a rate that stays gives away once: a full bucket."""
    path = written(tmp_path, text)
    spec, trace = LinkSpec(up={"trace": {"file": str(path), "loop": loop}}), read_trace(path)
    lab = Kernel(spec)
    lab.read_back()
    for begins_s in (from_s, from_s + 0.1):  # the second time it stands where the first has left it
        lab.bits, wanted, start = 0.0, 0.0, Start(10**12, begins_s, "")
        until_s = begins_s + 3 * trace.period_s
        for change, after in pairwise([*played_between(spec, begins_s, until_s), None]):
            lab.retune("up", change.point, start.instant_ns(change.t_s), start.instant_ns(change.until_s))
            lab.read_back()
            ends_s = after.t_s if after else min(until_s, change.until_s)
            lab.lasts(ends_s - change.t_s)
            wanted += 1e6 * change.point.rate_mbps * (ends_s - change.t_s)
            if ends_s == change.until_s:
                assert lab.bits == pytest.approx(wanted, abs=until_s)  # the bucket's rate is in whole bits
        assert -until_s < lab.bits - wanted < 8 * max(2 * FRAME_BYTES, 3e-3 * 20e6 / 8)


def test_a_trace_that_never_changes_ends(tmp_path):
    path = written(tmp_path, "t_s,rate_mbps\n0,5\n1,5\n")
    found = list(events(LinkSpec(trace=str(path))))
    assert [(event.t_s, event.direction) for event in found] == [(0, "down"), (0, "up")]


def test_outages_are_cut_and_mended_in_order_and_from_their_middle_too():
    outages = [{"at_s": 2, "for_s": 1, "direction": "up"}, {"at_s": 5, "for_s": 2}]
    spec = LinkSpec(outages=outages)
    in_order = [(2, "up", "cut"), (3, "up", "mend"), (5, "down", "cut"), (5, "up", "cut")]
    assert [event[:3] for event in events(spec)] == [*in_order, (7, "down", "mend"), (7, "up", "mend")]
    assert next(events(spec, 2.4)) == Event(2.4, "up", "cut")
    assert [event.what for event in events(spec, 6)] == ["cut", "cut", "mend", "mend"]


def test_before_it_is_played_a_link_is_as_its_first_point_that_lets_something_through(tmp_path):
    path = written(tmp_path, "t_s,rate_mbps,delay_ms\n0,0,5\n1,3,7\n2,9,8\n")
    spec = LinkSpec(trace=str(path), up={"queue_packets": 50}).at_start()
    assert (spec.up.rate_mbps, spec.up.delay_ms, spec.base_rtt_ms) == (3, 7, 14)
    assert spec.up.slowest_mbps == 3 and spec.up.longest_delay_ms == 8


class Slow:
    """Stands for a lab that takes its time, or breaks."""

    def __init__(self, spec: LinkSpec, takes_s: float = 0.0, breaks: Exception | None = None) -> None:
        self.spec, self._takes_s, self._breaks = spec, takes_s, breaks

    def retune(self, which: str, point: Point, due_ns: float, until_ns: float) -> None:
        time.sleep(self._takes_s)
        if self._breaks is not None:
            raise self._breaks

    def cut(self, which: str | None = None) -> None: ...
    def mend(self, which: str | None = None) -> None: ...
    def read_back(self) -> None: ...


def test_a_link_that_is_too_slow_for_its_trace_passes_changes_over_and_says_so(tmp_path):
    rows = "".join(f"{i / 100},{1 + i}\n" for i in range(30))
    path = written(tmp_path, f"t_s,rate_mbps\n{rows}")
    spec = LinkSpec(up={"trace": {"file": str(path), "loop": False}})
    with Player(Slow(spec, takes_s=0.05), tmp_path / "log") as player:
        player.follow(time.monotonic_ns())
        deadline_s = time.monotonic() + 20
        while (tmp_path / "log").read_text().count("\n") < 30 and time.monotonic() < deadline_s:
            time.sleep(0.01)
    log = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["rate_mbps"] for line in log] == list(range(1, 31)), "every point is there, applied or not"
    assert {"skipped", "applied"} == {line["outcome"] for line in log} and log[-1]["outcome"] == "applied"


@pytest.mark.parametrize("breaks", [LinkError("the router is gone"), OSError("no room")])
def test_a_link_that_breaks_is_told(tmp_path, breaks):
    spec = LinkSpec(trace=str(written(tmp_path, CSV)))
    with Player(Slow(spec, breaks=breaks), tmp_path / "log") as player:
        player.follow(time.monotonic_ns())
        deadline_s = time.monotonic() + 20
        while "failed" not in (tmp_path / "log").read_text() and time.monotonic() < deadline_s:
            time.sleep(0.01)
    with pytest.raises(LinkError, match=f"could not follow its trace: {breaks}"):
        player.check()
    assert "failed" in (tmp_path / "log").read_text()


# Generators ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_makes_the_same_trace_and_another_seed_another(kind):
    first, again, other = (KINDS[kind](Grid(30, 0.1, seed)) for seed in (4, 4, 5))
    assert first == again != other and len(first) == 300
    trace = Trace(tuple(first), 30.0)
    assert min(trace.column("rate_mbps")) >= 0 and trace.mean("rate_mbps") > 0


def test_two_states_last_as_long_as_asked():
    rates = np.array([p.rate_mbps for p in on_off(Grid(4000, 0.1, 1), up_s=3, down_s=2, rate_mbps=7, down_mbps=1)])
    assert set(rates) == {1, 7}
    assert np.mean(rates == 7) == pytest.approx(3 / 5, abs=0.04)
    switches = np.count_nonzero(np.diff(rates))
    assert 4000 / (switches / 2) == pytest.approx(5, rel=0.1)


def test_a_walk_stays_within_its_bounds_and_forgets_as_told():
    points = walk(Grid(2000, 0.1, 2), low_mbps=1, high_mbps=100, spread=0.4, memory_s=2, delay_ms=10)
    rates, delays = np.array([p.rate_mbps for p in points]), np.array([p.delay_ms for p in points])
    assert rates.min() >= 1 and rates.max() <= 100 and delays.min() >= 10
    logs = np.log(rates)
    assert (logs.mean(), logs.std()) == pytest.approx((math.log(10), 0.4), abs=0.08)
    lag = np.mean((logs[:-20] - logs.mean()) * (logs[20:] - logs.mean())) / logs.var()
    assert lag == pytest.approx(math.exp(-1), abs=0.12)


def test_the_fading_channel_is_rayleigh_with_clarkes_doppler():
    from scipy.special import j0

    grid = Grid(2000, 0.01, 3)
    gains = rayleigh(grid, grid.times_s, doppler_hz=5.0)
    power = np.abs(gains) ** 2
    assert power.mean() == pytest.approx(1, abs=0.05)
    assert np.mean(power < 0.1) == pytest.approx(1 - math.exp(-0.1), abs=0.02)  # exponential: Rayleigh's square
    for lag in (1, 3, 5, 8):
        correlation = np.real(np.vdot(gains[:-lag], gains[lag:])) / len(gains)
        assert correlation == pytest.approx(j0(2 * math.pi * 5.0 * lag * 0.01), abs=0.06)


def test_a_packet_fails_half_the_time_at_capacity_and_rarely_below_it():
    snr = np.array([0.5, 3.0, 30.0])
    capacity = np.log2(1 + snr)
    assert packet_error(snr, capacity) == pytest.approx([0.5] * 3)
    assert (packet_error(snr, 0.9 * capacity) < 0.1).all() and (packet_error(snr, 1.1 * capacity) > 0.9).all()


def test_shannons_rate_bounds_the_fading_link_and_old_knowledge_loses_packets():
    still, fast = (fading(Grid(60, 0.05, 1), doppler_hz=hz, mean_snr_db=10, bandwidth_mhz=4) for hz in (0.0, 40.0))
    assert all(p.loss_pct == 0 for p in still) and len({p.rate_mbps for p in still}) == 1
    losses = Trace(tuple(fast), 60.0).mean("loss_pct")
    assert losses > 1
    assert Trace(tuple(fading(Grid(60, 0.05, 1), doppler_hz=40.0, margin_db=10.0)), 60.0).mean("loss_pct") < losses
    sure = Trace(
        tuple(fading(Grid(600, 0.05, 1), mean_snr_db=10, bandwidth_mhz=4, known_after_ms=0, margin_db=0)), 600.0
    )
    assert sure.mean("rate_mbps") < 4 * math.log2(1 + 10)  # Jensen: the ergodic rate is below that of the mean


def test_a_handover_stops_the_link_between_two_cells():
    points = handover(Grid(100, 0.1, 1), cell_s=10, gap_s=0.3, rate_mbps=20, rim_mbps=2, delay_ms=10, rim_delay_ms=30)
    rates = np.array([p.rate_mbps for p in points])
    gaps = np.count_nonzero(np.diff((rates == 0).astype(int)) == 1)
    assert 7 <= gaps <= 12 and np.count_nonzero(rates == 0) == pytest.approx(3 * gaps, abs=3)
    assert rates.max() == pytest.approx(20, rel=0.02) and rates[rates > 0].min() == pytest.approx(2, rel=0.1)
    assert all(10 <= p.delay_ms <= 30 for p in points)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Grid(10, 0.001), "step_s"),
        (lambda: Grid(0.1, 0.1), "two steps"),
        (lambda: walk(Grid(), low_mbps=5, high_mbps=5), "high_mbps"),
        (lambda: on_off(Grid(), up_s=0), "up_s"),
        (lambda: fading(Grid(), tries=0), "tries"),
        (lambda: handover(Grid(), gap_s=-1), "gap_s"),
    ],
)
def test_an_impossible_generator_is_refused_by_name(call, words):
    with pytest.raises(TraceError, match=words):
        call()


# In a configuration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ({"trace": "TRACE", "rate_mbps": 5}, ["rate_mbps (5)", "varies it"]),
        ({"trace": "TRACE", "up": {"trace": "TRACE"}}, ["keep trace for both"]),
        ({"up": {"trace": {"file": "TRACE", "speed": 200}}}, ["faster than", "speed"]),
        ({"up": {"trace": {"file": "TRACE", "offset_s": 99}}}, ["offset_s (99)", "3.5 s"]),
        ({"up": {"trace": {"file": "TRACE", "offset_s": 2.5, "loop": False}}}, ["offset_s (2.5) on", "leave loop out"]),
        ({"up": {"trace": {"file": "TRACE", "sha256": "0"}}}, ["is not the file", "remove sha256"]),
        ({"up": {"trace": "nowhere.csv"}}, ["nowhere.csv", "cannot be read"]),
        ({"up": {"trace": {"file": "TRACE", "sped": 2}}}, ["sped"]),
        (
            {"down": {"trace": "TRACE", "gilbert": {"mean_loss_pct": 1, "mean_burst": 2}}},
            ["varies the loss", "gilbert"],
        ),
        ({"up": {"trace": "CALM", "reorder_pct": 5}}, ["reorder_pct (5)", "falls to 0"]),
        ({"outages": [{"at_s": 1, "for_s": 2}, {"at_s": 2, "for_s": 1, "direction": "up"}]}, ["cut again at 2 s"]),
        ({"outages": [{"at_s": -1, "for_s": 2}]}, ["at_s"]),
        ({"outages": [{"at_s": 1, "for_s": 0}]}, ["for_s"]),
    ],
)
def test_what_cannot_be_played_is_refused(tmp_path, link, words):
    path, calm = str(written(tmp_path, CSV)), str(written(tmp_path, "t_s,delay_ms\n0,10\n1,0\n", "calm.csv"))
    with pytest.raises(ValidationError) as raised:
        LinkSpec.model_validate_json(json.dumps(link).replace("TRACE", path).replace("CALM", calm))
    assert all(word in str(raised.value) for word in words), raised.value


def test_a_trace_is_read_when_the_configuration_is_and_never_again(tmp_path, monkeypatch):
    path = written(tmp_path, CSV)
    spec = LinkSpec(up={"trace": str(path)})
    path.unlink()
    monkeypatch.setattr(Path, "read_bytes", None)
    monkeypatch.setattr(Path, "read_text", None)
    lab = Kernel(spec)
    for event in islice(events(spec), 20):
        lab.retune(event.direction, event.point, event.t_s, event.until_s)
        lab.read_back()
    copy = spec.model_copy(update={"clock": "run"})
    assert copy.up.limit_packets == spec.up.limit_packets and copy.up.trace.file_sha256 == spec.up.trace.file_sha256


def test_a_traced_spec_reads_back_as_itself(tmp_path):
    spec = LinkSpec(
        trace={"file": str(written(tmp_path, CSV)), "speed": 2}, outages=[{"at_s": 1, "for_s": 2}], clock="run"
    )
    assert (spec.up.trace.side, spec.down.trace.side) == ("up", "down")  # type: ignore[union-attr]
    assert LinkSpec.model_validate_json(spec.model_dump_json()) == spec
    assert list(islice(events(spec), 5)) == list(islice(events(LinkSpec(**spec.model_dump())), 5))


def test_the_sketch_says_what_is_there(tmp_path):
    trace = read_trace(written(tmp_path, CSV))
    about = describe(trace)
    assert about["columns"]["rate_mbps"] == {"min": 0, "mean": pytest.approx(2), "max": 8}
    assert about["shut_share"] == pytest.approx(1.5 / 3.5) and about["finest_s"] == 0.5
    rate, delay, axis = lines(trace, width=14)
    assert rate.split()[1] == "██▃▃▃▃▃▃······" and len(delay.split()[1]) == 14 and axis.endswith("3.5 s")
