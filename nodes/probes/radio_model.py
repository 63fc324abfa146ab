"""What a radio would draw for this traffic. netem shapes packets and consumes no radio power, so this is a
model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from nodes.probes import Channel, Finding, Probe, Reading

WATTS_PER_MBPS = 8e-6       # as joules per byte
HUANG = "Huang et al., MobiSys 2012, doi 10.1145/2307636.2307658, tables of one phone in one network"


@dataclass(frozen=True)
class Radio:
    """Joules per byte each way, watts while sending or receiving, then a tail, then rest; waking up costs
    extra."""

    tx_j_per_byte: float
    rx_j_per_byte: float
    active_w: float
    tail_w: float
    tail_s: float
    wake_j: float
    rest_w: float
    source: str


RADIOS = {
    "lte": Radio(0.43839 * WATTS_PER_MBPS, 0.05197 * WATTS_PER_MBPS, 1.28804, 1.060, 11.576, 1.2107 * 0.2601,
                 0.5943 * 43.2 / 1280.2, HUANG),
    "wifi": Radio(0.28317 * WATTS_PER_MBPS, 0.13701 * WATTS_PER_MBPS, 0.13286, 0.1193, 0.2381, 0.1244 * 0.0791,
                  0.0772 * 7.6 / 308.2, HUANG),
}


class RadioModel(Probe):
    """`technology` names the coefficients, `coefficients` replaces some or (for another radio) gives all of
    them, `source` says where those are from. `traffic` returns (bytes sent, bytes received); without it the
    counters of `interface` are read, as the process `net_pid` sees them.

    Active is every interval between reads in which bytes moved, so it is no finer than the sampling.
    """

    name = "radio_model"

    def __init__(
        self,
        technology: str = "",
        interface: str = "",
        net_pid: int | None = None,
        coefficients: Mapping[str, float] | None = None,
        source: str = "",
        traffic: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self.technology, self.coefficients, self.source = technology, dict(coefficients or {}), source
        self.net_dev = Path(f"/proc/{net_pid or 'self'}/net/dev")
        self.interface, self.traffic = interface, traffic
        self.joules = self.active_s = 0.0

    def trial(self) -> Finding:
        needed = [field.name for field in fields(Radio) if field.name != "source"]
        unknown = set(self.coefficients) - set(needed)
        lacking = [] if self.technology in RADIOS else sorted(set(needed) - set(self.coefficients))
        if unknown or lacking:
            detail = f"unknown coefficients {sorted(unknown)}" if unknown else "no radio declared"
            return Finding(self.name, "unsupported", detail,
                           f"technology={' or '.join(RADIOS)}, or coefficients with {', '.join(needed)}")
        if self.coefficients and not self.source:
            return Finding(self.name, "unsupported", "coefficients without a source", "give source=...")
        base = RADIOS.get(self.technology, Radio(**dict.fromkeys(needed, 0.0), source=""))
        self.radio = replace(base, **self.coefficients, source=self.source or base.source)
        try:
            self.last_bytes, self.last_s = self._bytes(), time.monotonic()
        except (OSError, LookupError) as error:
            return Finding(self.name, "unsupported", f"no traffic counter: {error}", "give interface=NAME")
        self.moved_s = float("-inf")
        detail = f"{self.technology or 'own coefficients'}: {self.radio.source}"
        channels = (Channel("radio", "j", "modelled", total=True), Channel("active", "s", "modelled"))
        return Finding(self.name, "modelled", detail, "", 20.0, "radio", channels)

    def read(self) -> list[Reading]:
        sent_received, now_s = self._bytes(), time.monotonic()
        sent, received = (now - last for now, last in zip(sent_received, self.last_bytes))
        elapsed_s = now_s - self.last_s
        tail_left_s = max(0.0, self.moved_s + self.radio.tail_s - self.last_s)
        if sent > 0 or received > 0:
            self.joules += sent * self.radio.tx_j_per_byte + received * self.radio.rx_j_per_byte
            self.joules += self.radio.active_w * elapsed_s + (0.0 if tail_left_s else self.radio.wake_j)
            self.active_s += elapsed_s
            self.moved_s = now_s
        else:
            in_tail_s = min(elapsed_s, tail_left_s)
            self.joules += self.radio.tail_w * in_tail_s + self.radio.rest_w * (elapsed_s - in_tail_s)
        self.last_bytes, self.last_s = sent_received, now_s
        return [
            Reading("radio", self.joules, "j", "modelled"),
            Reading("active", self.active_s, "s", "modelled"),
        ]

    def _bytes(self) -> tuple[int, int]:
        if self.traffic is not None:
            return self.traffic()
        for line in self.net_dev.read_text().splitlines()[2:]:
            interface, _, counters = line.partition(":")
            if interface.strip() == self.interface:
                return int(counters.split()[8]), int(counters.split()[0])
        raise LookupError(f"no interface {self.interface!r} in {self.net_dev}")
