"""`tc` or `ip` as a process that stays: it takes commands line by line and is not started anew for each.

A change of a live link has to be done in milliseconds. Starting `tc` in a user-mode Linux guest takes 90 ms, most of
it for a fork and a page fault at a time; a line to a `tc -batch` that is up already takes 0.6.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Sequence

from netem.errors import CommandError

TOOLS = ("tc", "ip")
OPTIONS = ("-j", "-s")  # of `show`, said once when the tool starts
START = {tool: [tool, *OPTIONS, "-force", "-batch", "-"] for tool in TOOLS}
FAILED = "Command failed "
ALIVE_EVERY_S = 0.2


class Batch:
    """One such process behind two descriptors, its errors and answers on the same terminal. Safe to share.

    The end of an answer is told by a command that no tool knows: both say so at once, on a line of its own.
    """

    def __init__(self, tool: str, write_fd: int, read_fd: int, alive: Callable[[], bool]) -> None:
        self._tool, self._write_fd, self._read_fd, self._alive = tool, write_fd, read_fd, alive
        self._lock = threading.Lock()
        self._asked = 0
        self._unread = b""

    @staticmethod
    def takes(argv: Sequence[str]) -> bool:
        """Whether the command can be given to a Batch: `tc` or `ip` with the options it was started with, or none."""
        words = tuple(argv[1:])
        return argv[0] in TOOLS and (words[: len(OPTIONS)] == OPTIONS or not words[0].startswith("-"))

    def run(self, argvs: Sequence[Sequence[str]], timeout_s: float) -> str:
        """What the commands printed. Raises CommandError when one fails (the rest is run) or nothing answers."""
        argv = [word for command in argvs for word in command]
        lines = [" ".join(command[1:]).removeprefix(" ".join(OPTIONS)) for command in argvs]
        with self._lock:
            self._asked += 1
            marker = f'Object "=end{self._asked}" is unknown'
            try:
                os.write(self._write_fd, "\n".join([*lines, f"=end{self._asked}\n"]).encode())
            except OSError:
                raise CommandError(
                    argv, f"the user-mode Linux router is gone, and {self._tool} with it", "router"
                ) from None
            said = self._read_to(marker, timeout_s)
        if said is None:
            raise CommandError(argv, f"no answer from {self._tool} on the user-mode Linux router", "router")
        output, failed, _ = said.partition(FAILED)
        if failed:
            raise CommandError(argv, output, "router")
        return output

    def _read_to(self, marker: str, timeout_s: float) -> str | None:
        """What came before the marker and the two lines it makes; None on timeout or death."""
        deadline_s = time.monotonic() + timeout_s
        wanted = marker.encode()
        while True:
            start = self._unread.find(wanted)
            if start >= 0 and self._unread.count(b"\n", start) >= 2:
                before, rest = self._unread[:start], self._unread[start:]
                self._unread = rest.split(b"\n", 2)[2]
                return before.decode(errors="replace").replace("\r", "")
            if time.monotonic() > deadline_s:
                return None
            if not select.select([self._read_fd], [], [], ALIVE_EVERY_S)[0]:
                if not self._alive():
                    return None
                continue
            chunk = os.read(self._read_fd, 65536)
            if not chunk:
                return None
            self._unread += chunk
