"""The k most probable tokens, renormalised: 1 + k x (id + 4) bytes at most, written as `sparse` writes them.

Not lossless; of equally probable tokens the lowest ids stay. A row that has no more than k nonzero entries is
kept as it is, so encoding a decoded row changes nothing.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from transport.codecs import CodecError, Row
from transport.codecs.sparse import Sparse
from transport.messages import Encoded


class TopK(Sparse):
    lossless: ClassVar[bool] = False

    def __init__(self, vocab_size: int, k: int = 64) -> None:
        super().__init__(vocab_size)
        if not isinstance(k, int) or k < 1:
            raise CodecError(f"topk: k is a whole number of tokens, at least 1, not {k!r}")
        self.k = k

    def encode(self, row: Row) -> Encoded:
        ids = np.flatnonzero(row != 0)
        values = row[ids]
        if ids.size > self.k:
            kept = largest(values, self.k)
            ids, values = ids[kept], values[kept]
            values = (values / values.sum(dtype=np.float64)).astype(np.float32)
        return self.write(ids, values)

    def decode(self, encoded: Encoded) -> Row:
        row = super().decode(encoded)
        if encoded.nbytes > 1 + self.k * self.entry_bytes and np.count_nonzero(row) > self.k:
            raise CodecError(f"topk row of {encoded.nbytes} bytes has more than {self.k} entries")
        return row


def largest(values: NDArray[np.floating], k: int) -> NDArray[np.intp]:
    """Where the k > 0 largest are, in order of place; of equals the first."""
    least = np.partition(values, -k)[-k]  # the k-th largest
    above = np.flatnonzero(values > least)
    ties = np.flatnonzero(values == least)[: k - above.size]
    return np.sort(np.concatenate([above, ties]))


CODEC = TopK
