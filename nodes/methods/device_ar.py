"""The device alone: the draft model's own output, nothing crosses. Fast, and distributed as the draft is."""

from __future__ import annotations

from nodes.methods import Method, MethodError
from transport.messages import Proposal, Verdict


class DeviceAR(Method):
    Up, Down = Proposal, Verdict
    exact = False
    edge = False
    adds = 0

    def propose(self, draft, remaining):
        return None

    def serve(self, up, base, coins):
        raise MethodError("device_ar sends nothing to the edge")


METHOD = DeviceAR
