"""trace.json against the Chrome trace event format as Perfetto reads it: an event it would drop is an error here."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path

import pytest
from report_run import SYSTEMS, toy_run

from experiments.bench.perfetto import PerfettoError, find_tools, load
from experiments.report import write_trace

TICK_US = 2e-3  # times are written to the nanosecond
NEEDS = {"X": {"ts", "dur"}, "C": {"ts", "args"}, "s": {"ts", "id"}, "f": {"ts", "id", "bp"}, "M": {"args"}}
METADATA = {"process_name": str, "process_sort_index": int, "thread_name": str, "thread_sort_index": int}


def problems(document: object) -> list[str]:
    """What a strict reader would complain of; empty for a sound trace."""
    if not isinstance(document, dict) or not isinstance(document.get("traceEvents"), list):
        return ["no list of traceEvents"]
    found = [problem for event in document["traceEvents"] for problem in _of_event(event)]
    if found:
        return found
    slices = defaultdict(list)
    for event in document["traceEvents"]:
        if event["ph"] == "X":
            slices[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"], event["name"]))
    for lane, spans in slices.items():
        found += _unnested(lane, spans)
    return found + _loose_arrows(document["traceEvents"], slices)


def _of_event(event: dict) -> list[str]:
    kind = event.get("ph")
    if kind not in NEEDS:
        return [f"phase {kind!r} of {event}"]
    lacking = ({"name", "pid"} | NEEDS[kind]) - set(event)
    if lacking:
        return [f"{kind} lacks {sorted(lacking)}: {event}"]
    found = [] if isinstance(event["name"], str) and event["name"] else [f"no name: {event}"]
    numbers = [event[key] for key in ("ts", "dur") if key in event]
    if any(isinstance(n, bool) or not isinstance(n, int | float) or not math.isfinite(n) or n < 0 for n in numbers):
        found.append(f"time is no number at or after zero: {event}")
    if any(not isinstance(event.get(key, 0), int) for key in ("pid", "tid")):
        found.append(f"pid or tid is no number: {event}")
    if kind == "M":
        values = list(event["args"].values())
        if event["name"] not in METADATA or len(values) != 1 or not isinstance(values[0], METADATA[event["name"]]):
            found.append(f"metadata unknown to Perfetto: {event}")
    if kind == "C" and not all(isinstance(v, int | float) and math.isfinite(v) for v in event["args"].values()):
        found.append(f"a counter that counts nothing: {event}")
    return found


def _unnested(lane: tuple, spans: list[tuple[float, float, str]]) -> list[str]:
    """Slices of a lane have to lie beside or within each other: others are dropped."""
    found, around = [], []
    for begin, end, name in sorted(spans, key=lambda span: (span[0], -span[1])):
        while around and around[-1] <= begin + TICK_US:
            around.pop()
        if around and end > around[-1] + TICK_US:
            found.append(f"{name} at {begin} overlaps in lane {lane}")
        around.append(end)
    return found


def _loose_arrows(events: list[dict], slices: dict) -> list[str]:
    """An arrow has one tail and one head, in this order, each on a slice of its lane."""
    arrows = defaultdict(list)
    for event in events:
        if event["ph"] in "sf":
            arrows[event["cat"], event["name"], event["id"]].append(event)
    found = []
    for key, ends in arrows.items():
        if [end["ph"] for end in ends] != ["s", "f"] or ends[0]["ts"] > ends[1]["ts"] + TICK_US:
            found.append(f"arrow {key} is not one tail and a later head")
        for end in ends:
            lane = slices[end["pid"], end["tid"]]
            if not any(begin - TICK_US <= end["ts"] <= over + TICK_US for begin, over, _ in lane):
                found.append(f"arrow {key} ends on nothing")
    return found


@pytest.fixture(scope="module")
def trace(tmp_path_factory) -> Path:
    return write_trace(toy_run(tmp_path_factory.mktemp("run"), SYSTEMS))


def test_a_run_is_a_sound_trace(trace):
    assert problems(json.loads(trace.read_text(encoding="utf-8")))[:5] == []


@pytest.mark.parametrize("spoil", [
    {"ph": "Q"}, {"dur": -1.0}, {"ts": "0"}, {"name": ""}, {"pid": "device"}, {"args": {}, "ph": "M"},
    {"ph": "f", "id": 10**6, "bp": "e", "cat": "message"}, {"ph": "M", "args": {"name": "x"}},
])  # fmt: skip
def test_the_check_has_teeth(trace, spoil):
    document = json.loads(trace.read_text(encoding="utf-8"))
    index = next(i for i, event in enumerate(document["traceEvents"]) if event["ph"] == "X")
    document["traceEvents"][index] |= spoil
    assert problems(document)


def test_slices_that_overlap_are_found(trace):
    document = json.loads(trace.read_text(encoding="utf-8"))
    first, second = [event for event in document["traceEvents"] if event.get("cat") == "request"][:2]
    first["dur"] = second["ts"] + second["dur"] / 2 - first["ts"]
    assert any("overlaps" in problem for problem in problems(document))


@pytest.fixture(scope="module")
def tools():
    try:
        return find_tools()
    except PerfettoError as error:
        pytest.skip(f"Perfetto's trace processor cannot be run: {error}")


@pytest.mark.slow
def test_perfetto_loads_it(trace, tools):
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    loaded = load(trace, tools)
    assert loaded.problems == {} and loaded.unfinished == 0
    assert loaded.slices == sum(event["ph"] == "X" for event in events)
    assert loaded.flows == sum(event["ph"] == "s" for event in events)
    assert loaded.values == sum(event["ph"] == "C" for event in events)
    assert sorted(loaded.processes) == ["device", "edge"]
    assert len(loaded.counters) == 4, "power and frequency of each node"
    assert loaded.threads == sum(event["name"] == "thread_name" for event in events)


@pytest.mark.slow
def test_perfetto_misses_what_is_spoilt(trace, tools, tmp_path):
    document = json.loads(trace.read_text(encoding="utf-8"))
    first = next(event for event in document["traceEvents"] if event["ph"] == "X")
    first |= {"ph": "f", "id": 10**6, "bp": "e", "cat": "message"}
    (tmp_path / "spoilt.json").write_text(json.dumps(document))
    assert load(tmp_path / "spoilt.json", tools).problems == {"flow_no_enclosing_slice": 1}
    (tmp_path / "nothing.json").write_text("no trace at all")
    with pytest.raises(PerfettoError, match="refuses the trace"):
        load(tmp_path / "nothing.json", tools)
