"""From logits to distributions, on the model's own device. Says the same as `nodes.sampling.process`, ties
included."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nodes.sampling import Row, Sampling

BLOCK = 64
BINS_PER_NAT, N_BINS = 32, 1024  # the last bin holds all that is 32 nats or more below the top


class TorchDists:
    """[T, V] rows, processed at the first question asked; a row crosses to the host when it is asked for."""

    __slots__ = ("_sampling", "_states", "_values")

    def __init__(self, logits: Tensor, sampling: Sampling, states: Tensor | None = None) -> None:
        self._values = logits  # [T, V], any float dtype; probabilities once processed
        self._states = states  # [T, hidden]
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

    def hidden(self, i: int) -> NDArray[np.float32]:
        if self._states is None:
            raise ValueError("these rows came without their hidden states")
        return self._states[i].float().cpu().numpy()

    @property
    def probs(self) -> Tensor:
        """[T, V] float32."""
        if self._sampling is not None:
            with torch.inference_mode():
                self._values, self._sampling = process(self._values, self._sampling), None
        return self._values


def process(logits: Tensor, sampling: Sampling) -> Tensor:
    """[T, V] logits to [T, V] float32 probabilities; as `nodes.sampling.process`, without sorting the vocabulary."""
    logits = logits.float()
    if sampling.temperature == 0:
        return torch.zeros_like(logits).scatter_(1, logits.argmax(-1, keepdim=True), 1.0)
    if 0 < sampling.top_k < logits.shape[-1]:
        return _top_k(logits, sampling)
    if sampling.top_p < 1:
        return torch.stack([_top_p(row, sampling) for row in logits]) if len(logits) else logits
    scaled = logits if sampling.temperature == 1 else logits / sampling.temperature
    return torch.softmax(scaled, dim=-1)


def largest(logits: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The n largest of each row and where they are, [T, n] each, largest first. They lie in the n blocks with the
    largest maxima, and the rest need no ranking: a fifth of the time of torch.topk at V = 151,936."""
    n_rows, size = logits.shape
    n_blocks = size // BLOCK
    if n_blocks < 8 * n:
        return torch.topk(logits, n, dim=-1)
    whole = n_blocks * BLOCK
    blocks = logits[:, :whole].view(n_rows, n_blocks, BLOCK).amax(-1).topk(n, dim=-1).indices
    inside = (blocks[:, :, None] * BLOCK + torch.arange(BLOCK, device=logits.device)).flatten(1)
    beyond = torch.arange(whole, size, device=logits.device).expand(n_rows, -1)
    candidates = torch.cat([inside, beyond], dim=1)
    ranked, at = logits.gather(1, candidates).topk(n, dim=-1)
    return ranked, candidates.gather(1, at)


def _top_k(logits: Tensor, sampling: Sampling) -> Tensor:
    """Top-k, then top-p among those. A probability depends on its own logit only, so who of several equals stays is
    settled last, and only where equals meet the cut."""
    ranked, ids = largest(logits, sampling.top_k + 1)  # largest first, and the first one cut
    masses = torch.exp((ranked.double() - ranked[:, :1].double()) / sampling.temperature)
    masses[:, -1] = 0
    masses /= masses.sum(-1, keepdim=True)
    if sampling.top_p < 1:
        before = masses.cumsum(-1) - masses
        masses *= before < sampling.top_p
        masses /= masses.sum(-1, keepdim=True)

    n_kept = (masses > 0).sum(-1, keepdim=True)  # [T, 1]
    tied = ranked.gather(1, n_kept - 1) == ranked.gather(1, n_kept)
    for i in tied[:, 0].nonzero()[:, 0].tolist():  # keep the lowest ids
        n, last = int(n_kept[i]), ranked[i, n_kept[i] - 1]
        n_above = int((ranked[i] > last).sum())
        ids[i, n_above:n] = (logits[i] == last).nonzero()[: n - n_above, 0]
    # adding, not setting: an id that a tie moved forward may show up once more with probability zero
    return torch.zeros_like(logits).scatter_add_(1, ids, masses.float())


def _top_p(logits: Tensor, sampling: Sampling) -> Tensor:
    """One row [V]. Bins the tokens by how far they lie below the largest, finds the bin in which the mass reaches
    top_p, and ranks that bin alone."""
    below = (logits - logits.max()) / sampling.temperature  # nats, never positive
    masses = below.exp().double()
    bins = (below * -BINS_PER_NAT).clamp_(max=N_BINS - 1).int()
    heights = torch.bincount(bins, masses, minlength=N_BINS).cumsum(0)
    goal = sampling.top_p * heights[-1]
    crossed = int((heights < goal).sum())

    members = (bins == crossed).nonzero()[:, 0]
    members = members[below[members].sort(descending=True, stable=True).indices]  # the lowest id of equals first
    reached = masses[members].cumsum(0) - masses[members]
    n_kept = int(((heights[crossed - 1] if crossed else 0) + reached < goal).sum())
    just_too_low = below[members[n_kept - 1]].nextafter(below.new_tensor(-torch.inf))
    kept = torch.threshold(below, float(just_too_low), -torch.inf)
    kept[members[n_kept:]] = -torch.inf  # equals of the last one kept
    return torch.softmax(kept, dim=-1)
