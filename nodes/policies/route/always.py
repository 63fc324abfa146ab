"""Every request goes by the method."""

from __future__ import annotations

from nodes.engine import Engine
from nodes.policies.route import Route
from nodes.sampling import Coins
from nodes.session import Session


class Always(Route):
    exact = True
    decides = False

    def keeps(self, engine: Engine, session: Session, coins: Coins) -> bool:
        return False


POLICY = Always
