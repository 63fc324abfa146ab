"""Train the bundled pair: tokenizer, then the target, then the draft distilled from it.

    python -m experiments.pair.train --out DIR --minutes N

Interrupt it at will: the same command goes on from where it was. The learning rates follow the share of the
time budget that is used, so a slower machine sees fewer tokens but ends at the same minute.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from experiments.pair.data import split, standard_library, token_stream, windows
from experiments.pair.llama import DRAFT, TARGET, Llama, Shape
from experiments.pair.optimizer import MuonAdam
from experiments.pair.tokenizer import save_tokenizer, train_tokenizer
from experiments.pair.workers import LossOf, Workers

TARGET_TIME_SHARE = 0.65  # of the minutes; the draft has the rest
TARGET_TOKENS_PER_STEP, DRAFT_TOKENS_PER_STEP = 4096, 2048
TOKENS_PER_PART = 1024  # what one core takes at a time
SHORT_WINDOW, LONG_WINDOW = 512, 1024
LONG_WINDOW_FROM = 0.85  # of a stage's budget: long windows only at the end, for they are slower
TEST_SHARE = 0.1  # of the windows; the tests are plentiful, but unlike what one prompts with
TV_WEIGHT_FIRST, TV_WEIGHT_LAST = 2.0, 40.0  # of total variation against KL divergence, over the stage
CHECKPOINT_EVERY_S = 180.0
REPORT_EVERY_S = 30.0
N_HELD_OUT_PROBES = 16


@dataclass
class Progress:
    """How far a stage is; `busy_s` is time spent training, across restarts, and drives the schedule."""

    busy_s: float = 0.0
    n_steps: int = 0
    n_tokens: int = 0


@dataclass(frozen=True)
class Corpus:
    """Token streams [N] of the three parts of the library."""

    library: NDArray
    tests: NDArray
    held_out: NDArray


FiguresOf = Callable[[Tensor], dict[str, float]]  # windows [B, T + 1] to what is worth printing about them


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the pair and its checkpoints")
    parser.add_argument("--minutes", type=float, default=90.0, help="training time for both models together")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="cores to train on")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the cores are shared out by workers.py
    torch.manual_seed(0)
    for interruption in (signal.SIGINT, signal.SIGTERM):  # also when started in the background
        signal.signal(interruption, signal.default_int_handler)
    try:
        train_pair(options.out, options.minutes * 60, options.threads)
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        sys.exit(130)


def train_pair(out: Path, budget_s: float, n_workers: int) -> None:
    """Write tokenizer/, target/ and draft/ under `out`, and checkpoints/ that a restart continues from."""
    corpus = load_corpus(out)
    checkpoints = out / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)

    target, draft = trainable(TARGET), trainable(DRAFT)
    target_progress, weights = run_stage(
        "target", target, next_token_loss, target_figures(target), corpus,
        TARGET_TIME_SHARE * budget_s, checkpoints, TARGET_TOKENS_PER_STEP, n_workers,
    )  # fmt: skip
    export(weights, TARGET, out / "target")

    target.requires_grad_(False)
    start_embedding(draft, target)
    draft_progress, weights = run_stage(
        "draft", draft, distillation_loss(target), draft_figures(draft, target), corpus,
        (1 - TARGET_TIME_SHARE) * budget_s, checkpoints, DRAFT_TOKENS_PER_STEP, n_workers,
    )  # fmt: skip
    export(weights, DRAFT, out / "draft")

    training = {"target": asdict(target_progress), "draft": asdict(draft_progress)}
    (out / "training.json").write_text(json.dumps(training, indent=2) + "\n")


def load_corpus(out: Path) -> Corpus:
    parts = split(standard_library())
    path = out / "tokenizer" / "tokenizer.json"
    if not path.exists():
        save_tokenizer(train_tokenizer(parts.library), path.parent, TARGET.max_positions)
    tokenizer = Tokenizer.from_file(str(path))
    streams = {name: token_stream(tokenizer, files) for name, files in vars(parts).items()}
    for name, files in vars(parts).items():
        n_bytes = sum(file.n_bytes for file in files)
        say(f"{name}: {len(files)} files, {n_bytes} bytes, {len(streams[name])} tokens")
    return Corpus(**streams)


def trainable(shape: Shape) -> Llama:
    """A fresh model in bf16, whose matrix units make it worth it; the rotary tables stay exact."""
    model = Llama(shape).bfloat16()
    model.cos, model.sin = model.cos.float(), model.sin.float()
    return model


@torch.no_grad()
def start_embedding(draft: Llama, target: Llama) -> None:
    """Set the draft's embedding to the leading principal components of the target's: a head start."""
    embedding = target.model.embed_tokens.weight.float()
    directions = torch.linalg.svd(embedding, full_matrices=False).Vh[: draft.shape.hidden]
    draft.model.embed_tokens.weight.copy_(embedding @ directions.T)


def next_token_loss(model: Llama, batch: Tensor, fraction: Tensor) -> Tensor:
    return cross_entropy(model(batch[:, :-1]), batch)


def cross_entropy(logits: Tensor, batch: Tensor) -> Tensor:
    """Mean nats per token of logits [B, T, V] for windows [B, T + 1]."""
    return F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())


def distillation_loss(target: Llama) -> LossOf:
    """KL divergence plus weighted total variation, target to draft.

    One minus the total variation is the chance that speculative decoding accepts a token at T = 1, hence the
    measure that matters; its gradient vanishes where the two hardly overlap, hence the divergence at first.
    """

    def loss_of(draft: Llama, batch: Tensor, fraction: Tensor) -> Tensor:
        inputs = batch[:, :-1]
        with torch.no_grad():
            target_probs = target(inputs).float().softmax(-1)
        draft_logprobs = draft(inputs).float().log_softmax(-1)
        divergence = (target_probs * (target_probs.clamp_min(1e-9).log() - draft_logprobs)).sum(-1).mean()
        variation = 0.5 * (target_probs - draft_logprobs.exp()).abs().sum(-1).mean()
        tv_weight = TV_WEIGHT_FIRST * (TV_WEIGHT_LAST / TV_WEIGHT_FIRST) ** fraction
        return divergence + tv_weight * variation

    return loss_of


def run_stage(
    name: str,
    model: Llama,
    loss_of: LossOf,
    figures_of: FiguresOf,
    corpus: Corpus,
    budget_s: float,
    checkpoints: Path,
    tokens_per_step: int,
    n_workers: int,
) -> tuple[Progress, dict[str, Tensor]]:
    """Train `model` in place until `budget_s` of time is used, starting from its checkpoint if there is one.

    Returns the fp32 weights too: rounded to fp16 they keep three bits more than the bf16 ones have.
    """
    path = checkpoints / f"{name}.pt"
    optimizer, progress = MuonAdam(model), Progress()
    workers = Workers(model, loss_of, n_workers)
    if path.exists():
        saved = torch.load(path)
        optimizer.load_state_dict(saved["optimizer"])
        progress = Progress(**saved["progress"])
        say(f"{name}: resuming at step {progress.n_steps}")

    def save() -> None:
        partial = path.with_suffix(".partial")
        torch.save({"optimizer": optimizer.state_dict(), "progress": asdict(progress)}, partial)
        partial.replace(path)  # an interruption must not leave half a checkpoint

    def say_figures() -> None:
        figures = figures_of(held_out_probes(corpus.held_out))
        say(f"{name}, held out: " + ", ".join(f"{what} {value:.3f}" for what, value in figures.items()))

    saved_at = reported_at = progress.busy_s
    reported_tokens, shown_loss = progress.n_tokens, math.nan
    window = 0
    try:
        while progress.busy_s < budget_s:
            started = time.perf_counter()
            fraction = progress.busy_s / budget_s
            wanted_window = SHORT_WINDOW if fraction < LONG_WINDOW_FROM else LONG_WINDOW
            if wanted_window != window:
                window = wanted_window
                batches = windows(
                    corpus.library, corpus.tests, n_batch=tokens_per_step // window, n_tokens=window,
                    test_share=TEST_SHARE, seed=progress.n_steps,
                )  # fmt: skip
                workers.warm_up(torch.from_numpy(next(batches))[: TOKENS_PER_PART // window])
            parts = torch.from_numpy(next(batches)).split(TOKENS_PER_PART // window)
            loss, gradients = workers.gradients(parts, fraction)
            optimizer.step(gradients, rate_scale(fraction, progress.n_steps), workers.pool.map)
            shown_loss = loss if math.isnan(shown_loss) else 0.95 * shown_loss + 0.05 * loss
            progress.n_steps += 1
            progress.n_tokens += tokens_per_step
            progress.busy_s += time.perf_counter() - started
            if progress.busy_s - reported_at > REPORT_EVERY_S:
                speed = (progress.n_tokens - reported_tokens) / (progress.busy_s - reported_at)
                say(
                    f"{name} {progress.busy_s / budget_s:4.0%} {progress.busy_s:5.0f} s "
                    f"step {progress.n_steps}: loss {shown_loss:.3f}, {speed:.0f} tokens/s"
                )
                reported_at, reported_tokens = progress.busy_s, progress.n_tokens
            if progress.busy_s - saved_at > CHECKPOINT_EVERY_S:
                save()
                saved_at = progress.busy_s
                say_figures()
    finally:
        workers.close()
        save()
    say_figures()
    return progress, optimizer.masters


def rate_scale(fraction: float, n_steps: int) -> float:
    """Learning-rate multiplier: a short linear rise in steps, then a cosine to zero over the budget."""
    return min(1.0, (n_steps + 1) / 50) * 0.5 * (1 + math.cos(math.pi * min(1.0, fraction)))


def held_out_probes(stream: NDArray) -> Tensor:
    """Windows [N_HELD_OUT_PROBES, T + 1] spread evenly: a quick look, evaluate.py has what counts."""
    starts = np.linspace(0, len(stream) - SHORT_WINDOW - 1, N_HELD_OUT_PROBES).astype(int)
    return torch.from_numpy(np.stack([stream[start : start + SHORT_WINDOW + 1] for start in starts]))


def target_figures(target: Llama) -> FiguresOf:
    @torch.no_grad()
    def figures_of(probes: Tensor) -> dict[str, float]:
        return {"loss": cross_entropy(target(probes[:, :-1]), probes).item()}

    return figures_of


def draft_figures(draft: Llama, target: Llama) -> FiguresOf:
    @torch.no_grad()
    def figures_of(probes: Tensor) -> dict[str, float]:
        draft_logits, target_logits = draft(probes[:, :-1]), target(probes[:, :-1])
        draft_probs, target_probs = (logits.float().softmax(-1) for logits in (draft_logits, target_logits))
        kept = torch.minimum(draft_probs, target_probs).sum(-1).mean()
        loss, target_loss = cross_entropy(draft_logits, probes), cross_entropy(target_logits, probes)
        return {"loss": loss.item(), "gap": (loss - target_loss).item(), "acceptance": kept.item()}

    return figures_of


def export(weights: dict[str, Tensor], shape: Shape, folder: Path) -> None:
    """Write transformers' LlamaForCausalLM with fp16 weights."""
    shipped = LlamaForCausalLM(LlamaConfig(**shape.hf_config()))
    unexpected = shipped.load_state_dict(weights, strict=False).unexpected_keys
    if unexpected:
        raise ValueError(f"transformers' Llama has no weights named {unexpected}")
    shipped.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # save_pretrained leaves it readable to its owner alone
    say(f"wrote {folder}")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
