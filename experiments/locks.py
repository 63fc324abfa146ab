"""One process at a time: locks that the kernel lets go of with their holder, by SIGKILL too. Nothing waits here."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.store import StoreError


@contextmanager
def open_lock(path: Path) -> Iterator[int]:
    """The file's descriptor, not locked yet; whoever inherits it shares the lock. Raises StoreError."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreError(f"{path} cannot be opened: {error.strerror}") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Raises StoreError where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StoreError(f"this file system has no locks ({error.strerror}): keep results on a local disk") from None
    return True


def lock_holder(path: Path) -> int | None:
    """Who holds a lock on the file, as the kernel tells; None: nobody on this machine; 0: a process in a place whose
    processes this one cannot see. Asking disturbs nobody, which trying to lock it would."""
    try:
        inode = path.stat().st_ino
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for fields in (line.split() for line in lines):
        if "FLOCK" in fields and "->" not in fields and fields[-3].endswith(f":{inode}"):
            return int(fields[-4])
    return None
