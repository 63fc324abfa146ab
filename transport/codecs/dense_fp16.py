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
HALF_EVEN = np.int32(0xFFF)  # with the last bit kept, rounds half to even
REBIAS = np.int32((127 - 15) << 23)  # from single's exponent to half's, before the 13 extra bits go


class DenseFp16:
    lossless: ClassVar[bool] = False

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._halves = np.arange(ONE + 1, dtype="<u2").view("<f2").astype(np.float32)  # [bit pattern] its value

    def encode(self, row: Row) -> Encoded:
        # numpy's own conversion branches on every entry: 3 to 15 ms a row of 151,936, where this takes 0.3
        scaled = row / row.max()
        normal = np.maximum(scaled, SMALLEST_NORMAL).view(np.int32)
        normal += ((normal >> 13) & 1) + HALF_EVEN - REBIAS
        normal >>= 13
        scaled *= np.float32(2**24)
        subnormal = np.rint(scaled, out=scaled).astype(np.int32)  # right below 2**-14, too large above
        return Encoded(np.minimum(normal, subnormal).astype("<u2").tobytes())

    def decode(self, encoded: Encoded) -> Row:
        if encoded.nbytes != 2 * self.vocab_size:
            raise CodecError(f"dense_fp16 row of {encoded.nbytes} bytes, expected {2 * self.vocab_size}")
        bits = np.frombuffer(encoded.data, dtype="<u2")
        if bits.max() != ONE:
            raise CodecError("dense_fp16 row is not a distribution relative to its largest entry")
        row = self._halves.take(bits)
        row /= np.float32(row.sum(dtype=np.float64))
        return row


CODEC = DenseFp16
