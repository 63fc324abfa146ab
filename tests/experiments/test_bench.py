"""The bench's records: their shape, that a bound can fail, and what the parts compute. No times are asserted."""

from __future__ import annotations

import math
import time

import pytest

from experiments import bench
from experiments.bench import overhead, speed
from experiments.bench.pingpong import PingPong
from experiments.bench.predict import Wire
from experiments.bench.records import holds, record
from nodes.composition import system_names
from nodes.methods import method_names
from nodes.records import RoundRecord

KEYS = ["name", "value", "bound", "unit", "ok", "note"]


def check(records):
    assert records
    for each in records:
        assert list(each) == KEYS
        assert math.isfinite(each["value"]) and each["ok"] == holds(each["value"], each["bound"])
    assert len({each["name"] for each in records}) == len(records)
    return {each["name"]: each for each in records}


# A bound can fail ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "bound", "ok"),
    [(1.2, ">= 1.2", True), (1.19, ">= 1.2", False), (3, "<= 3", True), (3.1, "<= 3", False), (9, "", True)],
)
def test_ok_follows_from_value_and_bound(value, bound, ok):
    assert record("x", value, "ms", bound)["ok"] is ok


@pytest.mark.parametrize("bound", [">= 0", "<= 0"])
def test_what_is_not_a_number_keeps_no_bound(bound):
    assert not holds(math.nan, bound)


def test_run_bench_names_its_parts():
    with pytest.raises(bench.BenchError, match=r"no part 'sped'; there are: .*speed"):
        bench.run_bench(["sped"])


def test_run_bench_runs_what_was_asked_for(capsys):
    names = [each["name"] for each in bench.run_bench(["work"])]
    assert names and all(name.startswith("work: ") for name in names)
    assert "work" in capsys.readouterr().err


# Parts ----------------------------------------------------------------------------------------------------------------


def test_work_covers_every_case():
    from experiments.bench import work

    assert len(check(work.measure(vocab_size=2000, repeats=1))) == len(work.CASES)


def test_bytes_tell_a_token_from_a_round():
    from experiments.bench import bytes as part

    records = check(part.measure_frames(vocab_size=70_000, requests=1, max_new_tokens=32))
    assert records["bytes: dssd up, a drafted token"]["value"] < 8  # mostly three for the id, four for its probability
    assert all(each["ok"] for each in records.values())


def test_every_system_sends_what_its_formula_says():
    """Unpaced and on loopback, which bytes do not depend on; the payload to a thousandth, the whole within 3 %."""
    from experiments.bench import formulas

    records = check(formulas.measure(70_000, requests=1, link={}, pace=None))
    assert len(records) == 2 * len(system_names())
    for name, each in records.items():
        assert each["ok"], f"{name}: {each['note']}"
        assert "the nodes count" not in each["note"]
    for name in ("edge_ar", "dssd_sampled", "wisv_mismatch_first", "hybrid_llm"):
        assert "; 0 rounds" not in records[f"bytes: {name} down, off its formula"]["note"]
    assert "4*(g + c) + 7*k = " in records["bytes: cu_hlm up, off its formula"]["note"]


def test_every_method_has_a_formula():
    from experiments.bench.formulas import FORMULAS

    assert set(FORMULAS) == set(method_names())


def test_overhead_takes_forwards_off():
    at = RoundRecord("dssd", "r", 0, False, 1, 0, 0, start_ns=1_000_000, end_ns=11_000_000)
    at.draft_ms, at.encode_ms, at.network_ms, at.edge_ms, at.verify_ms, at.resolve_ms = 4, 1, 2, 2.5, 2, 0.5
    spans = [(0, 900_000), (1_000_000, 2_000_000), (3_000_000, 4_500_000), (11_000_000, 12_000_000)]
    parts = overhead.beside_forwards_ms(at, spans)
    assert parts == {"draft": 1.5, "encode": 1, "wire": 2, "dispatch": 0.5, "resolve": 0.5}
    assert sum(parts.values()) == 10 - 2 - 2.5


@pytest.mark.parametrize(("message_bytes", "vocab_size", "rows"), [(46, 512, 0), (2081, 512, 0), (804_385, 50_272, 4)])
def test_frames_of_the_bare_exchange_weigh_what_ours_do(message_bytes, vocab_size, rows):
    sizes = overhead.frame_sizes(message_bytes, vocab_size)
    assert sum(sizes) == message_bytes and len(sizes) == 3 + rows


def test_overhead_of_real_processes():
    records = check(overhead.measure(requests=1, max_new_tokens=16))
    assert sum(bool(each["bound"]) for each in records.values()) == len(overhead.CASES)


def test_ping_pong_carries_frames_of_any_size():
    with PingPong([4, 20, 300_000], [0, 1]) as bare:
        assert bare.exchange() > 0


def test_contenders_take_turns_and_are_compared():
    order = []

    def contender(name, tokens):
        def generate(prompt, repeat):
            order.append(name)
            time.sleep(0.001)
            return tokens

        return generate

    rates, same = speed.take_turns(
        {"first": contender("first", [1, 2]), "same": contender("same", [1, 2]), "other": contender("other", [1])}, 3, 2
    )
    assert order[3:6] == ["first", "same", "other"] and order[6:9] == ["same", "other", "first"]
    assert same == {"first": 6, "same": 6}
    assert all(len(rates[name]) == 2 for name in rates)


def test_link_predictions():
    wire = Wire(rtt_ms=40, rate_mbps=12.112)  # a full segment, 1514 bytes on the link, takes 1 ms
    assert wire.transfer_ms(1448) == pytest.approx(1)
    assert wire.transfer_ms(14_480) == pytest.approx(10)
    assert wire.slow_start_ms(14_480) == (0, 0.0)  # fits the first window
    flights, idle_ms = wire.slow_start_ms(100 * 1448)
    assert flights == 2 and idle_ms == pytest.approx((40 - 10) + (40 - 20))  # 10, 20, then 40 fill the link
