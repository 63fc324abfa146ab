"""Logistic regression on labels that are probabilities: what the small trained parts are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RIDGE = 1.0  # as if one query had said of each weight that it is small
STEPS = 50


def logistic(heights: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip(heights, -30, 30)))


def fit_logistic(features: NDArray[np.float64], labels: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """(weights [F], bias) that minimise the cross entropy with `labels` in [0, 1], by Newton's iteration; the bias is
    not drawn to zero. features [N, F], of about unit scale."""
    inputs = np.column_stack([features, np.ones(len(features))])
    ridge = np.diag([*[RIDGE] * features.shape[1], 1e-3])
    weights = np.zeros(inputs.shape[1])
    for _ in range(STEPS):
        probs = logistic(inputs @ weights)
        gradient = inputs.T @ (probs - labels) + ridge @ weights
        curvature = (inputs * (probs * (1 - probs))[:, None]).T @ inputs + ridge
        step = np.linalg.solve(curvature, gradient)
        weights -= step
        if np.abs(step).max() < 1e-9:
            break
    return weights[:-1], float(weights[-1])


def log_loss(labels: NDArray[np.float64], probs: NDArray[np.float64]) -> float:
    """Mean cross entropy, nats."""
    probs = np.clip(probs, 1e-6, 1 - 1e-6)
    return float(-(labels * np.log(probs) + (1 - labels) * np.log(1 - probs)).mean())
