"""A request goes by the method with probability `share`, whatever it asks: what a router has to beat (the control of
Ding et al. 2024, arXiv 2404.14618)."""

from __future__ import annotations

from nodes.engine import Engine
from nodes.policies import number_within
from nodes.policies.route import Route
from nodes.sampling import Coins
from nodes.session import Session


class Random(Route):
    def __init__(self, share: float = 0.5) -> None:
        self.share = number_within("route", "share", share, 0, 1)
        self.exact = share == 1

    def keeps(self, engine: Engine, session: Session, coins: Coins) -> bool:
        return not coins("route", len(session.tokens)) < self.share


POLICY = Random
