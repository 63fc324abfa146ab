"""From logits to distributions, on the model's own device. Says the same as `nodes.sampling.process`, ties
included."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nodes.sampling import Row, Sampling

FIRST_GUESS = 256  # tokens top-p looks at before it looks at 16 times as many


class TorchDists:
    """[T, V] rows, processed at the first question asked; a row crosses to the host when it is asked for."""

    __slots__ = ("_sampling", "_values")

    def __init__(self, logits: Tensor, sampling: Sampling) -> None:
        self._values = logits  # [T, V], any float dtype; probabilities once processed
        self._sampling: Sampling | None = sampling  # None: processed

    def __len__(self) -> int:
        return self._values.shape[0]

    def __repr__(self) -> str:
        return f"TorchDists({tuple(self._values.shape)}, {self._values.device})"

    def row(self, i: int) -> Row:
        return self.probs[i].cpu().numpy()

    def at(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        if len(tokens) > len(self):
            raise IndexError(f"{len(tokens)} tokens, but only {len(self)} rows")
        index = torch.tensor(tokens, dtype=torch.long, device=self._values.device)
        return self.probs[: len(tokens)].gather(1, index[:, None])[:, 0].cpu().numpy()

    @property
    def probs(self) -> Tensor:
        """[T, V] float32."""
        if self._sampling is not None:
            with torch.inference_mode():
                self._values, self._sampling = process(self._values, self._sampling), None
        return self._values


def process(logits: Tensor, sampling: Sampling) -> Tensor:
    """[T, V] logits to [T, V] float32 probabilities; as `nodes.sampling.process`, without sorting the
    vocabulary.

    Each probability depends on its own logit only, and top-p is top-n with an n read off the ranked masses.
    So it is enough to rank the few largest logits; who of several equals stays is settled only where equals
    meet the cut."""
    logits = logits.float()
    n_tokens = logits.shape[-1]
    if sampling.temperature == 0:
        return torch.zeros_like(logits).scatter_(1, logits.argmax(-1, keepdim=True), 1.0)
    top_k = sampling.top_k if 0 < sampling.top_k < n_tokens else 0
    if not top_k and sampling.top_p >= 1:
        scaled = logits if sampling.temperature == 1 else logits / sampling.temperature
        return torch.softmax(scaled, dim=-1)

    n_ranked = min(n_tokens, (top_k or FIRST_GUESS) + 1)  # one more than may stay, to see ties across the cut
    while True:
        ranked, ids = _largest(logits, n_ranked)  # [T, n_ranked]
        weights = torch.exp((ranked.double() - ranked[:, :1].double()) / sampling.temperature)
        if top_k:
            weights[:, top_k:] = 0
            total = weights.sum(-1, keepdim=True)
        else:
            scaled = (logits - ranked[:, :1]) / sampling.temperature
            total = scaled.exp_().sum(-1, keepdim=True, dtype=torch.float64)
        masses = weights / total
        before = masses.cumsum(-1) - masses
        kept = before < sampling.top_p if sampling.top_p < 1 else torch.ones_like(before, dtype=torch.bool)
        kept &= weights > 0
        if top_k or n_ranked == n_tokens or not bool(kept[:, -1].any()):
            break
        n_ranked = min(n_tokens, 16 * n_ranked)

    n_kept = kept.sum(-1)  # [T]
    if n_ranked < n_tokens or not bool(kept.all()):
        _settle_ties(logits, ranked, ids, n_kept)
    probs = torch.where(kept, masses, 0)
    probs /= probs.sum(-1, keepdim=True)
    # adding, not setting: an id that tie-breaking moved forward may show up once more with probability zero
    return torch.zeros_like(logits).scatter_add_(1, ids, probs.float())


def _largest(logits: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Values and ids [T, n], largest first. Selecting many takes longer than sorting all."""
    if n < logits.shape[-1] / 4:
        return torch.topk(logits, n, dim=-1)
    ranked, ids = torch.sort(logits, dim=-1, descending=True)
    return ranked[:, :n], ids[:, :n]


def _settle_ties(logits: Tensor, ranked: Tensor, ids: Tensor, n_kept: Tensor) -> None:
    """Where the last token kept and the first one cut have equal logits, keep the lowest ids: rewrites
    `ids`."""
    last = n_kept[:, None] - 1
    first_cut = (last + 1).clamp(max=ranked.shape[1] - 1)
    tied = (ranked.gather(1, last) == ranked.gather(1, first_cut)) & (first_cut > last)
    if not bool(tied.any()):
        return
    for i in tied[:, 0].nonzero()[:, 0].tolist():
        n = int(n_kept[i])
        value = ranked[i, n - 1]
        n_above = int((ranked[i] > value).sum())
        ids[i, n_above:n] = (logits[i] == value).nonzero()[: n - n_above, 0]
