"""The edge's clock against this device's, before the first request and after the last, over the control line.

One host is told by the clock's name in the edge's welcome, and by the handshake itself, whose stamps must then lie in
order: nothing more is sent, the offset is 0 and exact. Two hosts exchange stamps. A path that is shaped and has unequal
ways pins the offset no better than to half its round trip, so whether it was shaped is recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, astuple
from typing import Any, Protocol
from urllib.parse import urlsplit

from transport.clock import SAME_CLOCK, ClockSample, clock_identity, estimate
from transport.control import ControlError
from transport.link import LinkError

log = logging.getLogger("dssd.alignment")
EXCHANGES = 16


class ClockLine(Protocol):
    def clock_exchange(self) -> tuple[ClockSample, str | None]: ...


class Alignment:
    """`call(address)` opens the control line there; `control` names it, else it is asked for at the edge's own address
    and the port its welcome names. A comparison that fails costs the one-way times, not the run."""

    def __init__(
        self,
        connect: str,
        control: str | None,
        shaped: bool,
        call: Callable[[str], AbstractContextManager[ClockLine]],
    ) -> None:
        self._connect, self._control, self._call = connect, control, call
        detour = control is not None and urlsplit(control).hostname != urlsplit(connect).hostname
        self._path = "shaped" if shaped and not detour else "unshaped"
        self._measurements: list[list[ClockSample]] = []
        self._names: set[str | None] = set()
        self._same = False
        self._problem = ""

    def measure(self, edge: Mapping[str, Any], handshake: ClockSample | None) -> None:
        """Once before and once after the requests; `edge` is what its welcome said."""
        if handshake is None:
            return
        in_order = abs(handshake.offset_ns) <= handshake.error_ns  # cloned machines can share a boot's name
        self._same = edge.get("clock") is not None and edge["clock"] == clock_identity() and in_order
        if self._same:
            return
        address = self._control or f"{self._connect.rpartition(':')[0]}:{edge.get('control_port')}"
        try:
            with self._call(address) as line:
                samples = []
                for _ in range(EXCHANGES):
                    sample, name = line.clock_exchange()
                    samples.append(sample)
                    self._names.add(name)
        except (ControlError, LinkError) as error:
            self._problem = str(error)
            log.warning("clocks not compared: %s", error)
            return
        self._measurements.append(samples)

    def record(self) -> dict[str, Any]:
        """For device.json: every exchange, what each measurement says, and the line through all of them."""
        if self._same and not self._measurements:
            return {"same": True, "path": "none", "offset": asdict(SAME_CLOCK), "problem": ""}
        record: dict[str, Any] = {"same": False, "path": self._path, "offset": None, "problem": self._problem}
        if not self._measurements:
            return {**record, "path": "none"}
        record["measurements"] = [asdict(estimate(samples)) for samples in self._measurements]
        record["exchanges"] = [[astuple(sample) for sample in samples] for samples in self._measurements]
        if len(self._names) > 1:
            return {**record, "problem": "the edge restarted on another clock while the run lasted"}
        everything = [sample for samples in self._measurements for sample in samples]
        return {**record, "offset": asdict(estimate(everything))}
