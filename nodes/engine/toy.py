"""A draft and a target made of tables: no torch, no weights, and an acceptance that is exactly what was asked
for.

The target's row depends on the last `order` tokens only. The draft's row is made from the target's
*processed* row (after temperature, top-k and top-p) by moving 1 - acceptance of its mass from some tokens to
others. No token both loses and gains, so sum(min(draft, target)) = acceptance in every context, under every
sampling setting. A greedy row is one token, which no mass can be moved from; there the draft names the
target's token in that share of the contexts."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nodes.engine import Dists, EngineError, Tokenizer
from nodes.engine.checks import check_batch
from nodes.sampling import Row, Sampling, process
from nodes.session import Session

MEMO_BYTES = 64 << 20
HIDDEN_SIZE = 8


class ToyDists:
    """Dists over rows that live elsewhere (the memo); nothing is copied."""

    __slots__ = ("_contexts", "rows")

    def __init__(self, rows: list[Row], contexts: list[tuple[int, ...]]) -> None:
        self.rows = rows  # [T] of [V]
        self._contexts = contexts  # [T] what each was made from

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, i: int) -> Row:
        return self.rows[i]

    def at(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        return np.array([self.rows[i][token] for i, token in enumerate(tokens)], dtype=np.float32)

    def hidden(self, i: int) -> NDArray[np.float32]:
        """A table has no hidden state: a stand-in, [HIDDEN_SIZE] normal numbers that depend on the context alone."""
        seed = np.frombuffer(hashlib.sha256(str(self._contexts[i]).encode()).digest(), dtype="<u4")
        return np.random.Generator(np.random.Philox(seed)).standard_normal(HIDDEN_SIZE, dtype=np.float32)


class ToyTokenizer:
    """Token i is the word "t<i>"; any other word becomes one of the ids, always the same one."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def encode(self, text: str) -> list[int]:
        return [self._id(word) for word in text.split()]

    def decode(self, tokens: Sequence[int]) -> str:
        return " ".join(f"t{token}" for token in tokens)

    def _id(self, word: str) -> int:
        if re.fullmatch(r"t(0|[1-9]\d*)", word, re.ASCII) and len(word) < 12 and int(word[1:]) < self.vocab_size:
            return int(word[1:])
        return zlib.crc32(word.encode(errors="surrogatepass")) % self.vocab_size


class ToyEngine:
    """`sharpness` is the standard deviation of the target's logits at temperature 1; 0 makes every row
    uniform."""

    def __init__(
        self,
        role: Literal["draft", "target"],
        *,
        vocab_size: int = 32,
        acceptance: float = 0.7,
        order: int = 2,
        sharpness: float = 1.5,
        table_seed: int = 0,
        eos: int | None = None,
    ) -> None:
        if vocab_size < 2:
            raise EngineError(f"toy: vocab_size {vocab_size} leaves nothing to choose from; give at least 2")
        if not 1 / vocab_size <= acceptance <= 1:
            raise EngineError(
                f"toy: acceptance {acceptance} is not between 1/vocab_size = {1 / vocab_size:.3g} and 1; "
                "below that no draft can stay clear of a target that gives every token some mass"
            )
        if order < 0 or sharpness < 0:
            raise EngineError(f"toy: order {order} and sharpness {sharpness} must not be negative")
        if eos is not None and not 0 <= eos < vocab_size:
            raise EngineError(f"toy: eos {eos} is not a token; ids go from 0 to {vocab_size - 1}")
        self.name = "toy"
        self.role = role
        self.vocab_size = self.named_tokens = vocab_size
        self.vocab_hash = hashlib.sha256(f"toy {vocab_size}".encode()).hexdigest()
        self.eos_tokens = frozenset() if eos is None else frozenset([eos])
        self.max_tokens = 1 << 20
        self.tokenizer: Tokenizer = ToyTokenizer(vocab_size)
        self.labels = frozenset({"toy"})
        self.hidden_size = HIDDEN_SIZE
        self.acceptance = acceptance
        self.order = order
        self.sharpness = sharpness
        self.table_seed = table_seed
        self._memos: dict[tuple[float, int, float], dict[tuple[int, ...], Row]] = {}
        self._memo_rows = max(1, MEMO_BYTES // (4 * vocab_size))

    def forward(self, sessions: Sequence[Session], rows: Sequence[int]) -> list[Dists]:
        check_batch(sessions, rows, self.vocab_size, self.max_tokens)
        return [self._feed(session, n_rows) for session, n_rows in zip(sessions, rows)]

    def release(self, session: Session) -> None:
        session.cache, session.fed = None, 0

    def describe(self) -> dict[str, Any]:
        return {
            "engine": self.name,
            "role": self.role,
            "vocab_size": self.vocab_size,
            "acceptance": self.acceptance,
            "order": self.order,
            "sharpness": self.sharpness,
            "table_seed": self.table_seed,
            "eos": sorted(self.eos_tokens),
        }

    # ---------------------------------------------------------------- rows

    def _feed(self, session: Session, n_rows: int) -> ToyDists:
        sampling, tokens = session.sampling, session.tokens
        key = (sampling.temperature, sampling.top_k, sampling.top_p)
        memo = self._memos.setdefault(key, {})
        found, contexts = [], []
        for end in range(len(tokens) - n_rows + 1, len(tokens) + 1):
            context = tuple(tokens[max(0, end - self.order) : end])
            row = memo.get(context)
            if row is None:
                row = self.row(context, sampling)
                row.setflags(write=False)
                if len(memo) >= self._memo_rows:
                    del memo[next(iter(memo))]  # the oldest; a dict remembers
                memo[context] = row
            found.append(row)
            contexts.append(context)
        session.fed = len(tokens)
        return ToyDists(found, contexts)

    def row(self, context: Sequence[int], sampling: Sampling) -> Row:
        """[V] of this engine's role after `context`, the last `order` tokens; a pure function of its
        arguments."""
        rng = np.random.Generator(np.random.Philox(key=self._key(context)))
        logits = rng.standard_normal(self.vocab_size) * self.sharpness
        target = process(logits[None], sampling)[0]
        if self.role == "target":
            return target
        coin, order = rng.random(), rng.permutation(self.vocab_size)
        if sampling.temperature == 0:
            agrees = coin < self.acceptance
            return target if agrees else _one_hot_elsewhere(target, order)
        return move_mass(target, 1 - self.acceptance, order)

    def _key(self, context: Sequence[int]) -> int:
        text = f"{self.table_seed}/{','.join(map(str, context))}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def move_mass(target: Row, mass: float, order: NDArray[np.integer]) -> Row:
    """The row [V] with exactly `mass` taken from the first tokens of the target's support, in the given
    order, and given to the rest of it. Losers keep a share of what they had, so the support stays whole.
    Where no rest is left, all of the support gives to its least likely token; where even that is too little,
    to a token outside."""
    if mass <= 0:
        return target
    probs = target.astype(np.float64)
    probs /= probs.sum()
    support = order[target[order] > 0]
    heights = np.cumsum(probs[support])
    n_losers = int(np.searchsorted(heights, mass, side="right")) + 1  # the fewest that hold more than `mass`
    losers, winners = support[:n_losers], support[n_losers:]
    if len(winners) == 0:
        outside = order[target[order] == 0]
        least = support[np.argmin(probs[support])]
        if len(outside) == 0 or 1 - probs[least] > mass:
            losers, winners = support[support != least], np.array([least])
        else:
            losers, winners = support, outside[:1]
    draft = probs.copy()
    draft[losers] *= 1 - mass / probs[losers].sum()
    share = probs[winners] if probs[winners[0]] > 0 else np.ones(1)
    draft[winners] += mass * share / share.sum()
    return np.maximum(draft, 0).astype(np.float32)


def _one_hot_elsewhere(target: Row, order: NDArray[np.integer]) -> Row:
    row = np.zeros_like(target)
    row[order[0] if target[order[0]] == 0 else order[1]] = 1
    return row
