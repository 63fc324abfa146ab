"""Small random models, beside a tokenizer of words."""

from __future__ import annotations

from pathlib import Path

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
