"""The line between uncertainty and rejection, on pairs whose line is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments.studies.uncertainty import Point, fit_line, follow, study, write_study
from nodes.engine.toy import ToyEngine
from nodes.runspec import Prompt
from nodes.sampling import Sampling

V = 64
PROMPTS = [Prompt(f"p{i}", f"t{i} t{i + 1}") for i in range(8)]


class TwoMoods(ToyEngine):
    """After an even token both are sure of the same; after an odd one the draft is even over all tokens, and the
    target over half of them, so that half of what is drafted is rejected."""

    def row(self, context, sampling):
        row = np.zeros(V, dtype=np.float32)
        last = context[-1]
        if last % 2 == 0:
            row[(last + 1) % V] = 1
        elif self.role == "draft":
            row[:] = 1 / V
        else:
            row[: V // 2] = 2 / V
        return row


def test_the_line_of_a_pair_that_has_one_is_found():
    draft, target = (TwoMoods(role, vocab_size=V) for role in ("draft", "target"))
    found = fit_line(follow(draft, target, Sampling(), PROMPTS, repeats=4, new_tokens=60))
    u_when_unsure = 1 - 1 / V  # every perturbation of an even row is the same even row
    assert found["slope"] == pytest.approx(0.5 / u_when_unsure, abs=0.04)
    assert found["intercept"] == pytest.approx(0, abs=1e-3)
    assert found["slope_ci95"][0] < 0.5 / u_when_unsure < found["slope_ci95"][1]
    assert found["r2_of_means"] > found["r2"] > 0.2
    assert found["answers"] == 32 and found["tokens"] == 32 * 60


def test_a_line_with_noise_is_found():
    rng = np.random.default_rng(3)
    u = rng.integers(0, 21, 4000) / 20
    noise = rng.normal(0, 0.1, 4000)
    points = [Point(i // 40, float(u[i]), float(0.7 * u[i] + 0.1 + noise[i])) for i in range(4000)]
    found = fit_line(points)
    assert found["slope"] == pytest.approx(0.7, abs=0.02) and found["intercept"] == pytest.approx(0.1, abs=0.01)
    for name, true in (("slope", 0.7), ("intercept", 0.1)):
        low, high = found[f"{name}_ci95"]
        assert low < true < high and high - low < 0.05
    assert found["r2"] == pytest.approx(0.7**2 * u.var() / (0.7**2 * u.var() + 0.01), abs=0.02)
    assert sum(level["tokens"] for level in found["levels"]) == 4000


@pytest.mark.parametrize("acceptance", [0.5, 0.9])
def test_rejection_is_the_models_own(acceptance):
    """Of a toy pair, 1 - sum(min(draft, target)) of every row, so its mean is known exactly."""
    draft, target = (ToyEngine(role, vocab_size=32, acceptance=acceptance) for role in ("draft", "target"))
    found = fit_line(follow(draft, target, Sampling(), PROMPTS, repeats=4, new_tokens=50))
    assert found["mean_rejection"] == pytest.approx(1 - acceptance, abs=0.04)


def test_certain_models_leave_nothing_to_fit():
    found = fit_line([Point(i, 0.0, 0.0) for i in range(6)])
    assert found["slope"] == found["intercept"] == 0 and found["r2"] is None


def test_the_files(tmp_path):
    draft, target = (ToyEngine(role, vocab_size=16) for role in ("draft", "target"))
    found = study(draft, target, Sampling(top_k=8), PROMPTS[:5], repeats=1, new_tokens=10)
    paths = write_study(found, tmp_path)
    assert {path.name for path in paths} == {"uncertainty.json", "uncertainty.svg", "uncertainty.pdf"}
    assert json.loads(paths[0].read_text())["paper"]["slope"] == 0.82
    assert "rejection probability" in (tmp_path / "uncertainty.svg").read_text()
