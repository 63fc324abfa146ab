"""What a node is, as the other one may check it: which code it runs and which models it was told to load.

Imports nothing but the standard library: a host is asked for it before anything is installed there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SPEAKING = ("nodes", "transport")  # the folders that decide about tokens and frames
PASSED_OVER = {"__pycache__", "bundled"}  # of what speaks: compiled files, and weights, which are no code


def source_hash(folders: Sequence[str] = SPEAKING, passed_over: frozenset[str] | set[str] = PASSED_OVER) -> str:
    """12 hex digits that differ where a file of these folders does, whatever the path, user or Python."""
    digest = hashlib.sha256()
    for path in source_files(folders, passed_over):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(ROOT).as_posix()}\t{content}\n".encode())
    return digest.hexdigest()[:12]


def source_files(folders: Sequence[str], passed_over: frozenset[str] | set[str]) -> Iterator[Path]:
    """In one order on every machine. Hidden files and compiled ones are nobody's source."""
    for folder in sorted(folders):
        for path in sorted((ROOT / folder).rglob("*"), key=lambda path: path.relative_to(ROOT).as_posix()):
            names = path.relative_to(ROOT).parts
            if path.is_file() and not passed_over & set(names) and not any(name.startswith(".") for name in names):
                yield path
