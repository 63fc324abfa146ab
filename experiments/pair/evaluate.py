"""Measure the bundled pair as shipped, on held-out files of this interpreter's standard library.

    python -m experiments.pair.evaluate            writes metrics.json beside the weights
    python -m experiments.pair.evaluate --pair DIR for a pair elsewhere

The fp16 files are loaded in fp32.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.pair.data import END_OF_TEXT_ID, split, standard_library, token_stream

BUNDLED = Path(__file__).parents[2] / "nodes" / "engine" / "bundled"
WINDOW = 512
SAMPLE_PROMPTS = ('"""', "class", "import os\nimport sys\n\n\ndef")
TEMPERATURES = (1.0, 0.8)


@dataclass(frozen=True)
class Pair:
    """Tokenizer, draft and target, the models in fp32 and eval mode."""

    tokenizer: PreTrainedTokenizerFast
    draft: LlamaForCausalLM
    target: LlamaForCausalLM


def load_pair(folder: Path = BUNDLED) -> Pair:
    def model(name: str) -> LlamaForCausalLM:
        return LlamaForCausalLM.from_pretrained(folder / name, dtype=torch.float32).eval()

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    return Pair(tokenizer, model("draft"), model("target"))


@torch.no_grad()
def held_out_figures(pair: Pair, stream: NDArray, n_bytes: int, *, n_batch: int = 8) -> dict[str, float]:
    """Losses and acceptance on token stream [N], which encodes `n_bytes` of text, in windows of WINDOW.

    Acceptance is the sum over the vocabulary of min(draft, target) at T = 1, averaged over positions: the
    chance that speculative decoding keeps one drafted token.
    """
    n_windows = (len(stream) - 1) // WINDOW
    if n_windows == 0:
        raise ValueError(f"{len(stream)} tokens are too few: need more than {WINDOW}")
    inputs = torch.from_numpy(stream[: n_windows * WINDOW].reshape(n_windows, WINDOW))
    labels = torch.from_numpy(stream[1 : n_windows * WINDOW + 1].reshape(n_windows, WINDOW))
    totals = dict.fromkeys(("draft_loss", "target_loss", "acceptance", "same_top_token"), 0.0)
    for rows, label in zip(inputs.split(n_batch), labels.split(n_batch), strict=True):
        draft, target = (model(rows).logits.log_softmax(-1) for model in (pair.draft, pair.target))
        totals["draft_loss"] -= _of_labels(draft, label)
        totals["target_loss"] -= _of_labels(target, label)
        totals["acceptance"] += torch.minimum(draft, target).exp().sum().item()
        totals["same_top_token"] += (draft.argmax(-1) == target.argmax(-1)).sum().item()
    means = {name: total / labels.numel() for name, total in totals.items()}
    bits_per_byte = len(stream) / n_bytes / math.log(2)
    return {
        "draft_loss_nats_per_token": means["draft_loss"],
        "target_loss_nats_per_token": means["target_loss"],
        "loss_gap_nats_per_token": means["draft_loss"] - means["target_loss"],
        "draft_bits_per_byte": means["draft_loss"] * bits_per_byte,
        "target_bits_per_byte": means["target_loss"] * bits_per_byte,
        "acceptance_t1": means["acceptance"],
        "same_top_token": means["same_top_token"],
    }


def _of_labels(logprobs: Tensor, labels: Tensor) -> float:
    return logprobs.gather(-1, labels.unsqueeze(-1)).double().sum().item()


@torch.no_grad()
def ms_per_token(pair: Pair, *, n_prompt: int = 64, n_generated: int = 64, n_repeats: int = 9) -> dict[str, float]:
    """Milliseconds per token of each model: batch 1, fp32, KV cache, one thread.

    The models take turns so that a busy machine slows both; the median of the repeats counts.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times: dict[str, list[float]] = {"draft": [], "target": []}
    prompt = torch.arange(1, n_prompt + 1).unsqueeze(0)
    for _ in range(n_repeats):
        for name, elapsed_ms in times.items():
            model = getattr(pair, name)
            output = model(prompt, use_cache=True)
            started = time.perf_counter()
            for _ in range(n_generated):
                token = output.logits[:, -1:].argmax(-1)
                output = model(token, past_key_values=output.past_key_values, use_cache=True)
            elapsed_ms.append((time.perf_counter() - started) * 1e3 / n_generated)
    torch.set_num_threads(n_threads)
    return {name: statistics.median(elapsed_ms) for name, elapsed_ms in times.items()}


def sample(pair: Pair, prompt: str, temperature: float, *, n_tokens: int = 160, seed: int = 0) -> str:
    """Text of the target's continuation of `prompt`, placed at the start of a file; includes the prompt."""
    generator = torch.Generator().manual_seed(seed)
    text_ids = pair.tokenizer.encode(prompt)
    output = pair.target(torch.tensor([[END_OF_TEXT_ID, *text_ids]]), use_cache=True)
    for _ in range(n_tokens):
        probs = (output.logits[0, -1] / temperature).softmax(-1)
        token = torch.multinomial(probs, 1, generator=generator)
        if token.item() == END_OF_TEXT_ID:
            break
        text_ids.append(int(token))
        output = pair.target(token.unsqueeze(0), past_key_values=output.past_key_values, use_cache=True)
    return str(pair.tokenizer.decode(text_ids))


def flops_per_token(model: LlamaForCausalLM) -> int:
    """Two per weight of a matrix; the tied embedding counts once, as the output layer."""
    return 2 * sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 2)


def evaluate(folder: Path) -> dict:
    """All figures of the model card, JSON-ready."""
    pair = load_pair(folder)
    parts = split(standard_library())
    tokenizer = pair.tokenizer.backend_tokenizer
    streams = {name: token_stream(tokenizer, files) for name, files in vars(parts).items()}
    n_bytes = {name: sum(file.n_bytes for file in files) for name, files in vars(parts).items()}
    milliseconds = ms_per_token(pair)
    training_path = folder / "training.json"
    return {
        "python": platform.python_version(),
        "data": {
            name: {"files": len(files), "bytes": n_bytes[name], "tokens": len(streams[name])}
            for name, files in vars(parts).items()
        },
        "training": json.loads(training_path.read_text()) if training_path.exists() else None,
        "vocab_size": pair.target.config.vocab_size,
        "parameters": {"draft": pair.draft.num_parameters(), "target": pair.target.num_parameters()},
        "flops_per_token": {"draft": flops_per_token(pair.draft), "target": flops_per_token(pair.target)},
        "shipped_bytes": shipped_bytes(folder),
        "held_out": held_out_figures(pair, streams["held_out"], n_bytes["held_out"]),
        "ms_per_token_1_thread": milliseconds | {"ratio": milliseconds["target"] / milliseconds["draft"]},
        "samples": [
            {"temperature": temperature, "text": sample(pair, prompt, temperature)}
            for temperature in TEMPERATURES
            for prompt in SAMPLE_PROMPTS
        ],
    }


def shipped_bytes(folder: Path) -> int:
    """Bytes of both models and the tokenizer."""
    return sum(
        path.stat().st_size
        for part in ("tokenizer", "draft", "target")
        for path in (folder / part).iterdir()
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pair", type=Path, default=BUNDLED, help="holds tokenizer/, draft/ and target/")
    folder = parser.parse_args(arguments).pair
    figures = evaluate(folder)
    (folder / "metrics.json").write_text(json.dumps(figures, indent=2) + "\n")
    json.dump({name: value for name, value in figures.items() if name != "samples"}, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
