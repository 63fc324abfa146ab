"""The whole row, 4 bytes a probability: V x 4 bytes, as DSD (Zhao 2024) and DSSD (Ning 2025) bill it."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from transport.codecs import CodecError, Row
from transport.messages import Encoded


class DenseFp32:
    lossless: ClassVar[bool] = True

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def encode(self, row: Row) -> Encoded:
        return Encoded(np.ascontiguousarray(row, dtype="<f4").tobytes())

    def decode(self, encoded: Encoded) -> Row:
        if encoded.nbytes != 4 * self.vocab_size:
            raise CodecError(f"dense_fp32 row of {encoded.nbytes} bytes, expected {4 * self.vocab_size}")
        row = np.frombuffer(encoded.data, dtype="<f4")
        if not (row.min() >= 0 and abs(float(row.sum(dtype=np.float64)) - 1) < 1e-3):  # NaN fails both
            raise CodecError("dense_fp32 row is not a distribution")
        return row


CODEC = DenseFp32
