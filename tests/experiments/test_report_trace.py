"""trace.json and the figures: what other programs open."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from itertools import pairwise, product

import pytest
from report_run import FREQUENCY_HZ, SYSTEMS, WATTS, summary_of, toy_run

from experiments.report import write_figures, write_trace
from experiments.spans import spans_of
from experiments.store import RunFolder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> RunFolder:
    return toy_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def events(folder) -> list[dict]:
    path = write_trace(folder)
    assert path == folder.path / "trace.json"
    return json.loads(path.read_text(encoding="utf-8"))["traceEvents"]


def test_two_processes_may_write_it_at_once_and_both_leave_all_of_it(folder, monkeypatch):
    class SlowFolder(RunFolder):
        """While its requests are read for one writer, another process writes from beginning to end."""

        def requests(self):
            with monkeypatch.context() as other:
                other.setattr("os.getpid", lambda: 0)
                whole.append(write_trace(folder).read_bytes())
            return super().requests()

    whole: list[bytes] = []
    assert write_trace(SlowFolder(folder.path)).read_bytes() == whole[0]
    assert not list(folder.path.glob(".trace.json*"))


def test_every_request_and_every_round_is_there(folder, events):
    requests = [event for event in events if event.get("cat") == "request"]
    assert {event["args"]["request"] for event in requests} == {r.request_id for r in folder.requests().records}
    by_round: dict[tuple[str, int], float] = defaultdict(float)
    for event in events:
        if event["ph"] == "X" and event["cat"] == "device" and event["name"] != "draft ahead":
            by_round[event["args"]["request"], event["args"]["round"]] += event["dur"]
    for record in folder.rounds().records:
        total_us = (record.end_ns - record.start_ns) / 1e3
        assert by_round[record.request_id, record.round] == pytest.approx(total_us, rel=0.01, abs=2)


def test_lanes_are_named_and_events_lie_in_them(events):
    named = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    used = {(event["pid"], event["tid"]) for event in events if event["ph"] in "Xsf"}
    assert used == named
    assert all(event["ts"] >= 0 and event.get("dur", 0) >= 0 for event in events if event["ph"] != "M")


def test_arrows_begin_and_end_on_spans(events):
    starts = {(event["pid"], event["tid"], event["ts"]) for event in events if event["ph"] == "X"}
    flows = [event for event in events if event.get("cat") == "message"]
    assert set(Counter(event["id"] for event in flows).values()) == {2}
    assert all((event["pid"], event["tid"], event["ts"]) in starts for event in flows)
    assert {event["name"] for event in flows} == {"up", "down"}


def test_power_is_a_counter_of_each_node(events):
    counted = {event["pid"]: event["args"]["W"] for event in events if event["name"] == "power (W)"}
    assert sorted(counted.values()) == [pytest.approx(watts, rel=1e-3) for watts in sorted(WATTS.values())]


def test_frequency_is_a_counter_of_each_node_from_the_first_span_on(events):
    tracks = defaultdict(list)
    for event in events:
        if event["name"] == "cpu.frequency (MHz)":
            tracks[event["pid"]].append((event["ts"], event["args"]["MHz"]))
    assert {pid: track[0] for pid, track in tracks.items()} == {
        pid: (0.0, hz / 1e6) for pid, hz in zip((1, 2), FREQUENCY_HZ.values())
    }, "what held before the first span holds at it"
    assert all(len(track) == 2 and track[1][0] > 0 for track in tracks.values())


def test_an_edge_does_one_thing_at_a_time_for_a_request(folder):
    records = folder.rounds().records
    for request in folder.requests().records:
        mine = [record for record in records if record.request_id == request.request_id]
        spans = sorted(span[2:4] for span in spans_of(mine, one_clock=True) if span.node == "edge")
        assert all(after[0] >= before[1] - 1000 for before, after in pairwise(spans))
        assert all(request.start_ns <= t0 <= t1 <= request.end_ns for t0, t1 in spans)


@pytest.mark.parametrize("lost", [(), ("rounds.jsonl",), ("requests.jsonl",)])
def test_time_begins_with_the_first_of_what_happened(tmp_path, lost):
    folder = toy_run(tmp_path, ["dssd"], requests=1)
    for name in lost:
        (tmp_path / name).write_bytes(b"")
    events = json.loads(write_trace(folder).read_text())["traceEvents"]
    assert min(event["ts"] for event in events if event["ph"] == "X") == 0


def test_without_a_shared_clock_the_edge_sits_in_the_middle(tmp_path):
    folder = toy_run(tmp_path, ["dssd"], boots=("one boot", "another"))
    for record in folder.rounds().records:
        at_edge = [span for span in spans_of([record], one_clock=False) if span.node == "edge"]
        before_ns, after_ns = at_edge[0].t0_ns - record.sent_ns, record.received_ns - at_edge[-1].t1_ns
        assert before_ns == pytest.approx(after_ns, abs=2000)
    events = json.loads(write_trace(folder).read_text())["traceEvents"]
    assert {event["pid"] for event in events if event["ph"] == "C"} == {1}
    assert any("another clock" in str(event.get("args", {}).get("name")) for event in events)


def test_a_trace_of_nothing(tmp_path):
    (tmp_path / "config.yaml").write_text("name: nothing\n")
    assert json.loads(write_trace(RunFolder(tmp_path)).read_text())["traceEvents"]


def test_figures_for_papers(folder):
    pytest.importorskip("matplotlib")
    written = write_figures(folder, summary_of(folder))
    names = {"tokens_per_s", "round_parts", "acceptance", "bytes", "latency", "predicted", "energy_delay"}
    assert {(path.stem, path.suffix) for path in written} == set(product(names, (".pdf", ".svg")))
    for path in written:
        assert path.parent == folder.path / "figures"
        assert path.read_bytes()[:5] in (b"%PDF-", b"<?xml")
    speed = (folder.path / "figures" / "tokens_per_s.svg").read_text(encoding="utf-8")
    assert all(system in speed for system in SYSTEMS), "text stays text"


def test_figures_without_data_are_left_out(tmp_path):
    pytest.importorskip("matplotlib")
    folder = toy_run(tmp_path, ["device_ar"], power=False)
    names = {path.stem for path in write_figures(folder, summary_of(folder))}
    assert names == {"tokens_per_s", "round_parts", "latency"}
