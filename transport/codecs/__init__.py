"""How a distribution is written. One codec a file; the file's name is the codec's name in YAML.

The rule every codec serves: encode first, then sample. A drafter samples from `decode(encode(row))`, so
whatever is lost in encoding is lost before the draw and the verifier divides by the very numbers that were
sampled from (Zhang et al. 2025, arXiv 2507.00605, state the rule for quantised rows). Encoding a decoded row
again changes nothing. `lossless` says that decode(encode(row)) equals the row, float32 for float32. A codec's
options are the keyword arguments of its constructor.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from transport.messages import Encoded

Row = NDArray[np.float32]  # [V], sums to 1


class CodecError(ValueError):
    """Bytes that this codec cannot have written, or options it does not have."""


class Codec(Protocol):
    lossless: ClassVar[bool]
    vocab_size: int
    named_tokens: int  # `make_codec` says it: ids from there on pad a row, and `decode` gives them no probability

    def encode(self, row: Row) -> Encoded: ...

    def decode(self, encoded: Encoded) -> Row:
        """[V] float32 row; raises CodecError on what `encode` cannot have written (sizes, NaN, negatives)."""
        ...


def codec_names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def make_codec(name: str, vocab_size: int, named_tokens: int | None = None, /, **options: Any) -> Codec:
    """The codec of that file name; `named_tokens` None: no id is padding. Raises CodecError naming the codecs that
    exist, or the wrong option."""
    if name not in codec_names():
        raise CodecError(f"unknown codec {name!r}; there are: {', '.join(codec_names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    try:
        codec: Codec = module.CODEC(vocab_size, **options)
    except TypeError as error:
        raise CodecError(f"codec {name}: {error}") from error
    codec.named_tokens = vocab_size if named_tokens is None else named_tokens
    return codec
