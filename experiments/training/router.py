"""Trains a router of whole requests: sample both models' answers, label which the device may keep, fit, write a card.

Hybrid LLM (Ding et al. 2024, arXiv 2404.14618). Their quality of an answer is a BART score against a reference; ours
is its mean log-likelihood per token under the target, which every run here measures anyway (`experiments.quality`) and
which needs no third model. H = q(device's answer) - q(edge's answer). The three kinds of labels are theirs: H >= 0 of
one answer each (deterministic), the share of pairs with H >= 0 (probabilistic), the share with H >= -t (transformed), t
being where labels differ most from each other. In place of their encoder: `nodes.policies.routing`.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from experiments.quality import LEAST, OWN
from experiments.schema import Config
from experiments.training.fitting import best_ridge, fit_logistic, log_loss
from nodes.engine import Engine, EngineError
from nodes.engine.make import unpaced_pair
from nodes.engine.weights import model_id
from nodes.policies.routing import FEATURES, LABELS, Fitted, TrainedRouter, prompt_features
from nodes.runspec import Prompt, conversation_id
from nodes.sampling import Coins, Sampling, sample
from nodes.session import Session

SHIFTS = np.linspace(0, 3, 121)  # nats a token: where t is looked for
FEWEST = 20  # queries, for there to be something to fit and something to test it on
FEWEST_GROUPS = 3
TESTED = 4  # every so many groups of queries are kept for the test
KEPT_SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of requests that stay on the device, where the card tells the quality


@dataclass(frozen=True)
class Sampled:
    """A query with what both models made of it. K = answers each."""

    group: str  # queries of one source stay together, on one side of the split
    features: NDArray[np.float64]  # [F]
    device: NDArray[np.float64]  # [K] quality
    edge: NDArray[np.float64]  # [K]


def train_router(
    config: Config, queries: Sequence[Prompt], source: str, answers: int, new_tokens: int
) -> TrainedRouter:
    """For the pair and the sampling of `config`. Raises EngineError where there is too little to learn from."""
    if len(queries) < FEWEST:
        raise EngineError(f"{len(queries)} prompts are too few to train a router on: give at least {FEWEST}")
    groups = {query.category or query.id for query in queries}
    if len(groups) < FEWEST_GROUPS:
        raise EngineError(
            f"the prompts are of {len(groups)} categories: give at least {FEWEST_GROUPS}, since a router is fitted on "
            "some, its penalty chosen on others, and tested on those that neither has seen"
        )
    device, edge = unpaced_pair(config.device_engine, config.edge_engine)
    sampling = Sampling(**config.sampling.model_dump(), seed=config.seed)
    sampled = [sample_query(device, edge, sampling, query, answers, new_tokens) for query in queries]
    card = {
        "trained": datetime.now(timezone.utc).date().isoformat(),
        "python": platform.python_version(),
        "device": device.name,
        "edge": edge.name,
        "queries": source,
        "answers_of_each_model": answers,
        "new_tokens": new_tokens,
        "sampling": config.sampling.model_dump(),
        "quality": "mean log-likelihood per token of the sampled answer under the target, at temperature 1",
    }
    return fit_router(sampled, model_id(device), model_id(edge), card)


def sample_query(
    device: Engine, edge: Engine, sampling: Sampling, query: Prompt, answers: int, new_tokens: int
) -> Sampled:
    prompt = edge.tokenizer.encode(query.text)
    looked_at = Session(Sampling(), prompt)
    features = prompt_features(device, looked_at)
    device.release(looked_at)
    coins = [Coins(sampling.seed, conversation_id(query.id, i)) for i in range(answers)]
    made = [
        generate(engine, sampling, prompt, coins, role, new_tokens)
        for engine, role in ((device, "draft"), (edge, "final"))
    ]
    quality = score(edge, prompt, [*made[0], *made[1]])
    return Sampled(query.category or query.id, features, quality[:answers], quality[answers:])


def generate(
    engine: Engine, sampling: Sampling, prompt: list[int], coins: Sequence[Coins], role: str, new_tokens: int
) -> list[list[int]]:
    """An answer for each of `coins`, all in one batch, up to an end-of-sequence token."""
    sessions = [Session(sampling, prompt) for _ in coins]
    open_ended = list(range(len(coins)))
    for _ in range(new_tokens):
        dists = engine.forward([sessions[i] for i in open_ended], [1] * len(open_ended))
        for i, rows in zip(open_ended, dists):
            position = len(sessions[i].tokens)
            sessions[i].become([*sessions[i].tokens, sample(rows.row(0), coins[i](role, position))])
        open_ended = [i for i in open_ended if sessions[i].tokens[-1] not in engine.eos_tokens]
        if not open_ended:
            break
    for session in sessions:
        engine.release(session)
    return [session.tokens[len(prompt) :] for session in sessions]


def score(edge: Engine, prompt: list[int], answers: Sequence[list[int]]) -> NDArray[np.float64]:
    """[len(answers)] q: mean log-likelihood of a token under the target."""
    sessions = [Session(OWN, [*prompt, *answer]) for answer in answers]
    dists = edge.forward(sessions, [len(answer) + 1 for answer in answers])
    quality = [
        np.log(np.maximum(rows.at(answer), LEAST), dtype=np.float64).mean() for rows, answer in zip(dists, answers)
    ]
    for session in sessions:
        edge.release(session)
    return np.array(quality)


# Labels, fit, card ----------------------------------------------------------------------------------------------------


def pair_gaps(one: Sampled) -> NDArray[np.float64]:
    """[K * K] H of every pair of answers."""
    return (one.device[:, None] - one.edge[None, :]).ravel()


def labels_of(sampled: Sequence[Sampled], kind: str, shift: float) -> NDArray[np.float64]:
    """[N] how probably the device's answer is good enough."""
    if kind == "deterministic":
        return np.array([float(one.device[0] >= one.edge[0]) for one in sampled])
    return np.array([(pair_gaps(one) >= -shift).mean() for one in sampled])


def best_shift(sampled: Sequence[Sampled]) -> float:
    """t: where the labels differ most, summed over all pairs of queries; with small models on the device few answers
    are as good as the edge's, and unshifted labels are nearly all zero."""
    spreads = []
    for shift in SHIFTS:
        labels = np.sort(labels_of(sampled, "transformed", float(shift)))
        ranks = 2 * np.arange(len(labels)) - len(labels) + 1
        spreads.append(float(ranks @ labels))  # half of sum |y_i - y_j|
    best = np.flatnonzero(np.array(spreads) >= max(spreads) - 1e-9)
    return float(SHIFTS[best[len(best) // 2]])


def fit_router(sampled: Sequence[Sampled], device_model: str, edge_model: str, card: dict[str, Any]) -> TrainedRouter:
    """Fits all kinds of labels on three quarters of the groups and tests on the rest."""
    groups = sorted({one.group for one in sampled})
    tested = set(groups[::TESTED])
    fitted_on = [one for one in sampled if one.group not in tested]
    test = [one for one in sampled if one.group in tested]
    features = np.stack([one.features for one in fitted_on])
    means, scales = features.mean(0), np.maximum(features.std(0), 1e-6)
    labels = {}
    for kind in LABELS:
        shift = best_shift(fitted_on) if kind == "transformed" else 0.0
        inputs, wanted = (features - means) / scales, labels_of(fitted_on, kind, shift)
        ridge = best_ridge(inputs, wanted, [one.group for one in fitted_on])
        weights, bias = fit_logistic(inputs, wanted, ridge)
        labels[kind] = Fitted(weights.tolist(), bias, shift)
    names = [*FEATURES, *(f"hidden_{i}" for i in range(len(means) - len(FEATURES)))]
    router = TrainedRouter(device_model, edge_model, names, means.tolist(), scales.tolist(), labels, {})
    figures = {kind: test_figures(router, kind, fitted_on, test) for kind in LABELS}
    sizes = {"fitted_on": len(fitted_on), "tested_on": len(test), "sources": len(groups), "sources_tested": len(tested)}
    return msgspec.structs.replace(router, card=_rounded({**card, **sizes, "held_out": figures}))


def test_figures(
    router: TrainedRouter, kind: str, fitted_on: Sequence[Sampled], test: Sequence[Sampled]
) -> dict[str, Any]:
    """On queries of sources that nothing was fitted on: does it know more than the labels' mean, and what is an answer
    worth when the highest scores stay on the device, beside keeping as many at random?"""
    shift = router.labels[kind].shift
    labels, known = labels_of(test, kind, shift), labels_of(fitted_on, kind, shift).mean()
    scores = np.array([router.score(kind, one.features) for one in test])
    device, edge = (np.array([getattr(one, way).mean() for one in test]) for way in ("device", "edge"))
    order = np.argsort(-scores, kind="stable")
    curve = []
    for share in KEPT_SHARES:
        n_kept = round(share * len(test))
        kept = np.zeros(len(test), dtype=bool)
        kept[order[:n_kept]] = True
        at_random = (n_kept * device.mean() + (len(test) - n_kept) * edge.mean()) / len(test)
        by_router = np.where(kept, device, edge).mean()
        threshold = float(scores[order[n_kept - 1]]) if n_kept else 1.0
        curve.append({"kept": share, "threshold": threshold, "quality": by_router, "quality_at_random": at_random})
    return {
        "shift": shift,
        "mean_label": labels.mean(),
        "accuracy": ((scores >= 0.5) == (labels >= 0.5)).mean(),
        "accuracy_of_the_commoner": max((labels >= 0.5).mean(), (labels < 0.5).mean()),
        "log_loss": log_loss(labels, scores),
        "log_loss_of_the_mean": log_loss(labels, np.full(len(test), known)),
        "scores_from_to": [scores.min(), scores.max()],
        "curve": curve,
    }


def write_router(router: TrainedRouter, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(router), indent=1) + b"\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value
