"""Decision heads: may a drafted token stand that the target did not draw? A small network asked at the edge, trained
for one pair of models by `dssd train head`; numpy only.

A head is two files: NAME.npz, its weights, and NAME.json, a card that says which models it knows, from what it was
trained, and how well it does on what it did not see. Those in this folder ship with the project.
"""

from __future__ import annotations

import hashlib
from datetime import date
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nodes.engine import Engine
from nodes.engine.weights import model_id

Floats = NDArray[np.float32]
Role = Literal["draft", "target"]
SHIPPED = "shipped"
BUNDLED = Path(__file__).parent / "bundled.npz"  # of the pair that ships with the project
RTT_MS, RATE_MBPS = (0.1, 1000.0), (0.1, 1000.0)  # what heads are trained for; a link beyond counts as the nearest
WEIGHTS = ("inner", "inner_bias", "outer", "outer_bias")
CONFIDENT = 30.0  # logits end here, so that a probability is never quite 0 or 1


class HeadError(ValueError):
    """No head for this model, or not a head; the message names the model and the command that makes one."""


class Model(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose hidden states a head reads."""

    engine: str  # as in a configuration
    model_id: str
    hidden_size: int


class Card(Struct, frozen=True, forbid_unknown_fields=True):
    """What a head is: kept beside its weights, printed with every run that asks it."""

    draft: Model
    target: Model
    labels: str  # what it was taught to call acceptable
    data: dict[str, Any]  # from which texts, how many mismatches
    held_out: dict[str, float]  # on texts it was not trained on: auc, accuracy, ...
    made: date
    weights_sha256: str


class Head:
    """One hidden layer over [target state | draft state | link]. Weights are float32: inner [n, inputs], inner_bias
    [n], outer [n], outer_bias []."""

    def __init__(self, card: Card, weights: dict[str, Floats]) -> None:
        self.card, self.weights = card, weights

    @property
    def id(self) -> str:
        return self.card.weights_sha256[:16]

    def probability(self, draft: Floats, target: Floats, link: Floats) -> float:
        """That a drafted token is acceptable: `draft` is the state it was drawn from, `target` the target's after
        reading it, `link` (round-trip time in ms, rate in Mbit/s)."""
        return float(self.probabilities(inputs(draft[None], target[None], link[None]))[0])

    def probabilities(self, rows: Floats) -> Floats:
        """[N, inputs] to [N]."""
        inner, inner_bias, outer, outer_bias = (self.weights[name] for name in WEIGHTS)
        logits = np.maximum(rows @ inner.T + inner_bias, 0) @ outer + outer_bias
        return 1 / (1 + np.exp(-np.clip(logits, -CONFIDENT, CONFIDENT)))

    def check(self, role: Role, engine: Engine) -> Head:
        """Raise HeadError if this engine is not the model of that role that it was trained on."""
        known: Model = getattr(self.card, role)
        if model_id(engine) != known.model_id:
            raise HeadError(
                f"this head was trained for the {role} {known.engine} ({known.model_id}), not for {engine.name} "
                f"({model_id(engine)}); {remedy(role, engine)}"
            )
        if engine.hidden_size != known.hidden_size:
            raise HeadError(
                f"this head reads {role} states of {known.hidden_size} numbers, those of {engine.name} have "
                f"{engine.hidden_size}; {remedy(role, engine)}"
            )
        return self


def inputs(draft: Floats, target: Floats, link: Floats) -> Floats:
    """What a head reads of N tokens: states [N, hidden] and links [N, 2] to [N, inputs]. A draft state is rounded to
    float16 first, as it is on the wire; time and rate are read by their logarithms, from -1 to 1."""
    bounds = np.log10([RTT_MS, RATE_MBPS])
    low, high = bounds[:, 0], bounds[:, 1]
    places = (2 * np.clip(np.log10(link), low, high) - low - high) / (high - low)
    return np.concatenate([target, draft.astype(np.float16), places], axis=1, dtype=np.float32)


def shipped_head(role: Role, engine: Engine) -> Head:
    """The one in this folder that was trained for this model. Raises HeadError where there is none."""
    if "toy" in engine.labels:
        from nodes.heads.toy import toy_head

        return toy_head()
    for path in sorted(Path(__file__).parent.glob("*.npz")):
        head = read_head(path)
        if getattr(head.card, role).model_id == model_id(engine):
            return head.check(role, engine)
    raise HeadError(f"no head ships for the {role} {engine.name} ({model_id(engine)}); {remedy(role, engine)}")


def remedy(role: Role, engine: Engine) -> str:
    return (
        f"train one with `dssd train head CONFIG --out HEAD.npz`, CONFIG being an experiment whose {role} is "
        f"{engine.name}, and name it in the system's options: {{head: HEAD.npz}}"
    )


def read_head(path: Path) -> Head:
    """Raises HeadError if it is not there, or its weights are not those of its card."""
    path = path.expanduser()
    for file in (path, path.with_suffix(".json")):
        if not file.is_file():
            raise HeadError(
                f"no head at {path}: {file} is missing; `dssd train head CONFIG --out {path}` makes both files"
            )
    try:
        card = msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=Card)
    except msgspec.DecodeError as error:
        raise HeadError(f"{path.with_suffix('.json')} is not a head's card: {error}") from error
    if hashlib.sha256(path.read_bytes()).hexdigest() != card.weights_sha256:
        raise HeadError(
            f"{path} is not the file that its card describes; `dssd train head CONFIG --out {path}` makes it anew"
        )
    with np.load(path, allow_pickle=False) as arrays:
        return Head(card, {name: arrays[name] for name in WEIGHTS})


def write_head(path: Path, weights: dict[str, Floats], **about: Any) -> Head:
    """Both files of a head; `about` is its card, but for the hash."""
    np.savez(path, **{name: np.asarray(weights[name], dtype=np.float32) for name in WEIGHTS})  # type: ignore[arg-type]
    card = Card(**about, weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    path.with_suffix(".json").write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n")
    return read_head(path)
