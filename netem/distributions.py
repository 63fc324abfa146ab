"""The law of a declared jitter, as netem draws it: uniform by itself, else from the table that tc hands to the kernel.

A table is the inverse of a distribution function: netem picks an entry at random, and 8192 is one `jitter_ms`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from netem.spec import DirectionSpec

ONE = 8192
FURTHEST = 32767 / ONE  # jitters away from the middle: a table's entries have 16 bits
FOLDERS = ("/usr/lib/tc", "/lib/tc", "/usr/share/tc", "/usr/lib64/tc")  # besides Debian's /usr/lib/<machine>/tc


def delay_quantile_ms(side: DirectionSpec, share: float) -> float | None:
    """The delay that this share of packets stays below; None where the table of its distribution is not found."""
    if not side.jitter_ms:
        return side.delay_ms
    if side.distribution == "uniform":
        return side.delay_ms + side.jitter_ms * (2 * share - 1)
    table = _table(side.distribution)
    if table is None:
        return None
    entry = table[min(len(table) - 1, int(share * len(table)))]
    return max(0.0, side.delay_ms + side.jitter_ms * entry / ONE)


def furthest_ms(side: DirectionSpec) -> float:
    """That no packet's jitter is beyond, whichever way the dice fall."""
    return side.jitter_ms * (1.0 if side.distribution == "uniform" else FURTHEST)


def middle_half_ms(side: DirectionSpec) -> float | None:
    """How wide the middle half of the delays is: what of a jitter a few late packets do not change."""
    low, high = delay_quantile_ms(side, 0.25), delay_quantile_ms(side, 0.75)
    return None if low is None or high is None else high - low


@cache
def _table(name: str) -> list[int] | None:
    folders = [*sorted(Path("/usr/lib").glob("*/tc")), *map(Path, FOLDERS)]
    for path in (folder / f"{name}.dist" for folder in folders):
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            return sorted(int(word) for line in lines if not line.lstrip().startswith("#") for word in line.split())
    return None
