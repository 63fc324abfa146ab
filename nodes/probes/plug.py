"""A plug meter on the network, which measures the whole node: Shelly (Gen2 and later) and Tasmota over
HTTP."""

from __future__ import annotations

import json
import math
import time
import urllib.error
import urllib.request
from typing import Any

from nodes.probes import Channel, Finding, Joules, Probe, Reading

TIMEOUT_S = 2.0
STEP_MS = 1000.0  # plugs renew their power about once a second
PATHS = {"shelly": "/rpc/Switch.GetStatus?id={switch}", "tasmota": "/cm?cmnd=Status%208"}


class Plug(Probe):
    """`url`: the plug's address, such as http://192.168.1.20; `kind`: shelly or tasmota; `switch`: which
    outlet.

    The plug's power, renewed about once a second, is integrated; its own counter, in coarser steps, stands
    beside it. Ask it over a path that is not shaped, and let it not feed both nodes.
    """

    name = "plug"
    every_ms = 500.0
    blocking = True

    def __init__(self, url: str = "", kind: str = "shelly", switch: int = 0) -> None:
        self.url, self.kind, self.switch = url.rstrip("/"), kind, switch
        self.integral = Joules()
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on this network

    def trial(self) -> Finding:
        if not self.url:
            return Finding(self.name, "unsupported", "no plug declared", "give url=http://ADDRESS of the plug")
        if self.kind not in PATHS:
            return Finding(self.name, "unsupported", f"unknown kind {self.kind!r}", f"one of {', '.join(PATHS)}")
        try:
            watts, counter_wh = self._ask()
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                return Finding(self.name, "denied", f"{self.url}: {error}", "turn off the plug's password")
            return Finding(self.name, "unsupported", f"{self.url}: {error}", f"is it really a {self.kind}?")
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            return Finding(
                self.name,
                "unsupported",
                f"{self.url}: {type(error).__name__}: {error}",
                f"check the address, and that it is a {self.kind} that measures power",
            )
        channels = (
            Channel("node", "j", "measured", total=True, renewed_ms=STEP_MS),
            Channel("power", "w", "measured"),
            Channel("counter", "wh", "measured"),
        )
        detail = f"{self.kind} at {self.url}: {watts:.1f} W now, {counter_wh:.3f} Wh so far"
        return Finding(self.name, "measured", detail, "", STEP_MS, "node", channels)

    def read(self) -> list[Reading]:
        before_s = time.monotonic()
        watts, counter_wh = self._ask()
        asked_s = (before_s + time.monotonic()) / 2  # as a trace has it
        return [
            Reading("node", self.integral.add(watts, asked_s), "j", "measured"),
            Reading("power", watts, "w", "measured"),
            Reading("counter", counter_wh, "wh", "measured"),
        ]

    def _ask(self) -> tuple[float, float]:
        """(watts now, watt-hours counted). Raises OSError, or KeyError and ValueError on another answer."""
        url = self.url + PATHS[self.kind].format(switch=self.switch)
        with self.opener.open(url, timeout=TIMEOUT_S) as response:
            answer: dict[str, Any] = json.load(response)
        if self.kind == "shelly":
            found = float(answer["apower"]), float(answer["aenergy"]["total"])
        else:
            energy = answer["StatusSNS"]["ENERGY"]
            power = energy["Power"]
            found = float(power[self.switch] if isinstance(power, list) else power), float(energy["Total"]) * 1e3
        if not all(map(math.isfinite, found)):
            raise ValueError(f"the plug answers {found[0]} W, {found[1]} Wh")
        return found
