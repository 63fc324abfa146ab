"""Who waits for whom. A schedule drives one request through its rounds on the device; it owns time, and only time:
with one pair of seeds every schedule settles the same tokens.

The file is the registration: `nodes/schedules/X.py` holds `run(talk)`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable


def schedule_names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load_schedule(name: str) -> Callable:
    """`run(talk: nodes.conversation.Conversation) -> None`. Raises ValueError listing the schedules there are."""
    if name not in schedule_names():
        raise ValueError(f"unknown schedule {name!r}; there are: {', '.join(schedule_names())}")
    return importlib.import_module(f"{__name__}.{name}").run
