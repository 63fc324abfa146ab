"""What a trained router looks at, what it is, and how it is read. Training is `experiments.training.router`.

The paper's router is an encoder of 300 million parameters; a device that has a draft model at hand asks that instead:
how well it predicts the prompt, and how sure it is of what follows. One forward over the prompt, which the device needs
anyway if it answers itself. A router is a logistic regression on these figures and on the hidden state that follows
the prompt: a number for each.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nodes.engine import Engine
from nodes.policies import PolicyError
from nodes.sampling import Row, Sampling
from nodes.session import Session

BUNDLED = Path(__file__).parent / "routers" / "bundled.json"  # of the pair that ships with the project
LABELS = ("deterministic", "probabilistic", "transformed")
LOOK_BACK = 128  # prompt tokens whose probabilities are looked at
LAST = 8  # rows at the prompt's end whose shape is looked at: a row is as wide as the vocabulary
LEAST = 1e-6  # a probability below counts as this
FEATURES = (
    "log_tokens",
    "mean_logprob",
    "std_logprob",
    "mean_logprob_of_last",
    "mean_entropy_of_last",
    "entropy",
    "largest_probability",
    "second_probability",
)


class Fitted(Struct, frozen=True, forbid_unknown_fields=True):
    """The regression of one kind of labels. `shift` is the paper's t, 0 where nothing is transformed."""

    weights: list[float]
    bias: float
    shift: float = 0.0


class TrainedRouter(Struct, frozen=True, forbid_unknown_fields=True):
    """A router's file, its card included: models it was trained for, and on what, when, how well."""

    device_model: str
    edge_model: str
    features: list[str]
    means: list[float]
    scales: list[float]
    labels: dict[str, Fitted]
    card: dict[str, Any]

    def score(self, labels: str, features: NDArray[np.floating]) -> float:
        """In (0, 1): the probability that the device's answer is good enough."""
        fitted = self.labels[labels]
        height = fitted.bias + float(np.dot(fitted.weights, (features - self.means) / self.scales))
        return 1 / (1 + math.exp(-min(max(height, -30.0), 30.0)))


def read_router(path: Path) -> TrainedRouter:
    """Raises PolicyError naming the command that trains one."""
    try:
        router = msgspec.json.decode(path.read_bytes(), type=TrainedRouter)
    except OSError:
        raise PolicyError(
            f"route: no router is trained yet: there is no {path}. Train one: dssd train router CONFIG --out {path}"
        ) from None
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise PolicyError(f"route: {path} is no router's file ({error}); train one: dssd train router") from None
    widths = {len(router.means), len(router.scales), *(len(fitted.weights) for fitted in router.labels.values())}
    known = tuple(router.features[: len(FEATURES)]) == FEATURES and set(router.labels) == set(LABELS)
    if not known or widths != {len(router.features)}:
        raise PolicyError(f"route: the router in {path} is of another release; train it anew: dssd train router")
    return router


def prompt_features(engine: Engine, session: Session) -> NDArray[np.float64]:
    """[len(FEATURES) + hidden size] of the prompt in `session`, at temperature 1 whatever the run samples with. Leaves
    it fed."""
    tokens = session.tokens
    n_rows = min(len(tokens), LOOK_BACK + 1)
    sampling, session.sampling = session.sampling, Sampling()
    try:
        session.rewind(n_rows)
        dists = engine.forward([session], [n_rows])[0]
    finally:
        session.sampling = sampling
    seen = np.log(np.maximum(dists.at(tokens[len(tokens) - n_rows + 1 :]), LEAST), dtype=np.float64)
    if not len(seen):  # a prompt of one token: nothing was predicted
        seen = np.zeros(1)
    rows = [dists.row(i) for i in range(max(0, n_rows - LAST), n_rows)]
    second, first = np.partition(rows[-1], -2)[-2:]
    return np.array(
        [
            math.log(len(tokens)),
            seen.mean(),
            seen.std(),
            seen[-LAST:].mean(),
            np.mean([entropy(row) for row in rows]),
            entropy(rows[-1]),
            first,
            second,
            *dists.hidden(n_rows - 1),
        ]
    )


def entropy(row: Row) -> float:
    """Nats."""
    probs = row[row > 0].astype(np.float64)
    return float(-(probs * np.log(probs)).sum())
