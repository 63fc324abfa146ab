"""What the target says of answers: its own score as they should, a draft's do not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from harness import Setup, play
from report_run import toy_run
from typer.testing import CliRunner

from experiments.cli import app
from experiments.quality import NOTHING, Scored, compare, measure_quality, quality_lines, score, with_quality
from experiments.run import tabulate
from experiments.statistics import FEWEST
from experiments.store import StoreError
from experiments.summary import summarise
from nodes.sampling import Sampling


def judged(folder, systems, **setup):
    setup = Setup(systems, prompts=["t1 t2", "t3 t4", "t5", "t6 t7"], **setup)
    result, spec = play(setup, folder), setup.spec()
    scored = score(setup.engine("target"), spec, result.requests, 60)
    assert len(scored) == len(result.requests)
    return compare(scored, {system.name: system.exact for system in spec.systems}), result, spec


def test_exact_output_scores_as_the_targets_own_and_a_drafts_lower(tmp_path):
    figures, _, _ = judged(tmp_path, ["dssd", "edge_ar", "device_ar", "dssd_as_printed"], requests=60, acceptance=0.4)
    low, high = figures["dssd"]["target_logprob_ci95"]
    assert low < figures["edge_ar"]["target_logprob_per_token"] < high
    assert figures["dssd"]["target_logprob_gap"] is None
    for name in ("device_ar", "dssd_as_printed"):
        assert figures[name]["target_logprob_gap_ci95"][1] < 0, name


def test_greedy_agreement(tmp_path):
    greedy = Sampling(temperature=0)
    figures, _, _ = judged(tmp_path, ["dssd", "device_ar"], requests=20, acceptance=0.7, sampling=greedy)
    assert figures["dssd"]["greedy_agreement"] == 1
    assert figures["device_ar"]["greedy_agreement"] == pytest.approx(0.7, abs=0.15)


def test_by_hand():
    scored = [Scored("a", (f"p{i}", 0), -10.0 - i, 10, None) for i in range(6)]
    scored += [Scored("b", (f"p{i}", 0), -15.0 - i, 10, 5) for i in range(6)]
    figures = compare(scored, {"a": True, "b": False, "none": False})
    assert figures["a"]["target_logprob_per_token"] == pytest.approx(-1.25)
    assert figures["b"]["target_logprob_gap"] == pytest.approx(-0.5)
    assert np.allclose(figures["b"]["target_logprob_gap_ci95"], -0.5)  # paired: what prompts differ by cancels
    assert figures["b"]["greedy_agreement"] == 0.5 and "none" not in figures
    assert compare(scored[6:], {"b": False})["b"]["target_logprob_gap"] is None


@pytest.mark.parametrize("prompts", [FEWEST, 12])
def test_repeats_of_a_prompt_do_not_make_an_interval_narrow(prompts):
    """Under greedy sampling the repeats of a prompt are equal: ten tell no more than one."""
    effect = np.random.default_rng(0).normal(-0.3, 0.5, prompts)

    def figures(repeats):
        scored = [
            Scored(name, (f"p{i}", repeat), -20.0 + 20 * each, 20, 20)
            for i in range(prompts)
            for repeat in range(repeats)
            for name, each in (("exact", 0.01 * i), ("lossy", effect[i]))
        ]
        return compare(scored, {"exact": True, "lossy": False})["lossy"]

    once, many = figures(1), figures(10)
    for key in ("target_logprob_per_token", "target_logprob_gap", "target_logprob_ci95", "target_logprob_gap_ci95"):
        assert once[key] and many[key] == pytest.approx(once[key]), key


def test_time_runs_out(tmp_path):
    setup = Setup(["device_ar"], requests=3)
    result = play(setup, tmp_path)
    assert score(setup.engine("target"), setup.spec(), result.requests, -1) == []
    assert compare([], {"device_ar": False}) == {}


@pytest.mark.parametrize("seconds", [0.5, 4, 1000])
def test_of_how_many_answers_the_figures_are_is_told_and_none_replace_none(tmp_path, monkeypatch, seconds):
    folder = toy_run(tmp_path, ("edge_ar", "u_hlm"), requests=5)
    before = measure_quality(folder)
    ticks = itertools.count()
    monkeypatch.setattr("experiments.quality.time.monotonic", lambda: float(next(ticks)))  # an answer takes a second
    if seconds < 1:
        with pytest.raises(StoreError, match="none of 10 answers"):
            measure_quality(folder, seconds)
        assert CliRunner().invoke(app, ["quality", str(tmp_path), "--seconds", "0"]).exit_code == 2
        assert folder.quality() == before
        return
    scored = measure_quality(folder, seconds)["scored"]
    summary = tabulate(folder)
    assert summary["quality"] == {"target": "toy", "scored": scored, "requests": 10} and scored == min(seconds, 10)
    assert any(f"{scored} of 10 answers" in line for line in quality_lines(summary)) == (scored < 10)


def test_lines_are_for_what_is_not_exact(tmp_path):
    figures, result, spec = judged(tmp_path, ["dssd", "u_hlm"], requests=20)
    summary = summarise("n", "id", spec.systems, result.rounds, result.requests)
    assert quality_lines(summary) == []
    summary["systems"] = [with_quality(record, {"systems": figures}) for record in summary["systems"]]
    (line,) = quality_lines(summary)
    assert line.startswith("quality of u_hlm: ") and "never saw" in line and "beside the exact systems" in line
    assert set(NOTHING) <= set(summary["systems"][0])
