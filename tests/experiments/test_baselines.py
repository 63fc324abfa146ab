"""No comparison without its baselines, and no system that is not exact without its quality."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import yaml
from harness import Setup, play

from experiments.axes import row_axes
from experiments.baselines import BASELINES, absent_baselines
from experiments.quality import compare, score, with_quality
from experiments.schema import load_config
from experiments.summary import summarise
from experiments.systems_section import SystemEntry, as_entry
from experiments.table import note_lines
from nodes.composition import load_system, system_names
from nodes.sampling import Sampling

CONFIGS = Path(__file__).parents[2] / "experiments" / "configs"
INEXACT = [name for name in system_names() if not load_system(name).exact]


def named(*names):
    return [load_system(name) for name in names]


def test_what_is_absent_is_named_whatever_the_others_are_called():
    assert absent_baselines([]) == list(BASELINES)
    assert absent_baselines(named(*BASELINES)) == []
    assert absent_baselines(named("edge_ar", "dsd", "hybrid_llm", "device_ar")) == ["colocated_sd", "dsd_sparse"]
    assert absent_baselines(named("hybrid_random"))[0] == "edge_ar", "it keeps some requests"
    other = msgspec.structs.replace(load_system("edge_ar"), name="target_only")
    assert "edge_ar" not in absent_baselines([other])


@pytest.mark.parametrize("name", ["papers", "quickstart", "smoke", "thresholds"])
def test_a_shipped_comparison_has_them(name):
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    systems = [SystemEntry.model_validate(as_entry(entry)).compose(None) for entry in config["systems"]]
    assert absent_baselines(systems) == []


def test_every_published_system_is_in_the_comparison_of_papers():
    config = yaml.safe_load((CONFIGS / "papers.yaml").read_text())
    assert set(system_names()) - set(config["systems"]) <= {"hybrid_random"}  # the control; in thresholds.yaml


def test_every_swept_threshold_is_a_curve_of_its_system():
    """In thresholds.yaml a system has several rows, each with its own value; the control of the router too."""
    config = load_config(CONFIGS / "thresholds.yaml").resolved()
    curves: dict[str, list[float]] = {}
    for entry in config["systems"]:
        if (threshold := row_axes(entry).get("threshold")) is not None:
            curves.setdefault(entry["system"], []).append(threshold)
    assert set(curves) == {"hsl", "u_hlm", "cu_hlm", "hybrid_llm", "hybrid_random", "sled", "wisv"}
    assert all(len(set(values)) == len(values) >= 2 for values in curves.values())


@pytest.mark.parametrize("temperature", [0, 1])
def test_every_system_that_is_not_exact_has_its_quality_beside_its_speed(temperature, tmp_path):
    systems = [load_system(name, **_for_toys(name)) for name in ["edge_ar", *INEXACT]]
    sampling = Sampling(temperature=temperature)
    setup = Setup(systems, sampling=sampling, requests=12, vocab_size=512, prompts=["t1 t2", "t3 t4", "t5", "t6 t7"])
    result, spec = play(setup, tmp_path), setup.spec()
    scored = score(setup.engine("target"), spec, result.requests, 60)
    quality = {"systems": compare(scored, {system.name: system.exact for system in spec.systems})}
    summary = summarise("n", "id", spec.systems, result.rounds, result.requests)
    summary["systems"] = [with_quality(figures, quality) for figures in summary["systems"]]
    found, notes = {figures["system"]: figures for figures in summary["systems"]}, note_lines(summary)
    for name in INEXACT:
        figures = found[name]
        assert not figures["exact"] and 0 <= figures["unverified_share"] <= 1
        assert figures["target_logprob_per_token"] <= 0 and len(figures["target_logprob_gap_ci95"]) == 2
        assert (figures["greedy_agreement"] is not None) == (temperature == 0)
        assert any(line.startswith(f"quality of {name}: ") for line in notes)
    alone = found["device_ar"]  # what never calls the edge looks as bad as it is
    assert alone["unverified_share"] == 1 and alone["target_calls_per_token"] == 0
    if temperature == 0:  # the target's own choice or not: 40 % of contexts tell them apart
        assert alone["target_logprob_gap_ci95"][1] < 0 and alone["greedy_agreement"] < 0.9
    assert "baselines that are not among them: colocated_sd, dsd_sparse" in notes


def _for_toys(name):
    """A router for them: none was trained."""
    return {"route": {"policy": "random", "share": 0.5}} if name == "hybrid_llm" else {}
