"""Logistic regression on labels that are probabilities: what the small trained parts are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RIDGES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)  # how firmly weights are drawn to zero
FOLDS = 4
STEPS = 50


def logistic(heights: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip(heights, -30, 30)))


def fit_logistic(
    features: NDArray[np.float64], labels: NDArray[np.float64], ridge: float = RIDGES[0]
) -> tuple[NDArray[np.float64], float]:
    """(weights [F], bias) that minimise the cross entropy with `labels` in [0, 1] and `ridge` / 2 times the weights'
    squares, by Newton's iteration; the bias is not drawn to zero. features [N, F], of about unit scale."""
    inputs = np.column_stack([features, np.ones(len(features))])
    pull = np.diag([*[ridge] * features.shape[1], 1e-3])
    weights = np.zeros(inputs.shape[1])
    for _ in range(STEPS):
        probs = logistic(inputs @ weights)
        gradient = inputs.T @ (probs - labels) + pull @ weights
        curvature = (inputs * (probs * (1 - probs))[:, None]).T @ inputs + pull
        step = np.linalg.solve(curvature, gradient)
        weights -= step
        if np.abs(step).max() < 1e-9:
            break
    return weights[:-1], float(weights[-1])


def best_ridge(features: NDArray[np.float64], labels: NDArray[np.float64], groups: Sequence[str]) -> float:
    """The one of RIDGES whose fit says most of groups that it has not seen, by FOLDS-fold cross-validation."""
    names = sorted(set(groups))
    folds = [np.isin(groups, names[fold::FOLDS]) for fold in range(FOLDS)]
    losses = []
    for ridge in RIDGES:
        probs = np.zeros(len(labels))
        for left_out in folds:
            if left_out.any() and not left_out.all():
                weights, bias = fit_logistic(features[~left_out], labels[~left_out], ridge)
                probs[left_out] = logistic(features[left_out] @ weights + bias)
        losses.append(log_loss(labels, probs))
    return RIDGES[int(np.argmin(losses))]


def log_loss(labels: NDArray[np.float64], probs: NDArray[np.float64]) -> float:
    """Mean cross entropy, nats."""
    probs = np.clip(probs, 1e-6, 1 - 1e-6)
    return float(-(labels * np.log(probs) + (1 - labels) * np.log(1 - probs)).mean())
