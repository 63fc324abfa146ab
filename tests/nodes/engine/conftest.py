"""Small random models, written once: the tests need no network and no trained weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


def save_model(folder: Path, config, n_words: int, seed: int = 0) -> Path:
    """A random model of this configuration beside a word tokenizer of n_words ("w0", "w1", ...)."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    for weight in model.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.15)  # larger than usual, so that tokens differ and attention matters
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(n_words)}, unk_token="w1"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0").save_pretrained(folder)
    return folder


def llama_config(**changes):
    from transformers import LlamaConfig

    shape = {
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "eos_token_id": 0,
    }
    return LlamaConfig(**{**shape, **changes})


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
