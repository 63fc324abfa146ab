"""Exactly the nonzero entries: 1 byte, then n token ids of 2, 3 or 4 bytes (as V needs), then n float32.

A one-hot row takes 1 + 3 + 4 bytes at V = 151,936; after top-k 20 sampling a row takes 141. A row that would
be longer this way is written dense, marked by the first byte.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from transport.codecs import CodecError, Row
from transport.codecs.dense_fp32 import DenseFp32
from transport.messages import Encoded

DENSE, SPARSE = b"\0", b"\1"


class Sparse:
    lossless: ClassVar[bool] = True

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.id_bytes = id_bytes(vocab_size)
        self.entry_bytes = self.id_bytes + 4
        self._dense = DenseFp32(vocab_size)

    def encode(self, row: Row) -> Encoded:
        nonzero = row != 0  # comparing first makes the search ten times as fast as on floats
        if np.count_nonzero(nonzero) * self.entry_bytes >= 4 * self.vocab_size:
            return Encoded(DENSE + row.astype("<f4", copy=False).tobytes())
        ids = np.flatnonzero(nonzero)
        return self.write(ids, row[ids])

    def write(self, ids: NDArray[np.intp], values: Row) -> Encoded:
        if ids.size * self.entry_bytes >= 4 * self.vocab_size:
            row = np.zeros(self.vocab_size, np.float32)
            row[ids] = values
            return Encoded(DENSE + row.astype("<f4").tobytes())
        return Encoded(SPARSE + write_ids(ids, self.id_bytes) + values.astype("<f4").tobytes())

    def decode(self, encoded: Encoded) -> Row:
        marker, data = bytes(encoded.data[:1]), memoryview(encoded.data)[1:]
        if marker == DENSE:
            return self._dense.decode(Encoded(data))
        count, rest = divmod(len(data), self.entry_bytes)
        if marker != SPARSE or rest or not 0 < count <= self.vocab_size:
            raise CodecError(f"sparse row of {encoded.nbytes} bytes, marker {marker!r}: cannot be one")
        ids = read_ids(data, count, self.vocab_size)
        values = np.frombuffer(data, "<f4", offset=count * self.id_bytes)
        if not (values.min() > 0 and abs(float(values.sum(dtype=np.float64)) - 1) < 1e-3):  # NaN fails both
            raise CodecError("sparse row is not a distribution")
        row = np.zeros(self.vocab_size, np.float32)
        row[ids] = values
        return row


def id_bytes(vocab_size: int) -> int:
    return 2 if vocab_size <= 1 << 16 else 3 if vocab_size <= 1 << 24 else 4


def write_ids(ids: NDArray[np.intp], width: int) -> bytes:
    return ids.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :width].tobytes()


def read_ids(data: memoryview, count: int, vocab_size: int) -> NDArray[np.int64]:
    """The first `count` > 0 ids of `data`. Raises CodecError unless they increase and are tokens."""
    width = id_bytes(vocab_size)
    columns = np.zeros((count, 4), np.uint8)
    columns[:, :width] = np.frombuffer(data, np.uint8, count * width).reshape(count, -1)
    ids = columns.view("<u4").ravel().astype(np.int64)
    if ids[-1] >= vocab_size or not (np.diff(ids) > 0).all():
        raise CodecError(f"ids must increase and stay below {vocab_size}")
    return ids


CODEC = Sparse
