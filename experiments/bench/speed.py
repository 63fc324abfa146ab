"""Tokens per second of whole requests, against transformers' own assisted generation: the same two models, prompts,
draft length, number of threads and sampling, taking turns prompt by prompt in one run."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from experiments.bench.records import record
from experiments.bench.rig import Rig

SYSTEMS = ("colocated_sd", "dssd")
DRAFT_LENGTH = 4
BOUND = ">= 1.2"
WARM_UP = -1

Generate = Callable[[int, int], list[int]]  # (number of the prompt, repeat) -> output tokens


def measure(prompts: int = 6, max_new_tokens: int = 96, repeats: int = 3) -> list[dict[str, Any]]:
    """Ratios of tokens/s, greedy and at temperature 1, over an unshaped local link."""
    records = []
    for temperature in (0.0, 1.0):
        config = {
            "systems": list(SYSTEMS),
            "sampling": {"temperature": temperature},
            "draft_length": DRAFT_LENGTH,
            "workload": {"requests": prompts, "max_new_tokens": max_new_tokens, "ignore_eos": True},
        }
        with Rig(config) as rig:
            texts = [prompt.text for prompt in rig.spec.prompts]
            contenders = {"generate": assisted_generation(texts, temperature, max_new_tokens)}
            contenders |= {system: partial(_serve, rig, system) for system in SYSTEMS}
            rates, same = take_turns(contenders, prompts, repeats)
        for system in SYSTEMS:
            ratio = statistics.median(ours / theirs for ours, theirs in zip(rates[system], rates["generate"]))
            sampling = "greedy" if temperature == 0 else "T = 1"
            note = (
                f"medians of {repeats}: {statistics.median(rates[system]):.0f} against "
                f"{statistics.median(rates['generate']):.0f} tokens/s, draft length {DRAFT_LENGTH}, one thread a model"
            )
            if temperature == 0:
                note += f"; {same[system]} of {prompts * repeats} outputs are the same, token for token"
            records.append(record(f"speed: {system} / generate, {sampling}", ratio, "x", BOUND, note))
    return records


def take_turns(
    contenders: dict[str, Generate], prompts: int, repeats: int
) -> tuple[dict[str, list[float]], Counter[str]]:
    """Tokens/s of each contender, a number a repeat; and how many of its outputs equalled the first contender's. On
    each prompt everybody runs before the next prompt comes, another one first every time."""
    names = list(contenders)
    for name in names:
        contenders[name](0, WARM_UP)
    rates: dict[str, list[float]] = {name: [] for name in names}
    same: Counter[str] = Counter()
    for repeat in range(repeats):
        tokens: Counter[str] = Counter()
        seconds: Counter[str] = Counter()
        for prompt in range(prompts):
            outputs = {}
            for turn in range(len(names)):
                name = names[(prompt + turn) % len(names)]
                began_s = time.perf_counter()
                outputs[name] = contenders[name](prompt, repeat)
                seconds[name] += time.perf_counter() - began_s  # type: ignore[assignment]  # a Counter adds floats too
                tokens[name] += len(outputs[name])
            same.update(name for name in names if outputs[name] == outputs[names[0]])
        for name in names:
            rates[name].append(tokens[name] / seconds[name])
    return rates, same


def _serve(rig: Rig, system: str, prompt: int, repeat: int) -> list[int]:
    return rig.serve(system, prompt, repeat).tokens


def assisted_generation(texts: list[str], temperature: float, max_new_tokens: int) -> Generate:
    """transformers' `generate` with the bundled pair, as plain as ours: the draft stops at its length alone, and
    nothing but the length ends a request."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    from nodes.engine.bundled import bundled_paths

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    folders = {kind: bundled_paths(kind) for kind in ("draft", "target")}
    draft, target = (
        AutoModelForCausalLM.from_pretrained(folders[kind][0], dtype=torch.float32).eval() for kind in folders
    )
    for model in (draft, target):
        model.generation_config.eos_token_id = None
    draft.generation_config.update(  # as arguments of `generate` these three would be overlooked
        num_assistant_tokens=DRAFT_LENGTH, num_assistant_tokens_schedule="constant", assistant_confidence_threshold=0.0
    )
    tokenizer = AutoTokenizer.from_pretrained(folders["target"][1])
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}

    def generate(prompt: int, repeat: int) -> list[int]:
        ids = tokenizer(texts[prompt], return_tensors="pt", add_special_tokens=False)
        torch.manual_seed(repeat)
        output = target.generate(
            **ids,
            assistant_model=draft,
            max_new_tokens=max_new_tokens,
            pad_token_id=0,
            **sampling,
        )
        return output[0, ids["input_ids"].shape[1] :].tolist()

    return generate
