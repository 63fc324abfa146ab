"""Coins, draws and the accept test: numpy, no I/O. Every system's law rests on this page.

Rows are float32 [V] and sum to 1 up to rounding; draws divide by the row's own sum, so what is drawn from is exactly
what the numbers say. `draft_` and `target_` name the two models: papers use p and q both ways (Leviathan et al. 2023
call the target p, Chen et al. 2023 call it q), and one published system inverted its test over that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Row = NDArray[np.float32]
BLOCK = 512  # entries added up at once before a draw looks closer
BELOW_2_32 = np.float32(2**-32 * (1 - 2**-24))  # times 2**32: the largest float32 under 1


class Sampling(Struct, frozen=True, forbid_unknown_fields=True):
    """How a distribution is processed before anything is drawn from it, sent or tested. temperature 0 is greedy."""

    temperature: float = 1.0
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    seed: int = 0


def process(logits: NDArray[np.floating], sampling: Sampling) -> NDArray[np.float32]:
    """[T, V] logits to [T, V] probabilities: temperature, then top-k, then top-p, then softmax over what is left.

    Ties at the k-th place are cut by token id, lowest kept first; top-p keeps the smallest set whose mass reaches p.
    """
    logits = np.asarray(logits, dtype=np.float64)
    if sampling.temperature == 0:
        rows = np.zeros(logits.shape, dtype=np.float32)
        rows[np.arange(len(logits)), logits.argmax(axis=-1)] = 1
        return rows
    scaled = (logits - logits.max(axis=-1, keepdims=True)) / sampling.temperature
    probs = np.exp(scaled)
    if 0 < sampling.top_k < logits.shape[-1]:
        order = np.argsort(-scaled, axis=-1, kind="stable")
        np.put_along_axis(probs, order[:, sampling.top_k :], 0.0, axis=-1)
    probs /= probs.sum(axis=-1, keepdims=True)
    if sampling.top_p < 1:
        order = np.argsort(-probs, axis=-1, kind="stable")
        ranked = np.take_along_axis(probs, order, axis=-1)
        before = np.cumsum(ranked, axis=-1) - ranked
        np.put_along_axis(probs, order, np.where(before < sampling.top_p, ranked, 0.0), axis=-1)
        probs /= probs.sum(axis=-1, keepdims=True)
    return probs.astype(np.float32)


class Coins:
    """Uniform coins, each a pure function of (seed, conversation, epoch, role, position).

    No stream is consumed, so tokens depend neither on batching nor on scheduling nor on who crashed. `epoch` counts
    rejections so far; `fixed` coins leave it out, for methods whose output must not depend on the draft at all.
    """

    __slots__ = ("conversation", "epoch", "seed")

    def __init__(self, seed: int, conversation: int, epoch: int = 0) -> None:
        self.seed, self.conversation, self.epoch = seed, conversation, epoch

    def at_epoch(self, epoch: int) -> Coins:
        return Coins(self.seed, self.conversation, epoch)

    def __call__(self, role: str, position: int, index: int = 0) -> float:
        """Uniform in [0, 1) with 53 bits. `index` numbers several coins of one role at one position."""
        return (self._digest(self.epoch, role, position, index) >> 11) * 2.0**-53

    def fixed(self, role: str, position: int) -> float:
        return (self._digest(-1, role, position, 0) >> 11) * 2.0**-53

    def noise(self, position: int, size: int) -> NDArray[np.float32]:
        """[size] exponential(1) variates, all positive and finite, for the race at `position`; the same at both ends,
        whatever the epoch. By inversion of 32 bits each: a third of the time of numpy's own exponentials."""
        bits = np.random.SFC64(self._digest(-1, "race", position, 0)).random_raw((size + 1) // 2)
        uniform = bits.view(np.uint32)[:size].astype(np.float32)
        uniform += np.float32(0.5)  # never 0 ...
        uniform *= BELOW_2_32  # ... and never 1
        return np.negative(np.log1p(np.negative(uniform, out=uniform), out=uniform), out=uniform)

    def _digest(self, epoch: int, role: str, position: int, index: int) -> int:
        text = f"{self.seed}/{self.conversation}/{epoch}/{role}/{position}/{index}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def sample(row: Row, coin: float) -> int:
    """The token whose share of [0, sum) the coin falls in (inverse CDF). Never a token of probability zero."""
    return sample_many(row, [coin])[0]


def sample_many(row: Row, coins: Sequence[float]) -> list[int]:
    """One token a coin, as `sample`, adding the row up once: by blocks, then inside the block that a coin falls in."""
    blocks = np.add.reduceat(row, np.arange(0, len(row), BLOCK), dtype=np.float64).cumsum()
    tokens = []
    for coin in coins:
        height = coin * blocks[-1]
        block = _step(blocks, height)
        start, below = block * BLOCK, blocks[block - 1] if block else 0.0
        tokens.append(start + _step(row[start : start + BLOCK].cumsum(dtype=np.float64), height - below))
    return tokens


def _step(heights: NDArray[np.float64], height: float) -> int:
    """The first step that rises above `height`; where rounding leaves none, the last that rises at all."""
    step = heights.searchsorted(height, "right")
    return int(step if step < len(heights) else heights.searchsorted(heights[-1]))


def race(row: Row, noise: NDArray[np.float32]) -> int:
    """Gumbel-max in its exponential form: argmin noise / row. With shared noise two rows mostly name the same token:
    Pr[match] >= (1 - TV) / (1 + TV) (Daliri, Musco, Suresh 2024, arXiv 2408.07978)."""
    with np.errstate(divide="ignore", over="ignore"):  # what has no chance arrives at infinity
        return int(np.argmin(noise / row))


def accepted_prefix(
    target_probs: Sequence[float] | NDArray[np.floating],
    draft_probs: Sequence[float] | NDArray[np.floating],
    coins: Coins,
    base: int,
) -> int:
    """How many of the drafted tokens stand: each with probability min(1, target / draft), up to the first that fails
    (Leviathan et al. 2023, Alg. 1). Both arguments are [g], probabilities of the drafted tokens."""
    for i, (target, draft) in enumerate(zip(target_probs, draft_probs)):
        if not coins("accept", base + i) * float(draft) < float(target):
            return i
    return len(draft_probs)


def residual(target: Row, draft: Row) -> Row:
    """norm(max(0, target - draft)), what a rejected position is redrawn from. Where rounding leaves nothing, the rows
    are equal to the last bit that matters and the target itself is returned."""
    excess = np.maximum(target.astype(np.float64) - draft, 0)
    total = excess.sum()
    return (excess / total).astype(np.float32) if total > 0 else target
