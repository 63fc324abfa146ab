"""The toy engine's head: a stand-in that nobody trained, over a stand-in for hidden states."""

from __future__ import annotations

from datetime import date

import numpy as np

from nodes.engine.toy import HIDDEN_SIZE
from nodes.heads import Card, Floats, Head, Model


def toy_head() -> Head:
    """Its answers are arbitrary but fixed: about half of all tokens are acceptable, more of them on a slow link."""
    model = Model("toy", "any", HIDDEN_SIZE)
    card = Card(model, model, "none: arbitrary weights, for tests", {}, {}, date(2026, 11, 21), "toy")
    some = np.random.Generator(np.random.Philox(0))
    inner = some.standard_normal((16, 2 * HIDDEN_SIZE + 2), dtype=np.float32)
    inner[:, -2:] = [2, -2]  # a longer round trip, a lower rate
    weights: dict[str, Floats] = {
        "inner": inner,
        "inner_bias": np.zeros(16, dtype=np.float32),
        "outer": some.standard_normal(16, dtype=np.float32) + np.float32(0.3),
        "outer_bias": np.array(-5, dtype=np.float32),
    }
    return Head(card, weights)
