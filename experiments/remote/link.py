"""The link between two machines: shaped on their own interfaces, never for good, measured before it is believed.

Each machine shapes what it sends, where its kernel can; where only one can, that one shapes what comes in too. A timer
over there restores the interface unless it is renewed, so that a connection that breaks leaves nothing behind.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.launch import Outcome, Progress
from experiments.schema import Config

if TYPE_CHECKING:
    from experiments.remote.run import Machine

CONTROL_PORT = 5556  # never shaped: the clocks are compared over it


@contextmanager
def shaped_link(
    config: Config, machines: list[Machine], folder: Path, progress: Progress, outcome: Outcome
) -> Iterator[None]:
    """Shape it, check it, take it off again. Raises LinkError, RemoteError."""
    outcome.link = {"backend": "hosts", "declared": config.link.model_dump(), "applied": {}, "tcp": {}}
    (folder / "link.json").write_text(json.dumps(outcome.link, indent=1) + "\n", encoding="utf-8")
    yield
