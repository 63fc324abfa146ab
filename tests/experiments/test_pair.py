"""The bundled pair keeps what its model card promises, on this interpreter's own standard library."""

from __future__ import annotations

import json
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest

from experiments.pair.data import END_OF_TEXT, END_OF_TEXT_ID, split, standard_library, token_stream
from experiments.pair.evaluate import (
    BUNDLED,
    WINDOW,
    Pair,
    flops_per_token,
    held_out_figures,
    load_pair,
    shipped_bytes,
)

N_WINDOWS = 24


@pytest.fixture(scope="module")
def pair() -> Pair:
    return load_pair()


@pytest.fixture(scope="module")
def recorded() -> dict:
    """The figures of the model card."""
    return json.loads((BUNDLED / "metrics.json").read_text())


@pytest.fixture(scope="module")
def figures(pair: Pair) -> dict[str, float]:
    """Loss and acceptance on windows spread evenly over the held-out files."""
    files = split(standard_library()).held_out
    stream = token_stream(pair.tokenizer.backend_tokenizer, files)
    starts = np.linspace(0, len(stream) - WINDOW - 1, N_WINDOWS).astype(int)
    sample = np.concatenate([stream[start : start + WINDOW] for start in starts] + [stream[-1:]])
    n_bytes = sum(file.n_bytes for file in files) * len(sample) // len(stream)
    return held_out_figures(pair, sample, n_bytes)


def test_shipped_files_are_small_enough():
    assert shipped_bytes(BUNDLED) <= 16e6


def test_both_models_have_exactly_the_tokenizers_entries(pair: Pair):
    assert len(pair.tokenizer) == pair.draft.config.vocab_size == pair.target.config.vocab_size
    assert pair.target.config.vocab_size % 64 == 0
    assert pair.target.config.max_position_embeddings >= 1024
    assert pair.tokenizer.eos_token == END_OF_TEXT
    assert pair.tokenizer.eos_token_id == END_OF_TEXT_ID == pair.target.config.eos_token_id


def test_any_text_survives_the_tokenizer(pair: Pair):
    text = "def größe(x):\n\treturn f'{x!r} → \U0001f40d'  # \x00 tabs\tand  spaces \n\n"
    assert pair.tokenizer.decode(pair.tokenizer.encode(text)) == text


def test_the_draft_is_five_times_cheaper_on_paper(pair: Pair):
    # Wall time is in the model card: a busy test machine would make it a coin toss here.
    assert flops_per_token(pair.target) >= 5 * flops_per_token(pair.draft)


def test_recorded_figures_keep_the_bounds(recorded: dict):
    assert recorded["held_out"]["loss_gap_nats_per_token"] >= 0.7
    assert 0.6 <= recorded["held_out"]["acceptance_t1"] <= 0.8
    assert recorded["ms_per_token_1_thread"]["ratio"] >= 5


def test_a_sample_agrees_with_the_recorded_figures(recorded: dict, figures: dict[str, float]):
    # A few windows of whichever library this interpreter has: over CPython 3.6 to 3.13 such samples stray from the
    # recorded figures by up to 0.02 in acceptance and 0.07 in the gap. The bounds are for the whole held-out part.
    held_out = recorded["held_out"]
    assert figures["acceptance_t1"] == pytest.approx(held_out["acceptance_t1"], abs=0.04)
    assert figures["loss_gap_nats_per_token"] == pytest.approx(held_out["loss_gap_nats_per_token"], abs=0.14)


def test_windows_are_scored_alike_whatever_the_batch(pair: Pair):
    stream = np.arange(2 * WINDOW + 1) % pair.target.config.vocab_size
    one, two = (held_out_figures(pair, stream, len(stream), n_batch=n) for n in (1, 2))
    assert one == pytest.approx(two, rel=1e-5)
