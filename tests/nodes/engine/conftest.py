"""Small random models, written once: the tests need no network and no trained weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_models import llama_config, save_model


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory) -> Path:
    """96 rows in the head, of which the tokenizer names 90."""
    return save_model(tmp_path_factory.mktemp("llama"), llama_config(), n_words=90)


@pytest.fixture(scope="session")
def llama(llama_folder):
    from nodes.engine.hf import HfEngine

    return HfEngine(llama_folder, name="hf:llama", device="cpu", threads=1)


@pytest.fixture(scope="session")
def mistral(tmp_path_factory):
    """A sliding window of 8 tokens in every layer."""
    from transformers import MistralConfig

    from nodes.engine.hf import HfEngine

    shape = {key: getattr(llama_config(), key) for key in ("vocab_size", "hidden_size", "intermediate_size")}
    config = MistralConfig(
        **shape,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        sliding_window=8,
        eos_token_id=0,
    )
    folder = save_model(tmp_path_factory.mktemp("mistral"), config, n_words=96)
    return HfEngine(folder, name="hf:mistral", device="cpu", threads=1)


@pytest.fixture(scope="session")
def opt(tmp_path_factory):
    """Learned absolute positions with an offset, as the DSSD paper's models have."""
    from transformers import OPTConfig

    from nodes.engine.hf import HfEngine

    config = OPTConfig(
        vocab_size=96,
        hidden_size=64,
        word_embed_proj_dim=64,
        ffn_dim=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        eos_token_id=0,
    )
    folder = save_model(tmp_path_factory.mktemp("opt"), config, n_words=96)
    return HfEngine(folder, name="hf:opt", device="cpu", threads=1)


@pytest.fixture(scope="session")
def recurrent_folder(tmp_path_factory) -> Path:
    """Short convolutions in every other layer, whose state cannot be wound back."""
    from transformers import Lfm2Config

    shape = {key: getattr(llama_config(), key) for key in ("vocab_size", "hidden_size", "intermediate_size")}
    config = Lfm2Config(
        **shape,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        full_attn_idxs=[1, 3],
        eos_token_id=0,
        bos_token_id=1,
        pad_token_id=0,
    )
    return save_model(tmp_path_factory.mktemp("recurrent"), config, n_words=96)
