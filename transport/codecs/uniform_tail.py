"""The most probable tokens as they are, the rest of the mass spread evenly over the other tokens: k x (id + 4) bytes.

k is the smallest that leaves at most `tolerance` of the mass to the tail, so that the decoded row is within `tolerance`
of the original in total variation, and at most what a dense row would take. The row format of CU-HLM (arXiv
2505.11788), with 4 bytes a probability where they charge 1. Not lossless; of equals the lowest ids are kept.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from transport.codecs import CodecError, Row
from transport.codecs.sparse import id_bytes, read_ids, write_ids
from transport.codecs.topk import largest
from transport.messages import Encoded


class UniformTail:
    lossless: ClassVar[bool] = False
    named_tokens: int

    def __init__(self, vocab_size: int, tolerance: float = 0.1) -> None:
        if not 0 < tolerance < 1:
            raise CodecError(f"uniform_tail: tolerance is a share of the mass, above 0 and below 1, not {tolerance!r}")
        self.vocab_size, self.tolerance = vocab_size, tolerance
        self.entry_bytes = id_bytes(vocab_size) + 4
        self.most = max(1, 4 * vocab_size // self.entry_bytes)

    def encode(self, row: Row) -> Encoded:
        ids = np.flatnonzero(row != 0)
        values = row[ids]
        heights = np.cumsum(np.sort(values)[::-1], dtype=np.float64)
        k = int(np.searchsorted(heights, 1 - self.tolerance)) + 1
        if k < ids.size or self.most < ids.size:
            kept = largest(values, min(k, self.most))
            ids, values = ids[kept], values[kept]
        return Encoded(write_ids(ids, id_bytes(self.vocab_size)) + values.astype("<f4").tobytes())

    def decode(self, encoded: Encoded) -> Row:
        count, rest = divmod(encoded.nbytes, self.entry_bytes)
        if rest or not 0 < count <= self.named_tokens:
            raise CodecError(f"uniform_tail row of {encoded.nbytes} bytes: cannot be one")
        data = memoryview(encoded.data)
        ids = read_ids(data, count, self.vocab_size)
        values = np.frombuffer(data, "<f4", offset=count * id_bytes(self.vocab_size))
        if not (values.min() > 0 and values.max() < 1.001):  # NaN fails both
            raise CodecError("uniform_tail row is not a distribution")
        tail = 1 - float(values.sum(dtype=np.float64))
        if tail <= -1e-3 or (count == self.named_tokens and tail >= 1e-3):
            raise CodecError("uniform_tail row is not a distribution")
        others = max(1, self.named_tokens - count)
        if tail / others > values.min() * (1 + 1e-3):
            raise CodecError("uniform_tail row: its tail is more probable than what was kept")
        row = np.zeros(self.vocab_size, np.float32)
        row[: self.named_tokens] = min(max(0.0, tail / others), float(values.min()))
        row[ids] = values
        return row


CODEC = UniformTail
