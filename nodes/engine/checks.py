"""What every engine refuses before it feeds anything. Tokens may come off a wire: on an accelerator an
unknown id would kill the process in the embedding, and with it every other session of the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nodes.engine import EngineError, SessionRefused
from nodes.session import Session


def check_batch(sessions: Sequence[Session], rows: Sequence[int], n_ids: int, max_tokens: int) -> None:
    """Raises SessionRefused naming the first session that cannot be fed. `n_ids`: token ids go from 0 to
    n_ids - 1."""
    if len(sessions) != len(rows):
        raise ValueError(f"{len(sessions)} sessions but {len(rows)} row counts")
    for session, n_rows in zip(sessions, rows):
        n_tokens = len(session.tokens)
        if n_tokens > max_tokens:
            raise SessionRefused(
                session,
                f"session of {n_tokens} tokens, but the model takes at most {max_tokens}: "
                "shorten the prompt or lower the output limit",
            )
        news = session.tokens[session.fed :]
        if not 0 <= n_rows <= len(news):
            raise SessionRefused(
                session,
                f"{n_rows} rows asked for, but only {len(news)} of {n_tokens} tokens are new to the engine",
            )
        if news and not (min(news) >= 0 and max(news) < n_ids):
            stranger = next(token for token in news if not 0 <= token < n_ids)
            raise SessionRefused(session, f"token {stranger} is not in the vocabulary, which has ids 0 to {n_ids - 1}")


def check_shares(name: str, config: Mapping[str, Any], count: int) -> None:
    """Every process of a tensor-parallel model holds as many attention heads as any other. `config`: the model's, as
    its config.json says it. Raises EngineError."""
    config = config.get("text_config", config)
    heads = int(config.get("num_attention_heads") or 0)
    of_keys = int(config.get("num_key_value_heads") or heads)
    if heads % count or of_keys % count:
        can = ", ".join(str(n) for n in range(1, of_keys + 1) if heads % n == 0 and of_keys % n == 0)
        raise EngineError(
            f"{name}: its {heads} attention heads ({of_keys} of keys and values) cannot be shared out equally among "
            f"{count} processes; tensor_parallel can be {can}"
        )
