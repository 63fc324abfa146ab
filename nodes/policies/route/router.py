"""A trained router: the device answers where its answer is expected to be good enough (Hybrid LLM, Ding et al. 2024,
arXiv 2404.14618).

Their letters: S, L = draft and target model, q = quality of an answer, H = q(S) - q(L), t = shift of the transformed
labels. The router scores a query with the probability that H >= 0 (deterministic labels: of one answer each;
probabilistic: over several) or H >= -t (transformed); a score of `threshold` or more stays on the device. The threshold
is chosen when the router is used: 0 keeps everything, 1 nothing. What is scored and what q is: nodes/policies/routing.
"""

from __future__ import annotations

from pathlib import Path

from nodes.engine import Engine
from nodes.policies import PolicyError, number_within
from nodes.policies.route import Route
from nodes.policies.routing import BUNDLED, LABELS, prompt_features, read_router
from nodes.sampling import Coins
from nodes.session import Session


class Router(Route):
    """`file`: what `dssd train router` wrote; without one, the router of the bundled pair."""

    files = ("file",)

    def __init__(self, labels: str = "probabilistic", threshold: float = 0.5, file: str | None = None) -> None:
        if labels not in LABELS:
            raise PolicyError(f"route: labels are {', '.join(LABELS)}, not {labels!r}")
        self.labels, self.threshold = labels, number_within("route", "threshold", threshold, 0, 1)
        self.path = Path(file) if file else BUNDLED
        self.trained = read_router(self.path)
        self.exact = threshold == 1

    def meet(self, device_model: str, edge_model: str) -> None:
        for node, here, there in (
            ("device", device_model, self.trained.device_model),
            ("edge", edge_model, self.trained.edge_model),
        ):
            if here != there:
                raise PolicyError(
                    f"route: the router in {self.path} was trained for another {node} model ({there}, this one is "
                    f"{here}); train one for this pair: dssd train router CONFIG --out FILE, then "
                    "route: {policy: router, file: FILE}"
                )

    def keeps(self, engine: Engine, session: Session, coins: Coins) -> bool:
        return self.trained.score(self.labels, prompt_features(engine, session)) >= self.threshold


POLICY = Router
