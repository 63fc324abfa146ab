"""The whole row, 2 bytes a probability: V x 2 bytes. Not lossless; encoding a decoded row changes nothing.

Written relative to the row's largest entry: that one becomes exactly 1.0, so no row vanishes, what underflows
is smaller than 3e-8 of it, and decode's division by the sum is undone by the next encode. Halves are
multiples of 2**-24, so their float64 sum is exact in any order: both ends renormalise by the same number.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from transport.codecs import CodecError, Row
from transport.messages import Encoded

ONE = 0x3C00  # 1.0 in half precision; the bit patterns of negatives, infinities and NaN are above it
SMALLEST_NORMAL = np.float32(2**-14)
ROUNDER = np.float32(0.75)  # adding and subtracting it rounds to multiples of 2**-24, as subnormal halves are


class DenseFp16:
    lossless: ClassVar[bool] = False

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def encode(self, row: Row) -> Encoded:
        scaled = row / row.max()
        # numpy raises a flag for every subnormal it rounds (10 ms a row): round those beforehand, all at once
        rounded = np.where(scaled < SMALLEST_NORMAL, (scaled + ROUNDER) - ROUNDER, scaled)
        return Encoded(rounded.astype("<f2").tobytes())

    def decode(self, encoded: Encoded) -> Row:
        if encoded.nbytes != 2 * self.vocab_size:
            raise CodecError(f"dense_fp16 row of {encoded.nbytes} bytes, expected {2 * self.vocab_size}")
        if np.frombuffer(encoded.data, dtype="<u2").max() != ONE:
            raise CodecError("dense_fp16 row is not a distribution relative to its largest entry")
        row = np.frombuffer(encoded.data, dtype="<f2").astype(np.float32)
        row /= np.float32(row.sum(dtype=np.float64))
        return row


CODEC = DenseFp16
