"""How long something has been computing, in one word of memory that another process may read while it goes on."""

from __future__ import annotations

import mmap
import os
import time

WORD_BYTES = 8


class BusyTime:
    """Written by one thread, read by anybody who maps the same `fd`; without `fd` a new one is made.

    The word is the nanoseconds computed so far while nothing is computed; while something is, it is those minus the
    instant it began, which is negative, as the monotonic clock counts from before this process was. One aligned word is
    never seen half written.
    """

    def __init__(self, fd: int | None = None) -> None:
        if fd is None:
            fd = os.memfd_create("busy")
            os.ftruncate(fd, WORD_BYTES)
        self.fd = fd
        self._word = memoryview(mmap.mmap(fd, WORD_BYTES)).cast("q")

    def begin(self) -> None:
        self._word[0] -= time.monotonic_ns()

    def end(self) -> None:
        self._word[0] += time.monotonic_ns()

    def seconds(self) -> float:
        """So far, what is being computed included."""
        word = self._word[0]
        return (word if word >= 0 else word + time.monotonic_ns()) / 1e9
