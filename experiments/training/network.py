"""A network of one hidden layer, fitted in numpy: small enough that nothing larger is called for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HIDDEN = 32
EPOCHS, BATCH, RATE, DECAY = 6, 256, 2e-3, 0.3


def fit_network(
    rows: NDArray[np.float32], labels: NDArray[np.float64], rng: np.random.Generator
) -> dict[str, NDArray[np.float32]]:
    """Weights as `nodes.heads.Head` has them, by Adam with decoupled decay on the cross entropy; rows [N, inputs],
    labels [N] 0 or 1. Rows are brought to unit scale for the fit, and the weights taken back from it."""
    means, scales = rows.mean(0), np.maximum(rows.std(0), 1e-6)
    rows = (rows - means) / scales
    n, width = rows.shape
    share = min(max(labels.mean(), 1e-3), 1 - 1e-3)
    weights = [
        rng.standard_normal((HIDDEN, width)) * np.sqrt(2 / width),
        np.zeros(HIDDEN),
        rng.standard_normal(HIDDEN) * np.sqrt(1 / HIDDEN),
        np.array(np.log(share / (1 - share))),
    ]
    first, second = ([np.zeros_like(weight) for weight in weights] for _ in range(2))
    steps, step = EPOCHS * (n // BATCH), 0
    for _ in range(EPOCHS):
        order = rng.permutation(n)
        for start in range(0, n - BATCH + 1, BATCH):
            some = order[start : start + BATCH]
            gradients = _gradients(rows[some], labels[some], weights)
            step += 1
            rate = RATE * (1 - (step - 1) / steps)
            for i, gradient in enumerate(gradients):
                first[i] = 0.9 * first[i] + 0.1 * gradient
                second[i] = 0.99 * second[i] + 0.01 * gradient**2
                scaled = first[i] / (1 - 0.9**step) / (np.sqrt(second[i] / (1 - 0.99**step)) + 1e-8)
                weights[i] = weights[i] - rate * (scaled + DECAY * weights[i])
    inner, inner_bias, outer, outer_bias = weights
    inner = inner / scales
    found = {"inner": inner, "inner_bias": inner_bias - inner @ means, "outer": outer, "outer_bias": outer_bias}
    return {name: np.asarray(value, dtype=np.float32) for name, value in found.items()}


def _gradients(rows: NDArray, labels: NDArray, weights: list[NDArray]) -> list[NDArray]:
    inner, inner_bias, outer, outer_bias = weights
    heights = np.maximum(rows @ inner.T + inner_bias, 0)
    errors = (1 / (1 + np.exp(-np.clip(heights @ outer + outer_bias, -30, 30))) - labels) / len(rows)
    back = errors[:, None] * outer * (heights > 0)
    return [back.T @ rows, back.sum(0), heights.T @ errors, errors.sum()]


def auc(scores: NDArray, labels: NDArray) -> float:
    """How probably a row labelled 1 scores above one labelled 0; ties count half. NaN where all labels are alike."""
    positive, negative = np.sort(scores[labels > 0.5]), np.sort(scores[labels <= 0.5])
    if not len(positive) or not len(negative):
        return float("nan")
    below = np.searchsorted(negative, positive, "left") + np.searchsorted(negative, positive, "right")
    return float(below.sum() / 2 / len(positive) / len(negative))
