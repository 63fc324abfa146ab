"""The formulas against simulation and against their papers' own tables; a run's parts against records made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import DSSD, EDGE_AR, a_request, a_round, summary_of

from experiments.predict.formulas import (
    critical_rtt_ms,
    dsd_round_ms,
    dssd_round_ms,
    expected_tokens,
    rejection_share,
    sd_walltime_factor,
    transfer_ms,
)
from experiments.report.plot import Style
from experiments.report.predicted import predicted
from nodes.composition import load_system

OPT_ROW_BYTES = 2 * 50_272  # 16 bits a probability


@pytest.mark.parametrize(("acceptance", "draft_length"), [(0.5, 4), (0.8, 4), (0.9, 8), (0.0, 3), (1.0, 5)])
def test_expected_tokens_are_those_of_drafts_accepted_one_by_one(acceptance, draft_length):
    rng, rounds = np.random.default_rng(0), 40_000
    kept = np.cumprod(rng.random((rounds, draft_length)) < acceptance, axis=1).sum(axis=1)
    tokens = kept + 1
    error = tokens.std() / np.sqrt(rounds)
    assert expected_tokens(acceptance, draft_length) == pytest.approx(tokens.mean(), abs=5 * error + 1e-9)
    rejected = (kept < draft_length).mean()
    assert rejection_share(acceptance, draft_length) == pytest.approx(rejected, abs=0.013)


@pytest.mark.parametrize(
    ("acceptance", "draft_length", "delay_ms"), [(0.5, 8, 27.97), (0.7, 4, 26.11), (0.9, 8, 24.58), (0.6, 4, 27.0)]
)
def test_the_delay_of_dssd_is_that_of_its_papers_table(acceptance, draft_length, delay_ms):
    """arXiv 2507.12000, table 1: OPT, 16 bits, 100 Mbit/s, NTT 20 ms."""
    found = dssd_round_ms(acceptance, draft_length, 0.0, 0.0, OPT_ROW_BYTES, 100.0, 20.0)
    assert found == pytest.approx(delay_ms, abs=0.05)


def test_dsd_pays_for_its_rows_and_dssd_for_one_of_them():
    draft_length, acceptance = 8, 0.6
    nothing = {"draft_ms": 0.0, "target_ms": 0.0, "ntt_ms": 0.0}
    dsd = dsd_round_ms(draft_length, up_bytes=draft_length * OPT_ROW_BYTES, up_mbps=10.0, **nothing)
    dssd = dssd_round_ms(acceptance, draft_length, row_bytes=OPT_ROW_BYTES, down_mbps=10.0, **nothing)
    assert dsd / dssd == pytest.approx(draft_length / rejection_share(acceptance, draft_length))
    assert transfer_ms(OPT_ROW_BYTES, None) == 0.0


@pytest.mark.parametrize(
    ("target_ms", "acceptance", "rtt_ms"),
    [(100, 0.5, 47), (100, 0.7, 144), (100, 0.9, 319), (50, 0.7, 47), (50, 0.85, 108), (30, 0.9, 61), (20, 0.85, 13)],
)
def test_the_critical_round_trip_is_the_published_one(target_ms, acceptance, rtt_ms):
    """arXiv 2606.25091, draft length 5, 10 ms a drafted token."""
    tokens = expected_tokens(acceptance, 5)
    assert critical_rtt_ms(tokens, target_ms, 5 * 10 + target_ms) == pytest.approx(rtt_ms, abs=1)


def test_at_the_critical_round_trip_both_are_as_fast():
    tokens, draft_ms, target_ms = expected_tokens(0.8, 4), 9.0, 120.0
    critical = critical_rtt_ms(tokens, target_ms, 4 * draft_ms + target_ms)
    assert dsd_round_ms(4, draft_ms, target_ms, 0.0, None, critical) / tokens == pytest.approx(target_ms)


def test_beside_a_draft_at_the_edge_distance_only_costs():
    """Same models in both places: the round trip at which distributing pays is none at all."""
    tokens = expected_tokens(0.8, 4)
    colocated = (4 * 9.0 + 120.0) / tokens
    assert critical_rtt_ms(tokens, colocated, 4 * 9.0 + 120.0) == pytest.approx(0)
    assert sd_walltime_factor(0.8, 4, 9.0 / 120.0) == pytest.approx(120.0 / colocated)


LINK = {"declared": {"up": {"rate_mbps": 10.0, "delay_ms": 5.0}, "down": {"rate_mbps": 20.0, "delay_ms": 10.0}}}


def rounds_of(system, request, n, **changes):
    return [a_round(i + 1, request=request, system=system, start_ms=100 * i, **changes) for i in range(n)]


def test_parts_and_residuals_can_be_worked_out_on_paper():
    """100 ms a round: draft 4 x 5, target 40; 2 of 4 kept, so alpha = 2/3; 200 bytes down whenever one is rejected."""
    summary = summary_of(rounds_of("dssd", "dssd/p/0", 3), [a_request(tokens=9, e2e_ms=300.0)], link=LINK)
    figures = summary["systems"][0]
    parts, predicted = figures["measured_parts"], figures["predicted"]
    assert (parts["rounds"], parts["draft_length"], parts["draft_ms"], parts["target_ms"]) == (2, 4, 5, 40)
    assert parts["acceptance"] == pytest.approx(2 / 3) and parts["row_bytes"] == 200
    round_ms = 20 + 40 + 15 + (1 - (2 / 3) ** 4) * 200 * 8 / 20e3
    assert predicted["round_ms"] == pytest.approx(round_ms, rel=1e-6)
    assert predicted["round_residual_pct"] == pytest.approx(100 * (100 / round_ms - 1), rel=1e-5)
    assert predicted["ms_per_token_measured"] == pytest.approx(100 / 3, rel=1e-6)


def test_the_first_round_of_a_request_is_left_out_since_it_carries_the_prompt():
    rounds = rounds_of("dssd", "dssd/p/0", 3)
    rounds[0].verify_ms = 4000.0
    figures = summary_of(rounds, [a_request()], link=LINK)["systems"][0]
    assert figures["measured_parts"]["target_ms"] == 40
    one = summary_of(rounds[:1], [a_request()], link=LINK)["systems"][0]
    assert one["measured_parts"] is None and "second round" in one["predicted"]["why_not"]


def test_the_walltime_factor_of_a_run_stands_beside_its_speedup():
    """Both models in one place: the formula's speedup over the target alone is theorem 3.8 with the run's own parts."""
    alone = rounds_of("edge_ar", "edge_ar/p/0", 3, drafted=0, accepted=0, draft_ms=0.0, n_emitted=1)
    both = rounds_of("colocated_sd", "colocated_sd/p/0", 3, draft_ms=0.0, n_emitted=3, sent_ns=0)
    requests = [a_request(request=f"{name}/p/0", system=name) for name in ("dssd", "edge_ar", "colocated_sd")]
    systems = (DSSD, EDGE_AR, load_system("colocated_sd"))
    summary = summary_of([*rounds_of("dssd", "dssd/p/0", 3), *alone, *both], requests, systems, link=LINK)
    figures = summary["systems"][2]
    factor = sd_walltime_factor(2 / 3, 4, 5 / 40)
    assert figures["predicted"]["sd_walltime_factor"] == pytest.approx(factor, rel=1e-5)
    assert figures["predicted"]["speedup_over_edge_ar"] == pytest.approx(factor, rel=1e-5)
    table = predicted(summary["systems"], Style(summary["systems"])).table
    row = dict(zip(table.headings, table.rows[2], strict=True))
    assert row["SD walltime factor"] == figures["predicted"]["sd_walltime_factor"]
    assert row["measured   "] == figures["speedup_over_edge_ar"]


def test_the_critical_round_trip_of_a_run_uses_its_own_edge_alone():
    alone = rounds_of("edge_ar", "edge_ar/p/0", 3, drafted=0, accepted=0, draft_ms=0.0, n_emitted=1)
    summary = summary_of(
        [*rounds_of("dssd", "dssd/p/0", 3), *alone],
        [a_request(), a_request(request="edge_ar/p/0", system="edge_ar")],
        (DSSD, EDGE_AR),
        link=LINK,
    )
    predicted = summary["systems"][0]["predicted"]
    without_rtt_ms = predicted["round_ms"] - 15
    expected = predicted["tokens_per_round"] * 40 - without_rtt_ms
    assert predicted["critical_rtt_ms"] == {"edge_ar": pytest.approx(expected, rel=1e-5)}
    assert predicted["speedup_over_edge_ar"] == pytest.approx(40 / predicted["ms_per_token"], rel=1e-5)


@pytest.mark.parametrize(("name", "reason"), [("dssd_lookahead", "drafting ahead"), ("u_hlm", "skipped round")])
def test_what_no_formula_describes_says_so(name, reason):
    system = load_system(name)
    rounds = rounds_of(name, f"{name}/p/0", 3)
    figures = summary_of(rounds, [a_request(request=f"{name}/p/0", system=name)], (system,), link=LINK)["systems"][0]
    assert reason in figures["predicted"]["why_not"]


def test_no_token_follows_a_whole_draft_where_the_method_adds_none():
    """HLM: one token drafted, kept or redrawn: one token a round, whatever the acceptance."""
    rounds = rounds_of("hlm", "hlm/p/0", 5, drafted=1, accepted=1, n_emitted=1)
    requests = [a_request(request="hlm/p/0", system="hlm")]
    predicted = summary_of(rounds, requests, (load_system("hlm"),), link=LINK)["systems"][0]["predicted"]
    assert predicted["tokens_per_round"] == pytest.approx(1.0) == predicted["tokens_per_round_measured"]


def test_a_follow_up_costs_another_round_trip():
    def predicted(**changes):
        rounds = rounds_of("dssd_sampled", "dssd_sampled/p/0", 3, **changes)
        requests = [a_request(request="dssd_sampled/p/0", system="dssd_sampled")]
        return summary_of(rounds, requests, (load_system("dssd_sampled"),), link=LINK)["systems"][0]["predicted"]

    assert predicted(legs=2)["round_ms"] - predicted()["round_ms"] == pytest.approx(15)
