"""torch says what `nodes.sampling.process` says: same support, same probabilities, same ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nodes.engine.hf_dists import TorchDists, largest, process
from nodes.sampling import Sampling
from nodes.sampling import process as process_numpy


def assert_same(logits: np.ndarray, sampling: Sampling) -> None:
    expected = process_numpy(logits, sampling)
    found = process(torch.from_numpy(logits), sampling).numpy()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found > 0, expected > 0)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize("trial", range(60))
def test_process_equals_numpy(trial):
    rng = np.random.default_rng(trial)
    n_tokens = int(rng.choice([2, 5, 40, 700, 5000]))
    logits = (rng.standard_normal((int(rng.integers(1, 6)), n_tokens)) * rng.uniform(0.3, 6)).astype(np.float32)
    if trial % 3 == 0:
        logits = np.round(logits * 2) / 2  # many equal logits
    sampling = Sampling(
        temperature=float(rng.choice([0, 0.3, 0.7, 1, 1.6])),
        top_k=int(rng.choice([0, 1, 3, 10, 300, 6000])),
        top_p=float(rng.choice([1, 1, 0.95, 0.6, 0.1, 1e-6])),
    )
    assert_same(logits, sampling)


@pytest.mark.parametrize(
    "sampling",
    [Sampling(top_k=3), Sampling(top_p=0.55), Sampling(top_k=5, top_p=0.7), Sampling(temperature=0)],
)
def test_all_equal_logits_keep_the_lowest_ids(sampling):
    assert_same(np.zeros((2, 9), dtype=np.float32), sampling)


def test_top_p_of_a_flat_row_keeps_thousands():
    assert_same(np.random.default_rng(0).standard_normal((3, 9000)).astype(np.float32) * 0.1, Sampling(top_p=0.97))


def test_masked_entries_have_probability_zero():
    logits = np.random.default_rng(1).standard_normal((2, 20)).astype(np.float32)
    logits[:, 15:] = -np.inf
    for sampling in (Sampling(), Sampling(top_k=18), Sampling(top_p=0.9999), Sampling(temperature=0)):
        probs = process(torch.from_numpy(logits), sampling).numpy()
        assert (probs[:, 15:] == 0).all()
        np.testing.assert_allclose(probs.sum(-1), 1, rtol=1e-6)


def test_half_precision_is_processed_in_single():
    logits = torch.randn(2, 50).bfloat16()
    np.testing.assert_array_equal(process(logits, Sampling(top_k=7)), process(logits.float(), Sampling(top_k=7)))


def test_rows_and_at_agree():
    dists = TorchDists(torch.randn(4, 30), Sampling(temperature=0.8, top_p=0.9))
    assert len(dists) == 4
    tokens = [3, 29, 0]
    np.testing.assert_array_equal(dists.at(tokens), [dists.row(i)[token] for i, token in enumerate(tokens)])
    assert dists.row(3).dtype == np.float32
    assert dists.at([]).shape == (0,)
    with pytest.raises(IndexError):
        dists.at([1] * 5)


@pytest.mark.parametrize("size", [9, 64, 4096, 20_001])
@pytest.mark.parametrize("spread", [0.5, 50.0])
def test_the_largest_of_a_wide_row_are_found_by_blocks(size, spread):
    logits = (spread * torch.randn(3, size, generator=torch.Generator().manual_seed(size))).round()  # full of ties
    logits[1, size // 2 :] = -torch.inf
    ranked, ids = largest(logits, 5)
    assert torch.equal(ranked, torch.topk(logits, 5).values)
    assert torch.equal(logits.gather(1, ids), ranked)
    assert all(len(set(row)) == 5 for row in ids.tolist())


@pytest.mark.parametrize("sampling", [Sampling(top_k=7), Sampling(top_k=7, top_p=0.6)])
def test_ties_in_a_wide_row_keep_the_lowest_ids(sampling):
    assert_same(np.random.default_rng(0).standard_normal((2, 20_000)).astype(np.float32).round(), sampling)
