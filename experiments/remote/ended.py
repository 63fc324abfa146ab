"""Waits until a node has ended, and ends it if it does not: `python -m experiments.remote.ended FOLDER NODE SECONDS`.

Runs on the host of a node whose connection broke. The node wrote its process id beside its records; the folder in its
command line makes sure that it is this one.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def wait(folder: Path, node: str, seconds: float) -> str:
    """`ended`, or `killed`."""
    try:
        pid = int((folder / f"{node}.pid").read_text())
    except (OSError, ValueError):
        return "ended"
    deadline = time.monotonic() + seconds
    while _is_it(pid, folder):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            return "killed"
        time.sleep(0.1)
    return "ended"


def _is_it(pid: int, folder: Path) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return str(folder).encode() in words


if __name__ == "__main__":
    print(wait(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])))
