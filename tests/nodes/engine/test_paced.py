"""A pace: how long a forward lasts, how wide a row is, and what happens when the machine is too slow."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from nodes.engine import EngineError
from nodes.engine.paced import PacedEngine
from nodes.engine.profiles import Pace, list_profiles, load_pace, profile_names
from nodes.engine.toy import ToyEngine
from nodes.sampling import Sampling
from nodes.session import Session

SLACK_S, TRIES = 0.25, 20  # a loaded machine wakes a sleeper late, now and then; never early


def paced(**numbers) -> PacedEngine:
    return PacedEngine(ToyEngine("target"), load_pace({"forward_ms": 0, **numbers}, "target"))


def forward_s(engine: PacedEngine, sessions: list[Session]) -> float:
    began_s = time.monotonic()
    engine.forward(sessions, [1] * len(sessions))
    return time.monotonic() - began_s


def test_a_forward_lasts_what_the_pace_says():
    ToyEngine("target").forward([Session(Sampling(), [1])], [1])  # the first of a process is slow
    for _ in range(TRIES):
        engine = paced(forward_ms=10, per_token_ms=2, prefill_per_token_ms=1)
        first, second = Session(Sampling(), [1] * 20), Session(Sampling(), [1] * 10)
        prefill_s = forward_s(engine, [first, second])
        first.become([1] * 22)
        second.become([1] * 13)
        decode_s = forward_s(engine, [first, second])
        assert prefill_s >= 0.040 and decode_s >= 0.020, "10 + 30 x 1, and 10 + (2 + 3) x 2"
        assert engine.forwards == 2 and engine.busy_s >= 0.060
        if not engine.overruns and max(prefill_s - 0.040, decode_s - 0.020, engine.busy_s - 0.060) < SLACK_S:
            return
    raise AssertionError(f"never within {SLACK_S} s of the pace in {TRIES} tries")


def test_an_overrun_is_counted():
    engine = paced(forward_ms=1)
    plain = engine.inner.forward
    engine.inner.forward = lambda *args: (time.sleep(0.005), plain(*args))[1]
    engine.forward([Session(Sampling(), [1])], [1])
    assert engine.overruns == 1 and engine.overrun_s >= 0.004
    assert engine.describe()["overruns"] == 1


def test_busy_time_runs_on_during_a_forward():
    engine, go_on = paced(forward_ms=300), threading.Event()
    plain = engine.inner.forward
    engine.inner.forward = lambda *args: (go_on.wait(), plain(*args))[1]
    worker = threading.Thread(target=engine.forward, args=([Session(Sampling(), [1])], [1]))
    worker.start()
    while not (early_s := engine.busy_s):
        time.sleep(0.001)
    time.sleep(0.01)
    assert engine.busy_s > early_s
    go_on.set()
    worker.join()
    at_rest_s = engine.busy_s
    time.sleep(0.01)
    assert engine.busy_s == at_rest_s >= 0.3


def test_a_refused_session_leaves_the_clock_stopped():
    engine = paced(forward_ms=5)
    with pytest.raises(EngineError):
        engine.forward([Session(Sampling(), [99])], [1])
    at_rest_s = engine.busy_s
    time.sleep(0.005)
    assert engine.busy_s == at_rest_s


def test_rows_are_padded_with_nothing():
    engine = paced(vocab_size=50272)
    bare = ToyEngine("target")
    [dists] = engine.forward([Session(Sampling(), [1, 2])], [2])
    [inner] = bare.forward([Session(Sampling(), [1, 2])], [2])
    assert engine.vocab_size == len(dists.row(0)) == 50272 and len(dists) == 2
    np.testing.assert_array_equal(dists.row(1)[:32], inner.row(1))
    assert not dists.row(1)[32:].any() and dists.row(1).dtype == np.float32
    np.testing.assert_array_equal(dists.at([3, 4]), inner.at([3, 4]))


def test_what_a_pace_changes_and_what_it_does_not():
    engine, bare = paced(vocab_size=100), ToyEngine("target")
    assert engine.vocab_hash != bare.vocab_hash and engine.vocab_hash == paced(vocab_size=100).vocab_hash
    assert engine.labels == {"toy", "paced"} and engine.max_tokens == bare.max_tokens
    assert engine.describe()["pace"]["sources"]["forward_ms"]["assumed"] is True
    assert paced().vocab_size == 32


def test_a_narrower_vocabulary_is_refused():
    with pytest.raises(EngineError, match="16 is smaller than the 32"):
        paced(vocab_size=16)


@pytest.mark.parametrize("role", ["draft", "target"])
@pytest.mark.parametrize("name", profile_names())
def test_every_profile_says_where_its_numbers_come_from(name, role):
    pace = load_pace(name, role)
    assert pace.name == name and pace.forward_ms > 0 and pace.model and pace.hardware
    assert pace.active_w > pace.idle_w > 0
    assert pace.sources.keys() == {
        "vocab_size", "forward_ms", "per_token_ms", "prefill_per_token_ms", "idle_w", "active_w"
    }  # fmt: skip
    for source in pace.sources.values():
        assert isinstance(source["assumed"], bool) and len(source["source"]) > 10


def test_published_timings():
    times = {name: [load_pace(name, role).forward_ms for role in ("draft", "target")] for name in profile_names()}
    assert times["opt-125m-6.7b@h800"] == [8.7, 124.5]
    assert times["opt-125m-13b@h800"] == [8.7, 207.5], "1 / 4.82 tokens per second"
    assert times["opt-125m-6.7b@a6000-h800"] == [15.6, 135.9], "1 / 64 and 1 / 7.36"
    assert times["opt-125m-13b@a6000-h800"] == [15.6, 240.4], "1 / 4.16"
    assert times["qwen3-0.6b-32b"][1] == 72.0 and times["llama-1b-70b"][1] == 145.6
    widths = {record["name"]: record["vocab_size"]["value"] for record in list_profiles()}
    opt = {f"opt-125m-{size}@{where}": 50272 for size in ("6.7b", "13b") for where in ("h800", "a6000-h800")}
    assert widths == {**opt, "qwen3-0.6b-32b": 151936, "llama-1b-70b": 128256}
    assert load_pace("qwen3-0.6b-32b", "draft").sources["forward_ms"]["assumed"]
    assert not load_pace("qwen3-0.6b-32b", "target").sources["forward_ms"]["assumed"]


@pytest.mark.parametrize(
    ("pace", "said"),
    [
        ("gpt-9", "gpt-9.*opt-125m-6.7b@h800"),
        ("../profiles/llama-1b-70b", "no compute profile"),
        ({"forward_ms": -1}, "forward_ms"),
        ({"forward_ms": "8"}, "forward_ms"),
        ({"forward_ms": float("nan")}, "forward_ms"),
        ({"forward_ms": 1, "speed": 2}, "speed"),
        ({"vocab_size": 100}, "forward_ms is missing"),
        ({"forward_ms": 1, "vocab_size": 1.5}, "vocab_size"),
    ],
)
def test_bad_paces_are_refused(pace, said):
    with pytest.raises(EngineError, match=said):
        load_pace(pace, "draft")


def test_duration():
    pace = Pace("x", "target", forward_ms=100, per_token_ms=3, prefill_per_token_ms=0.5)
    assert pace.duration_s(5, 40) == pytest.approx(0.135)
