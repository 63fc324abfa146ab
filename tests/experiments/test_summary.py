"""The arithmetic of a summary, against records made by hand, whose figures one can work out on paper."""

from __future__ import annotations

import json

import pytest
from handmade import DSSD, EDGE_AR, MS, a_request, a_round, summary_of, watts

from experiments.table import note_lines
from nodes.composition import load_system
from nodes.probes.energy import counters


def figures_of(rounds, requests, **more):
    return summary_of(rounds, requests, **more)["systems"][0]


def two_rounds():
    return [a_round(1), a_round(2, start_ms=100)], [a_request()]


def test_speed_is_all_tokens_over_all_time():
    requests = [a_request(6, 200.0), a_request(12, 1000.0, request="dssd/q/0")]
    figures = figures_of([], requests)
    assert figures["tokens_per_s"] == pytest.approx(18 / 1.2)
    assert (figures["requests"], figures["output_tokens"], figures["e2e_ms"]) == (2, 18, 600)


def test_acceptance_counts_what_was_proposed_tested_and_kept():
    rounds = [a_round(1, 4), a_round(2, 2), a_round(3, 0), a_round(4, 1, drafted=1)]
    figures = figures_of(rounds, [a_request()])
    assert figures["mean_acceptance_length"] == pytest.approx(1 + 7 / 4)
    assert figures["draft_acceptance_rate"] == pytest.approx(7 / 13)
    assert figures["acceptance_rate_tested"] == pytest.approx(7 / (4 + 3 + 1 + 1), rel=1e-6)
    assert figures["acceptance_by_position"] == pytest.approx([3 / 4, 2 / 3, 1 / 3, 1 / 3], rel=1e-6)


def test_a_method_without_a_bonus_gives_nothing_after_a_draft_that_stood():
    """HLM: one token a round, whether the draft's or the edge's."""
    hlm = load_system("hlm")
    rounds = [a_round(n, accepted, drafted=1, system="hlm") for n, accepted in enumerate((1, 0, 1, 1))]
    [figures] = summary_of(rounds, [a_request(system="hlm")], systems=(hlm,))["systems"]
    assert figures["mean_acceptance_length"] == 1 and figures["draft_acceptance_rate"] == 3 / 4


def test_a_draft_that_nobody_verified_was_not_accepted():
    unsent = a_round(drafted=1, accepted=0, sent_ns=0, received_ns=0, n_unverified=1)
    figures = figures_of([unsent], [a_request(tokens=1)])
    assert figures["mean_acceptance_length"] is figures["draft_acceptance_rate"] is None
    assert figures["unverified_share"] == 1
    assert figures["round_trips_per_request"] == 0


def test_the_parts_of_a_round_add_up_to_the_round():
    parts = figures_of(*two_rounds())["parts_ms"]
    assert parts == {
        "draft": 20,
        "encode": 1,
        "network_up": 15,
        "network_down": 10,
        "queue": 5,
        "verify": 40,
        "edge_other": 5,
        "resolve": 4,
    }
    assert sum(parts.values()) == 100


@pytest.mark.parametrize("offset_ns", [None, 0.0, 3.0 * MS, 1e15])
def test_the_parts_add_up_whatever_the_clocks(offset_ns):
    rounds = [a_round(1), a_round(2, legs=2), a_round(3, sent_ns=0)]
    parts = figures_of(rounds, [a_request()], clock_offset_ns=offset_ns)["parts_ms"]
    assert sum(parts.values()) == pytest.approx(100)
    assert ("network" in parts) == (offset_ns is None)
    assert all(value >= 0 for value in parts.values())


def test_a_measured_offset_divides_the_network():
    shifted = [a_round(edge_arrived_ns=36 * MS + 7_000 * MS)]
    parts = figures_of(shifted, [a_request()], clock_offset_ns=7_000.0 * MS)["parts_ms"]
    assert (parts["network_up"], parts["network_down"]) == (15, 10)


def test_bytes_and_network_share():
    figures = figures_of(*two_rounds())
    assert (figures["bytes_up_per_token"], figures["bytes_down_per_token"]) == (20, 100)
    assert figures["ideal_bytes_up_per_token"] == pytest.approx(64 / 6)
    assert figures["network_share"] == pytest.approx(0.25)
    assert figures["link_bytes_up_per_token"] is None
    counted = a_request(link_up_bytes=600, link_down_bytes=60)
    assert figures_of([], [counted])["link_bytes_up_per_token"] == 100


def test_tokens_of_one_round_arrive_together():
    figures = figures_of(*two_rounds())
    assert figures["itl_ms_p50"] == figures["itl_ms_p99"] == 100


def test_warm_up_and_failed_requests_do_not_count():
    rounds = [a_round(), a_round(request="w", warmup=True, draft_ms=1e6), a_round(request="f", draft_ms=1e6)]
    requests = [a_request(), a_request(request="w", warmup=True), a_request(request="f", error="the edge is gone")]
    figures = figures_of(rounds, requests)
    assert (figures["requests"], figures["failed_requests"]) == (1, 1)
    assert figures["parts_ms"]["draft"] == 20


def test_rounds_of_a_request_that_was_never_finished_do_not_count():
    assert figures_of([a_round(), a_round(request="killed", accepted=4)], [a_request()])["mean_acceptance_length"] == 3


def test_the_baseline_is_edge_ar_whatever_it_is_called():
    requests = [a_request(10, 1000.0, system="edge_ar", request="e"), a_request(30, 1000.0)]
    records = summary_of([], requests, systems=(EDGE_AR, DSSD))["systems"]
    assert [record["speedup_over_edge_ar"] for record in records] == [1, 3]
    assert figures_of([], [a_request()])["speedup_over_edge_ar"] is None


def test_a_request_that_one_of_the_two_did_not_answer_changes_nothing_of_the_speedup():
    """Six prompts that both answered; of six slow ones the edge alone answered none."""
    of = {system: [a_request(10, ms + i, system=system, request=f"{system}/{i}", prompt_id=f"p{i}") for i in range(6)]
          for system, ms in (("edge_ar", 200.0), ("dssd", 100.0))}  # fmt: skip
    slow = [a_request(10, 1000.0, request=f"dssd/slow/{i}", prompt_id=f"slow/{i}") for i in range(6)]
    both, more = (
        summary_of([], [*of["edge_ar"], *of["dssd"], *others], systems=(EDGE_AR, DSSD)) for others in ([], slow)
    )
    keys = ("speedup_over_edge_ar", "speedup_over_edge_ar_ci95", "speedup_p_value", "speedup_requests")
    assert [[f[key] for key in keys] for f in more["systems"]] == [[f[key] for key in keys] for f in both["systems"]]
    figures = both["systems"][1]
    low, high = figures["speedup_over_edge_ar_ci95"]
    assert low <= figures["speedup_over_edge_ar"] <= high and figures["speedup_requests"] == 6
    assert not any("vs edge_ar" in line for line in note_lines(both))
    assert "vs edge_ar of dssd: over the requests that both answered, 6 of 12" in note_lines(more)
    never_met = summary_of([], [*of["edge_ar"], *slow], systems=(EDGE_AR, DSSD))
    figures = never_met["systems"][1]
    assert figures["speedup_over_edge_ar"] == pytest.approx(0.2, rel=0.02) and figures["speedup_requests"] == 0
    assert figures["speedup_over_edge_ar_ci95"] is None
    assert "vs edge_ar of dssd: two rates, no request in common" in note_lines(never_met)


def test_the_interval_holds_the_speed_and_is_always_the_same():
    requests = [a_request(5 + i % 3, 100.0 + 7 * i, request=str(i)) for i in range(30)]
    figures = figures_of([], requests)
    low, high = figures["tokens_per_s_ci95"]
    assert low < figures["tokens_per_s"] < high
    assert figures_of([], requests)["tokens_per_s_ci95"] == [low, high]
    assert figures_of([], requests[:2])["tokens_per_s_ci95"] is None


@pytest.mark.parametrize("key", ["tpot_ms", "ttft_ms", "bytes_up_per_token", "bytes_down_per_token", "ms_per_token"])
def test_every_headline_figure_has_an_interval_around_it(key):
    requests = [
        a_request(5 + i % 3, 90.0 + 7 * i, request=str(i), tpot_ms=10.0 + i, ttft_ms=50.0 + i) for i in range(9)
    ]
    rounds = [
        a_round(n + 1, request=str(i), up_wire_bytes=60 + i, down_wire_bytes=300 + n) for i in range(9) for n in (0, 1)
    ]
    figures = figures_of(rounds, requests)
    low, high = figures[f"{key}_ci95"]
    assert low < figures[key] < high
    assert figures_of(rounds[:6], requests[:3])[f"{key}_ci95"] is None, "of too few requests none is given"


def test_look_ahead():
    guesses = [True, True, False, None]
    rounds = [a_round(i, lookahead_hit=hit, n_discarded=3 * (hit is False)) for i, hit in enumerate(guesses)]
    figures = figures_of(rounds, [a_request()])
    assert figures["lookahead_hit_rate"] == pytest.approx(2 / 3)
    assert figures["discarded_tokens"] == 3


def test_joules_are_both_nodes_over_the_time_of_the_requests():
    trace = counters([*watts("device", 3), *watts("edge", 60, "estimated")])
    figures = figures_of([], [a_request(start_ms=100), a_request(start_ms=500, request="q")], energy=trace)
    assert figures["energy_device_j_per_token"] == pytest.approx(3 * 0.4 / 12)
    assert figures["energy_edge_j_per_token"] == pytest.approx(60 * 0.4 / 12)
    assert figures["energy_j_per_token"] == pytest.approx(63 * 0.4 / 12)
    assert figures["energy_status"] == "modelled", "the worse of the two"
    assert figures["energy_source"] == "device: device_probe; edge: edge_probe"


def test_joules_of_one_node_are_not_the_joules():
    reasons = {"edge": {"reason": "declare watts"}}
    figures = figures_of([], [a_request()], energy=counters(watts("device", 3)), energy_sources=reasons)
    assert figures["energy_device_j_per_token"] is not None
    assert figures["energy_j_per_token"] is None
    assert figures["energy_status"] == "unsupported"
    assert "edge: declare watts" in figures["energy_note"]


def test_a_request_beyond_the_trace_is_left_out_and_said():
    requests = [a_request(start_ms=100), a_request(start_ms=900, request="q")]
    figures = figures_of([], requests, energy=counters([*watts("device", 3), *watts("edge", 60)]))
    assert figures["energy_j_per_token"] == pytest.approx(63 * 0.2 / 6)
    assert "1 of 2 requests" in figures["energy_note"]


def test_the_edge_of_another_host_is_read_on_its_own_clock():
    far = [sample._replace(t_ns=sample.t_ns + 5_000 * MS) for sample in watts("edge", 60)]
    trace = counters([*watts("device", 3), *far])
    here = figures_of([], [a_request(start_ms=100)], energy=trace, clock_offset_ns=5_000.0 * MS)
    assert here["energy_edge_j_per_token"] == pytest.approx(60 * 0.2 / 6)
    unknown = figures_of([], [a_request(start_ms=100)], energy=trace, clock_offset_ns=None)
    assert unknown["energy_edge_j_per_token"] is None
    assert "clocks" in unknown["energy_note"]


@pytest.mark.parametrize("requests", [[], [a_request(tokens=0, e2e_ms=0.0, token_ms=[], ttft_ms=0.0, tpot_ms=None)]])
def test_a_system_that_got_nowhere_still_has_its_record(requests):
    summary = summary_of([], requests)
    json.dumps(summary, allow_nan=False)
    assert summary["systems"][0]["tokens_per_s"] is None
    assert summary["systems"][0]["exact"] is True


def test_no_number_that_json_does_not_know():
    rounds = [a_round(draft_ms=float("nan")), a_round(2, verify_ms=float("inf"))]
    json.dumps(summary_of(rounds, [a_request()], events=[{"event": "x", "y": float("nan")}]), allow_nan=False)
