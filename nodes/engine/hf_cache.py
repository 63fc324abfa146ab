"""KV caches of transformers 4.57 to 5.x: how one is made, rolled back, and lent to a batch.

The only place that knows how the releases differ. `crop(n)` with n > 0 is an absolute length in 4.57 and an
error in 5.x; `crop(0)` empties the cache in 4.57 and trims sliding windows in 5.x; `crop(-n)` drops n tokens
in both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

KEPT_WHOLE = {"full_attention", "sliding_attention", "chunked_attention"}


def can_roll_back(model: PreTrainedModel) -> bool:
    """Whether all the model's memory is keys and values of single tokens. A recurrent state cannot be wound
    back."""
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or KEPT_WHOLE)
    shares_layers = bool(getattr(config, "num_kv_shared_layers", 0))
    return kinds <= KEPT_WHOLE and not shares_layers and not getattr(model, "_is_stateful", False)


def new_cache() -> DynamicCache:
    """An empty cache for one session. Without a config every layer keeps all its keys and leaves its window
    to the mask: transformers' sliding layers drop what has left the window, and a rollback across several
    forwards (four drafted tokens are four) would miss it. Costs memory on long sessions, and is exact."""
    return DynamicCache()


def roll_back(cache: DynamicCache, n_tokens: int) -> None:
    """Keep the first n_tokens."""
    surplus = cache.get_seq_length() - n_tokens
    if surplus > 0:
        cache.crop(-surplus)


def lend(caches: Sequence[DynamicCache]) -> tuple[DynamicCache, list[int]]:
    """One batched cache [B, heads, longest, width], each session's keys at the right end, and the sessions'
    lengths.

    Right-aligned, every key keeps its distance to the tokens fed next, so windows and relative positions
    hold."""
    lengths = [cache.get_seq_length() for cache in caches]
    batched = DynamicCache()
    n_layers = max(len(cache.layers) for cache in caches) if any(lengths) else 0
    for index in range(n_layers):
        held: list[Any] = [cache.layers[index] if n else None for cache, n in zip(caches, lengths)]
        keys = _align_right([layer and layer.keys for layer in held], max(lengths))
        values = _align_right([layer and layer.values for layer in held], max(lengths))
        batched.update(keys, values, index)
    return batched, lengths


def take_back(batched: DynamicCache, caches: Sequence[DynamicCache], n_past: int, n_news: Sequence[int]) -> None:
    """Append to each session's cache what the forward added for it: n_news[i] tokens from column n_past
    on."""
    layers: list[Any] = batched.layers
    for index, layer in enumerate(layers):
        for i, (cache, n_new) in enumerate(zip(caches, n_news)):
            news = slice(n_past, n_past + n_new)
            cache.update(layer.keys[i : i + 1, :, news], layer.values[i : i + 1, :, news], index)


def _align_right(parts: Sequence[Tensor | None], length: int) -> Tensor:
    """[1, heads, n_i, width] each, or None for nothing, to [B, heads, length, width] with zeros on the
    left."""
    like = next(part for part in parts if part is not None)
    out = torch.zeros(len(parts), like.shape[1], length, like.shape[3], dtype=like.dtype, device=like.device)
    for row, part in zip(out, parts):
        if part is not None:
            row[:, length - part.shape[2] :] = part[0]
    return out
