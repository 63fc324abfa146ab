"""Any transformers causal language model, KV-cached, sessions of different lengths in one forward.

Knows torch; does not know what the tokens are for. With `hf_cache` and `hf_dists` the only importer of torch
here."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from nodes.engine import Dists, EngineError, Tokenizer
from nodes.engine.checks import check_batch
from nodes.engine.hf_cache import can_roll_back, lend, new_cache, roll_back, take_back
from nodes.engine.hf_dists import TorchDists
from nodes.sampling import Sampling
from nodes.session import Session

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHORT_FEED = 16  # sessions that feed fewer than twice this many tokens share one forward


class HfTokenizer:
    """Text to ids and back, with nothing added: a prompt's tokens are its text's."""

    def __init__(self, inner: PreTrainedTokenizerBase) -> None:
        self.inner = inner

    def encode(self, text: str) -> list[int]:
        return self.inner.encode(text, add_special_tokens=False)

    def decode(self, tokens: Sequence[int]) -> str:
        return str(
            self.inner.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )


class HfEngine:
    """`vocab_size` is the width of the model's head, which may exceed the tokenizer's (Qwen pads it); the
    padding entries have probability zero in every row.

    One engine is used by one thread at a time. `threads` is torch's setting for the whole process.
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
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.name = name
        self.device = torch.device(_device(device))
        inner, self.model = _load(str(model), str(tokenizer or model), DTYPES[dtype], self.device)
        self.tokenizer: Tokenizer = HfTokenizer(inner)
        vocabulary = inner.get_vocab()
        self.vocab_size = _height(self.model.get_output_embeddings())
        self.vocab_hash = _vocab_hash(vocabulary)
        self.eos_tokens = _eos_tokens(self.model, inner)
        config = self.model.config.get_text_config(decoder=True)
        self.max_tokens = int(getattr(config, "max_position_embeddings", None) or 1 << 20)
        self._n_named = min(self.vocab_size, max(vocabulary.values()) + 1)  # the ids beyond are padding
        self._n_ids = _height(self.model.get_input_embeddings())

        accepts = inspect.signature(self.model.forward).parameters
        if "past_key_values" not in accepts:
            raise EngineError(
                f"{name}: {type(self.model).__name__} keeps no KV cache; use an attention model"
            )
        self._picks_rows = "logits_to_keep" in accepts
        self._rolls_back = can_roll_back(self.model)
        self._why_alone = (
            self._check_batching() if self._rolls_back else "its recurrent state cannot be padded"
        )

    # ---------------------------------------------------------------- feeding

    def forward(self, sessions: Sequence[Session], rows: Sequence[int]) -> list[Dists]:
        """See `Engine`. Sessions whose new tokens number alike (up to 31, to 63, to 127, ...) share a
        forward, so that padding at most doubles the work a long prompt brings."""
        for session in sessions:
            self._roll_back(session)
        check_batch(sessions, rows, self._n_ids, self.max_tokens)
        groups: dict[int, list[int]] = defaultdict(list)
        for i, session in enumerate(sessions):
            n_new = len(session.tokens) - session.fed
            groups[0 if n_new == 0 else max(n_new, SHORT_FEED).bit_length()].append(i)
        logits: dict[int, torch.Tensor] = {i: torch.empty(0, self.vocab_size) for i in groups.pop(0, [])}
        try:
            with torch.inference_mode():
                for members in groups.values():
                    chosen = [sessions[i] for i in members]
                    logits.update(zip(members, self._feed(chosen, [rows[i] for i in members])))
                if self.device.type == "cuda":
                    # otherwise the time would be booked on whoever reads a row
                    torch.cuda.synchronize(self.device)
        except BaseException:
            for session in sessions:  # some layers may hold the new tokens and others not
                self.release(session)
            raise
        return [TorchDists(logits[i], session.sampling) for i, session in enumerate(sessions)]

    def release(self, session: Session) -> None:
        session.cache, session.fed = None, 0

    def _roll_back(self, session: Session) -> None:
        if session.cache is None:
            session.fed = 0
        elif self._rolls_back:
            roll_back(session.cache, session.fed)
        elif session.cache[1] != session.fed:
            self.release(session)

    def _feed(self, sessions: list[Session], rows: list[int]) -> list[torch.Tensor]:
        """Logits [rows[i], V] of each session."""
        if len(sessions) == 1 or self._why_alone:
            logits = [self._feed_one(session, n_rows) for session, n_rows in zip(sessions, rows)]
        else:
            logits = self._feed_batch(sessions, rows)
        for session in sessions:
            session.fed = len(session.tokens)
        for part in logits:
            part[:, self._n_named :] = -torch.inf
        return logits

    def _feed_one(self, session: Session, n_rows: int) -> torch.Tensor:
        """The fast path: no padding, no mask, no copy of the cache."""
        ids = torch.tensor([session.tokens[session.fed :]], device=self.device)
        if self._rolls_back:
            session.cache = session.cache or new_cache()
            return self._logits(ids, n_rows, past_key_values=session.cache)[0]
        # such a model knows best which cache it wants; beside it, how many tokens it has seen
        past = session.cache[0] if session.cache else None
        outputs = self.model(input_ids=ids, past_key_values=past, use_cache=True)
        session.cache = (outputs.past_key_values, len(session.tokens))
        return outputs.logits[0, ids.shape[1] - n_rows :]

    def _feed_batch(self, sessions: list[Session], rows: list[int]) -> list[torch.Tensor]:
        """Pasts padded on the left, new tokens on the right: a padding query then always sees something real,
        and no softmax runs over nothing."""
        for session in sessions:
            session.cache = session.cache or new_cache()
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
        logits = self._logits(
            ids.to(self.device),
            torch.tensor(columns, dtype=torch.long, device=self.device),
            past_key_values=batched,
            attention_mask=mask.to(self.device),
            position_ids=positions.to(self.device),
        )
        take_back(batched, caches, past, n_news)
        starts = [columns.index(n_new - n_rows) if n_rows else 0 for n_new, n_rows in zip(n_news, rows)]
        return [logits[i, start : start + n_rows] for i, (start, n_rows) in enumerate(zip(starts, rows))]

    def _logits(self, ids: torch.Tensor, columns: int | torch.Tensor, **inputs: Any) -> torch.Tensor:
        """[B, columns, V]: the last `columns`, or those listed. The head is as wide as the vocabulary, and
        most of a prompt's rows are nobody's business."""
        if self._picks_rows:  # zero would mean all of them
            inputs["logits_to_keep"] = columns if isinstance(columns, torch.Tensor) else max(columns, 1)
        logits = self.model(input_ids=ids, use_cache=True, **inputs).logits
        if isinstance(columns, int):
            return logits[:, logits.shape[1] - columns :]
        return logits if self._picks_rows else logits[:, columns]

    def _check_batching(self) -> str:
        """Why this model cannot run a padded batch; empty if it can. Found out by comparing a small batch, in
        two steps, with the same sessions alone; serves as warm-up too."""
        n_ids = min(self._n_ids, self._n_named)
        texts = [[(7 * i + 3 * j) % n_ids for j in range(n)] for i, n in enumerate((3, 9, 5))]
        alone, together = ([Session(Sampling(), text[:1]) for text in texts] for _ in range(2))
        tolerance = 1e-3 if self.model.dtype == torch.float32 else 5e-2
        try:
            with torch.inference_mode():
                for share in (2, 1):
                    for session, text in zip([*alone, *together], texts * 2):
                        session.tokens = text[: -(-len(text) // share)]
                    singles = torch.cat([self._feed_one(session, 1) for session in alone])
                    batch = torch.cat(self._feed_batch(together, [1] * len(texts)))
                    for session in (*alone, *together):
                        session.fed = len(session.tokens)
                    difference = float((singles - batch).abs().max() / singles.abs().max())
                    if not difference < tolerance:
                        return f"a padded batch is off by {difference:.1e} of the largest logit"
        except (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError) as error:
            return f"a padded batch fails with {type(error).__name__}: {error}"
        return ""

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
            "attention": getattr(config, "_attn_implementation", None),
            "vocab_size": self.vocab_size,
            "named_tokens": self._n_named,
            "max_tokens": self.max_tokens,
            "batching": f"one by one: {self._why_alone}" if self._why_alone else "padded",
            "rollback": "crop" if self._rolls_back else "feed again from the start",
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }


def _device(wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise EngineError(
            f"device {wanted}: this torch ({torch.__version__}) sees no CUDA device; use device: cpu"
        )
    return wanted


def _height(layer: Any) -> int:
    return int(layer.weight.shape[0])


def _load(
    model: str, tokenizer: str, dtype: torch.dtype, device: torch.device
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    progress_shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        inner = AutoTokenizer.from_pretrained(tokenizer)
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    except (OSError, ValueError, KeyError, ImportError) as error:
        offline = os.environ.get("HF_HUB_OFFLINE", "0").lower() in {"1", "true", "yes", "on"}
        raise EngineError(
            f"cannot load model '{model}': {str(error).strip().splitlines()[0]}\n"
            f"  remedy: fetch it once with `hf download {model}`"
            + (", without HF_HUB_OFFLINE=1, which is set here," if offline else "")
            + " or name a folder that save_pretrained() wrote, as hf:/path/to/folder"
        ) from error
    finally:
        if progress_shown:
            transformers.utils.logging.enable_progress_bar()
    return inner, loaded.eval().requires_grad_(False).to(device)


def _eos_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    declared = getattr(model.generation_config, "eos_token_id", None)
    if declared is None:
        declared = (
            model.config.eos_token_id if model.config.eos_token_id is not None else tokenizer.eos_token_id
        )
    if declared is None:
        return frozenset()
    return frozenset([declared] if isinstance(declared, int) else declared)


def _vocab_hash(vocabulary: dict[str, int]) -> str:
    """sha256 over the (token, id) pairs in order of id: the same tokenizer gives the same hash on any
    node."""
    digest = hashlib.sha256()
    for token, number in sorted(vocabulary.items(), key=lambda item: (item[1], item[0])):
        digest.update(f"{number}\t{token}\n".encode(errors="surrogatepass"))
    return digest.hexdigest()
