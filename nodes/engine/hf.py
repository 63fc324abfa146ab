"""Any transformers causal language model, KV-cached, sessions of different lengths in one forward.

Knows torch; does not know what the tokens are for. Nothing outside the `hf` files imports torch."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from nodes.engine import Dists, EngineError, Tokenizer
from nodes.engine.checks import check_batch
from nodes.engine.hf_cache import can_roll_back, lend, new_cache, roll_back, take_back
from nodes.engine.hf_dists import TorchDists
from nodes.engine.hf_lean import LeanLlama, fits
from nodes.engine.hf_load import HfTokenizer, eos_tokens, find_device, load, vocab_hash
from nodes.sampling import Sampling
from nodes.session import Session

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# how far logits may differ, relative to the largest, before two ways of computing them count as different
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}
SHORT_FEED = 16  # sessions that feed fewer than twice this many tokens share one forward


class Rows(NamedTuple):
    """What a forward says of T positions."""

    logits: torch.Tensor  # [T, V]
    states: torch.Tensor  # [T, hidden] that they were made from

    def between(self, start: int, end: int) -> Rows:
        return Rows(self.logits[start:end], self.states[start:end])


class HfEngine:
    """`vocab_size` is the width of the model's head, which may exceed the tokenizer's (Qwen pads it); the
    padding entries have probability zero in every row.

    One engine is used by one thread at a time. `threads` is torch's setting for the whole process. `processes` of a
    group hold the model between them (see hf_parallel.py): all make this engine and call it alike.
    """

    labels: frozenset[str] = frozenset()

    def __init__(
        self,
        model: str | Path,
        *,
        name: str,
        tokenizer: str | Path | None = None,
        dtype: str = "float32",
        device: str = "auto",
        threads: int | None = None,
        processes: int = 1,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.name = name
        self.device = torch.device(find_device(device))
        inner, self.model = load(str(model), str(tokenizer or model), DTYPES[dtype], self.device, processes)
        self.tokenizer: Tokenizer = HfTokenizer(inner)
        vocabulary = inner.get_vocab()
        head = self.model.get_output_embeddings()
        self.vocab_size, self.hidden_size = _height(head), int(head.weight.shape[1])
        self._states: torch.Tensor | None = None  # what the head was last given; every way of computing goes through it
        head.register_forward_pre_hook(self._keep_states)
        self.vocab_hash = vocab_hash(vocabulary)
        self.eos_tokens = eos_tokens(self.model, inner)
        config = self.model.config.get_text_config(decoder=True)
        self.max_tokens = int(getattr(config, "max_position_embeddings", None) or 1 << 20)
        self.named_tokens = min(self.vocab_size, max(vocabulary.values()) + 1)
        self._n_ids = _height(self.model.get_input_embeddings())

        accepts = inspect.signature(self.model.forward).parameters
        if "past_key_values" not in accepts:
            raise EngineError(f"{name}: {type(self.model).__name__} keeps no KV cache; use an attention model")
        self._picks_rows = "logits_to_keep" in accepts
        self._rolls_back = can_roll_back(self.model)
        self._lean = self._agreeing_lean()
        self._why_alone = "its recurrent state cannot be padded"
        if not (difference := self._check_cache()) < 5 * TOLERANCE[self.model.dtype]:
            raise EngineError(
                f"{name}: {type(self.model).__name__} is off by {difference:.1e} of the largest logit when "
                f"fed in pieces: its cache cannot be trusted in transformers {transformers.__version__}; "
                "try a newer release, or another model"
            )
        if self._rolls_back:
            self._why_alone = self._check_batching()

    # ---------------------------------------------------------------- feeding

    def forward(self, sessions: Sequence[Session], rows: Sequence[int]) -> list[Dists]:
        """See `Engine`. Sessions whose new tokens number alike (up to 31, to 63, to 127, ...) share a
        forward, so that padding at most doubles the work a long prompt brings."""
        self.prepare(sessions, rows)
        groups: dict[int, list[int]] = defaultdict(list)
        for i, session in enumerate(sessions):
            n_new = len(session.tokens) - session.fed
            groups[0 if n_new == 0 else max(n_new, SHORT_FEED).bit_length()].append(i)
        nothing = Rows(torch.empty(0, self.vocab_size), torch.empty(0, self.hidden_size))
        found: dict[int, Rows] = dict.fromkeys(groups.pop(0, []), nothing)
        try:
            with torch.inference_mode():
                for members in groups.values():
                    chosen = [sessions[i] for i in members]
                    found.update(zip(members, self._feed(chosen, [rows[i] for i in members])))
                if self.device.type == "cuda":
                    # otherwise the time would be booked on whoever reads a row
                    torch.cuda.synchronize(self.device)
        except BaseException:
            for session in sessions:  # some layers may hold the new tokens and others not
                self.release(session)
            raise
        return [TorchDists(found[i].logits, session.sampling, found[i].states) for i, session in enumerate(sessions)]

    def prepare(self, sessions: Sequence[Session], rows: Sequence[int]) -> None:
        """All of a forward before anything is fed: caches are rolled back, and `fed` says what they hold. Raises
        SessionRefused."""
        for session in sessions:
            self._roll_back(session)
        check_batch(sessions, rows, self._n_ids, self.max_tokens)

    def release(self, session: Session) -> None:
        session.cache, session.fed = None, 0

    def _roll_back(self, session: Session) -> None:
        if session.cache is None:
            session.fed = 0
        elif self._rolls_back:
            roll_back(session.cache, session.fed)
        elif session.cache[1] != session.fed:
            self.release(session)

    def _feed(self, sessions: list[Session], rows: list[int]) -> list[Rows]:
        """The last rows[i] of each session."""
        if len(sessions) == 1 or self._why_alone:
            found = [self._feed_one(session, n_rows) for session, n_rows in zip(sessions, rows)]
        else:
            found = self._feed_batch(sessions, rows)
        for session in sessions:
            session.fed = len(session.tokens)
        for part in found:
            part.logits[:, self.named_tokens :] = -torch.inf
        return found

    def _feed_one(self, session: Session, n_rows: int) -> Rows:
        """The fast path: no padding, no mask, no copy of the cache."""
        if self._rolls_back:
            session.cache = new_cache() if session.cache is None else session.cache
            if self._lean:
                return Rows(self._lean(session.tokens[session.fed :], session.cache, n_rows), self._take_states())
        ids = torch.tensor([session.tokens[session.fed :]], device=self.device)
        if self._rolls_back:
            return self._compute(ids, n_rows, past_key_values=session.cache)[0]
        # such a model knows best which cache it wants; beside it, how many tokens it has seen
        past = session.cache[0] if session.cache else None
        outputs = self.model(input_ids=ids, past_key_values=past, use_cache=True)
        session.cache = (outputs.past_key_values, len(session.tokens))
        return Rows(outputs.logits[0], self._take_states()[0]).between(ids.shape[1] - n_rows, ids.shape[1])

    def _feed_batch(self, sessions: list[Session], rows: list[int]) -> list[Rows]:
        """Pasts padded on the left, new tokens on the right: a padding query then always sees something real,
        and no softmax runs over nothing."""
        for session in sessions:
            session.cache = new_cache() if session.cache is None else session.cache
        caches = [session.cache for session in sessions]
        batched, n_pasts = lend(caches)
        news = [session.tokens[session.fed :] for session in sessions]
        n_news = [len(new) for new in news]
        past, width = max(n_pasts), max(n_news)

        ids = torch.zeros(len(sessions), width, dtype=torch.long)
        mask = torch.zeros(len(sessions), past + width, dtype=torch.long)
        for i, (new, n_past, n_new) in enumerate(zip(news, n_pasts, n_news)):
            ids[i, :n_new] = torch.tensor(new)
            mask[i, past - n_past : past + n_new] = 1
        last = torch.tensor(n_news)[:, None] - 1
        positions = torch.tensor(n_pasts)[:, None] + torch.arange(width).minimum(last)
        columns = sorted({c for n_new, n_rows in zip(n_news, rows) for c in range(n_new - n_rows, n_new)})
        found = self._compute(
            ids.to(self.device),
            torch.tensor(columns, dtype=torch.long, device=self.device),
            past_key_values=batched,
            attention_mask=mask.to(self.device),
            position_ids=positions.to(self.device),
        )
        take_back(batched, caches, past, n_news)
        starts = [columns.index(n_new - n_rows) if n_rows else 0 for n_new, n_rows in zip(n_news, rows)]
        return [part.between(start, start + n_rows) for part, start, n_rows in zip(found, starts, rows)]

    def _compute(self, ids: torch.Tensor, columns: int | torch.Tensor, **inputs: Any) -> list[Rows]:
        """Of each text in the batch the last `columns`, or those listed. The head is as wide as the vocabulary,
        and most of a prompt's rows are nobody's business."""
        if self._picks_rows:  # zero would mean all of them
            inputs["logits_to_keep"] = columns if isinstance(columns, torch.Tensor) else max(columns, 1)
        logits = self.model(input_ids=ids, use_cache=True, **inputs).logits
        states = self._take_states()
        if isinstance(columns, int):
            n = logits.shape[1]
            return [Rows(*part).between(n - columns, n) for part in zip(logits, states)]
        if not self._picks_rows:
            logits, states = logits[:, columns], states[:, columns]
        return [Rows(*part) for part in zip(logits, states)]

    def _keep_states(self, head: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        self._states = given[0]

    def _take_states(self) -> torch.Tensor:
        states, self._states = self._states, None
        if states is None:
            raise EngineError(f"{self.name}: {type(self.model).__name__} makes its logits past its own head")
        return states

    # ---------------------------------------------------------------- what this model can do

    def _agreeing_lean(self) -> LeanLlama | None:
        """The quicker forward, if this model is of its kind and it says the same as the model."""
        if not (self._rolls_back and fits(self.model)):
            return None
        text, lean = self._some_text(9), LeanLlama(self.model)
        with torch.inference_mode():
            theirs = self._compute(torch.tensor([text]), 9, past_key_values=new_cache())[0].logits
            agrees = _difference(theirs, lean(text, new_cache(), 9)) < TOLERANCE[self.model.dtype]
        return lean if agrees else None

    def _check_cache(self) -> float:
        """Largest relative difference between a text fed at once and the same fed in pieces with a rollback
        between. Some releases of some models take only one token at a time once their cache is filled, and
        say nothing."""
        text = self._some_text(9)
        pieces = Session(Sampling(), [*text[:4], text[1], text[1]])
        with torch.inference_mode():
            at_once = self._feed([Session(Sampling(), text)], [1])[0].logits
            self._feed([pieces], [1])
            for end in (7, 9):
                pieces.become(text[:end])
                self._roll_back(pieces)
                [in_pieces] = self._feed([pieces], [1])
        return _difference(at_once, in_pieces.logits)

    def _check_batching(self) -> str:
        """Why this model cannot run a padded batch; empty if it can. Found out by comparing a small batch, in
        two steps, with the same sessions alone."""
        texts = [self._some_text(n) for n in (3, 9, 5)]
        alone, together = ([Session(Sampling()) for _ in texts] for _ in range(2))
        try:
            with torch.inference_mode():
                for share in (2, 1):
                    for session, text in zip([*alone, *together], texts * 2):
                        session.tokens = text[: -(-len(text) // share)]
                    singles = torch.cat([self._feed_one(session, 1).logits for session in alone])
                    batch = torch.cat([rows.logits for rows in self._feed_batch(together, [1] * len(texts))])
                    for session in (*alone, *together):
                        session.fed = len(session.tokens)
                    if not (difference := _difference(singles, batch)) < TOLERANCE[self.model.dtype]:
                        return f"a padded batch is off by {difference:.1e} of the largest logit"
        except (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError) as error:
            return f"a padded batch fails with {type(error).__name__}: {error}"
        return ""

    def _some_text(self, n_tokens: int) -> list[int]:
        return [(7 * n_tokens + 3 * i) % min(self._n_ids, self.named_tokens) for i in range(n_tokens)]

    # ---------------------------------------------------------------- manifest

    def describe(self) -> dict[str, Any]:
        config = self.model.config
        return {
            "engine": self.name,
            "model": config.name_or_path,
            "revision": getattr(config, "_commit_hash", None),
            "architecture": type(self.model).__name__,
            "parameters": self.model.num_parameters(),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "forward": "lean" if self._lean else "transformers",
            "attention": getattr(config, "_attn_implementation", None),
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "named_tokens": self.named_tokens,
            "max_tokens": self.max_tokens,
            "batching": f"one by one: {self._why_alone}" if self._why_alone else "padded",
            "rollback": "crop" if self._rolls_back else "feed again from the start",
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference, relative to the largest value; entries masked with -inf do not count."""
    finite = one.isfinite()
    return float((one[finite] - other[finite]).abs().max() / one[finite].abs().max())


def _height(layer: Any) -> int:
    return int(layer.weight.shape[0])
