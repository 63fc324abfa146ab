"""Probabilities rounded to multiples of 1 / resolution that sum to 1 exactly: n x (id + count) bytes for the n tokens
that are left, with ids of 2, 3 or 4 bytes as V needs and counts of 1 byte (2 above a resolution of 255).

The quantise-then-sample of Zhang et al. 2025 (QSV, arXiv 2507.00605; their l = our resolution) and, with `k` tokens
kept beforehand, the sparse one of arXiv 2510.09942 (K-SQS, their K = our k). Rounding is by largest remainder,
deterministic, of equals the lowest ids: the nearest lattice point in total variation. At most `resolution` tokens are
left, so a row never takes more than that many entries (300 bytes at 100 and V up to 65,536). Their size is the bits
that number the lattice's points; ours is what a plain list takes.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from transport.codecs import CodecError, Row
from transport.codecs.sparse import id_bytes, read_ids, write_ids
from transport.codecs.topk import largest
from transport.messages import Encoded


class Lattice:
    lossless: ClassVar[bool] = False

    def __init__(self, vocab_size: int, resolution: int = 100, k: int = 0) -> None:
        if not isinstance(resolution, int) or not 1 <= resolution < 1 << 16:
            raise CodecError(f"lattice: resolution is a whole number, 1 to 65535, not {resolution!r}")
        if not isinstance(k, int) or k < 0:
            raise CodecError(f"lattice: k is a whole number of tokens, 0 for all, not {k!r}")
        self.vocab_size, self.resolution, self.k = vocab_size, resolution, k
        self.count_type = "u1" if resolution < 1 << 8 else "<u2"
        self.entry_bytes = id_bytes(vocab_size) + np.dtype(self.count_type).itemsize

    def encode(self, row: Row) -> Encoded:
        ids = np.flatnonzero(row != 0)
        values = row[ids].astype(np.float64)
        if 0 < self.k < ids.size:
            kept = largest(values, self.k)
            ids, values = ids[kept], values[kept]
        scaled = values * (self.resolution / values.sum())
        counts = np.floor(scaled).astype(np.int64)
        missing = self.resolution - int(counts.sum())
        if missing > 0:
            counts[largest(scaled - counts, missing)] += 1
        left = np.flatnonzero(counts)
        columns = write_ids(ids[left], id_bytes(self.vocab_size))
        return Encoded(columns + counts[left].astype(self.count_type).tobytes())

    def decode(self, encoded: Encoded) -> Row:
        count, rest = divmod(encoded.nbytes, self.entry_bytes)
        if rest or not 0 < count <= min(self.vocab_size, self.resolution, self.k or self.vocab_size):
            raise CodecError(f"lattice row of {encoded.nbytes} bytes: cannot be one")
        data = memoryview(encoded.data)
        ids = read_ids(data, count, self.vocab_size)
        counts = np.frombuffer(data, self.count_type, offset=count * id_bytes(self.vocab_size)).astype(np.int64)
        if counts.min() == 0 or counts.sum() != self.resolution:
            raise CodecError(f"lattice row: counts must be positive and sum to {self.resolution}")
        row = np.zeros(self.vocab_size, np.float32)
        row[ids] = counts / self.resolution
        return row


CODEC = Lattice
