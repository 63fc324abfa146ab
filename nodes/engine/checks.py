"""What every engine refuses before it feeds anything. Tokens may come off a wire: on an accelerator an
unknown id would kill the process in the embedding, and with it every other session of the batch."""

from __future__ import annotations

from collections.abc import Sequence

from nodes.engine import SessionRefused
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
