"""The whole row, 2 bytes a probability: V x 2 bytes. Not lossless, yet encoding a decoded row changes nothing.

Written relative to the row's largest entry: that one becomes exactly 1.0, so a row never vanishes, what underflows is
smaller than 3e-8 of it, and decode's division by the sum is undone exactly by the next encode.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from transport.codecs import CodecError, Row
from transport.messages import Encoded

ONE = 0x3C00  # 1.0 in IEEE half precision; every half in [0, 1] has a bit pattern in [0, ONE]


class DenseFp16:
    lossless: ClassVar[bool] = False

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def encode(self, row: Row) -> Encoded:
        return Encoded((row / row.max()).astype("<f2").tobytes())

    def decode(self, encoded: Encoded) -> Row:
        if encoded.nbytes != 2 * self.vocab_size:
            raise CodecError(f"dense_fp16 row of {encoded.nbytes} bytes, expected {2 * self.vocab_size}")
        if np.frombuffer(encoded.data, dtype="<u2").max() != ONE:  # a NaN, a negative or an infinity is above it
            raise CodecError("dense_fp16 row is not a distribution relative to its largest entry")
        row = np.frombuffer(encoded.data, dtype="<f2").astype(np.float32)
        row /= np.float32(row.sum(dtype=np.float64))
        return row


CODEC = DenseFp16
