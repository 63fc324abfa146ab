"""The quick forward of a Llama says what transformers' own says, and keeps its hands off what it does not know."""

from __future__ import annotations

import shutil

import pytest
import torch
from small_models import llama_config
from transformers import DynamicCache, LlamaForCausalLM

from nodes.engine.hf import HfEngine
from nodes.engine.hf_lean import LeanLlama, fits

TEXT = [5, 3, 8, 1, 9, 2, 7, 4, 6, 5, 3]


def model_of(**changes) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(llama_config(**changes)).eval()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1, "tie_word_embeddings": True},
        {"head_dim": 32},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    ],
)
@pytest.mark.parametrize("pieces", [[11], [1] * 11, [4, 1, 5, 1], [7, 4]])
def test_it_says_what_transformers_says(changes, pieces):
    model = model_of(**changes)
    assert fits(model)
    with torch.inference_mode():
        expected = model(torch.tensor([TEXT])).logits[0]
        lean, cache, start, found = LeanLlama(model), DynamicCache(), 0, []
        for length in pieces:
            found.append(lean(TEXT[start : start + length], cache, length))
            start += length
        torch.testing.assert_close(torch.cat(found), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model(torch.tensor([TEXT])).logits[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_only_the_rows_that_are_wanted(rows):
    model = model_of()
    with torch.inference_mode():
        assert LeanLlama(model)(TEXT, DynamicCache(), rows).shape == (rows, model.config.vocab_size)


def test_joining_weights_takes_no_memory_twice():
    model = model_of()
    lean = LeanLlama(model)
    attention = model.model.layers[0].self_attn
    joined = lean.layers[0][1]
    assert joined.data_ptr() == attention.q_proj.weight.data_ptr()
    assert joined.untyped_storage().data_ptr() == attention.v_proj.weight.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_bias": True},
        {"mlp_bias": True},
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
    ],
)
def test_whatever_is_not_plain_is_left_to_transformers(changes, llama_folder, tmp_path):
    model = model_of(**changes)
    assert not fits(model)
    folder = shutil.copytree(llama_folder, tmp_path / "odd")  # for its tokenizer
    model.save_pretrained(folder)
    assert HfEngine(folder, name="hf:odd", device="cpu", threads=1).describe()["forward"] == "transformers"


def test_half_precision_is_left_to_transformers():
    assert not fits(model_of().bfloat16())


def test_one_that_disagrees_is_not_used(llama_folder, monkeypatch):
    honest = LeanLlama.__call__
    monkeypatch.setattr(LeanLlama, "__call__", lambda *arguments: 1.1 * honest(*arguments))
    assert HfEngine(llama_folder, name="hf:llama", device="cpu", threads=1).describe()["forward"] == "transformers"
