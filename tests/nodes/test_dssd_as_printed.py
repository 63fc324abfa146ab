"""The inverted accept test leaves the output exactly as far from the target as the draft was."""

from __future__ import annotations

import numpy as np
import pytest
from harness import PROMPT, Setup, play, target_row

from nodes.composition import load_system
from nodes.sampling import residual
from nodes.session import Session

RUNS = 4000


def total_variation(a, b):
    return float(np.abs(np.asarray(a, dtype=float) - b).sum() / 2)


@pytest.mark.parametrize("seed", range(3))
def test_by_arithmetic(seed):
    rng = np.random.default_rng(seed)
    draft, target = rng.dirichlet(np.ones(50), size=2)
    with np.errstate(divide="ignore"):
        kept = draft * np.minimum(1, draft / target)
    output = kept + (1 - kept.sum()) * residual(target.astype(np.float32), draft.astype(np.float32))
    assert total_variation(output, target) == pytest.approx(total_variation(draft, target), abs=1e-6)
    assert kept.sum() > np.minimum(draft, target).sum()  # and acceptance flatters


def test_by_running_it(tmp_path):
    assert not load_system("dssd_as_printed").exact
    setup = Setup(["dssd_as_printed", "dssd"], requests=RUNS, max_new_tokens=1 + 1, acceptance=0.6)
    result = play(setup, tmp_path)
    prompt = setup.engine("target").tokenizer.encode(PROMPT)
    target = target_row(setup, prompt)
    draft = setup.engine("draft").forward([Session(setup.sampling, prompt)], [1])[0].row(0)

    def distance(system):
        first = [tokens[0] for tokens in result.tokens(system)]
        return total_variation(np.bincount(first, minlength=len(target)) / RUNS, target)

    assert total_variation(draft, target) == pytest.approx(0.4, abs=1e-3)
    assert distance("dssd_as_printed") == pytest.approx(0.4, abs=0.03)
    assert distance("dssd") < 0.05
