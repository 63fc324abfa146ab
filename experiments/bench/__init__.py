"""What the project promises, measured: each part holds what we do beside what it has to reach, in one run.

    records = run_bench(["speed", "bytes"])     # [] runs every part

A file a part; each has `measure(...)`, whose parameters make it shorter, and answers with records (see records.py).
"""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

PARTS = ("work", "bytes", "overhead", "link", "energy", "report", "deploy", "resume", "speed")


class BenchError(ValueError):
    """No such part; the message lists the parts there are."""


def run_bench(only: list[str]) -> list[dict[str, Any]]:
    """Records {name, value, bound, unit, ok, note} of the parts in `only`, or of all. Progress goes to stderr."""
    for name in only:
        if name not in PARTS:
            raise BenchError(f"bench has no part {name!r}; there are: {', '.join(PARTS)}")
    records: list[dict[str, Any]] = []
    for part in PARTS:
        if only and part not in only:
            continue
        began_s = time.monotonic()
        print(f"bench: {part} ...", end=" ", file=sys.stderr, flush=True)
        records += importlib.import_module(f"{__name__}.{part}").measure()
        print(f"{time.monotonic() - began_s:.0f} s", file=sys.stderr, flush=True)
    return records
