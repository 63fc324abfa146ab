"""The Python standard library as training text: its files, which are held out, windows of their tokens."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 0
TEST_FOLDERS = {"test", "tests", "idle_test"}
# Not part of the library as written: installed packages, and generated tables or prose in string literals.
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "encodings", "pydoc_data", "__pycache__"}


@dataclass(frozen=True)
class SourceFile:
    """One file of the standard library; `name` is its path relative to the library's folder."""

    name: str
    text: str

    @property
    def is_test(self) -> bool:
        return not TEST_FOLDERS.isdisjoint(self.name.split("/"))

    @property
    def is_held_out(self) -> bool:
        """True for about 5 % of the files, by a hash of the name: the same ones everywhere."""
        return hashlib.sha256(self.name.encode()).digest()[0] % 20 == 0

    @property
    def n_bytes(self) -> int:
        return len(self.text.encode())


def standard_library() -> list[SourceFile]:
    """Every non-empty .py file of the running interpreter's standard library that is valid UTF-8, by name."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if not SKIPPED_FOLDERS.isdisjoint(name.split("/")):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a few test files are deliberately in other encodings
        if text.strip():
            files.append(SourceFile(name, text))
    return files


@dataclass(frozen=True)
class Split:
    """The files by use: the library to train on, its tests, and the held-out part of the library."""

    library: list[SourceFile]
    tests: list[SourceFile]
    held_out: list[SourceFile]


def split(files: list[SourceFile]) -> Split:
    kept = [file for file in files if not file.is_held_out]
    return Split(
        library=[file for file in kept if not file.is_test],
        tests=[file for file in kept if file.is_test],
        held_out=[file for file in files if file.is_held_out and not file.is_test],
    )


def token_stream(tokenizer, files: list[SourceFile]) -> NDArray[np.int64]:
    """Tokens [N] of all files in a row, each preceded and followed by the end-of-text token.

    `tokenizer` is a `tokenizers.Tokenizer`.
    """
    pieces: list[list[int]] = [[END_OF_TEXT_ID]]
    for encoding in tokenizer.encode_batch([file.text for file in files]):
        pieces += [encoding.ids, [END_OF_TEXT_ID]]
    return np.concatenate([np.asarray(piece, dtype=np.int64) for piece in pieces])


def windows(
    library: NDArray[np.int64],
    tests: NDArray[np.int64],
    *,
    n_batch: int,
    n_tokens: int,
    test_share: float,
    seed: int,
) -> Iterator[NDArray[np.int64]]:
    """Endless batches [n_batch, n_tokens + 1] of random windows, a `test_share` of them from the tests."""
    rng = np.random.default_rng(seed)
    while True:
        rows = []
        for from_tests in rng.random(n_batch) < test_share:
            stream = tests if from_tests else library
            start = rng.integers(len(stream) - n_tokens)
            rows.append(stream[start : start + n_tokens + 1])
        yield np.stack(rows)
