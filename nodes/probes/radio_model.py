"""What a radio would draw for this traffic. netem shapes packets and consumes no radio power, so this is a
model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

from nodes.probes import Channel, Finding, Probe, Reading

WATTS_PER_MBPS = 8e-6  # as joules per byte
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


MEASURED = {
    "lte": Radio(
        tx_j_per_byte=0.43839 * WATTS_PER_MBPS,
        rx_j_per_byte=0.05197 * WATTS_PER_MBPS,
        active_w=1.28804,
        tail_w=1.060,
        tail_s=11.576,
        wake_j=1.2107 * 0.2601,
        rest_w=0.5943 * 43.2 / 1280.2,
        source=HUANG,
    ),
    "wifi": Radio(
        tx_j_per_byte=0.28317 * WATTS_PER_MBPS,
        rx_j_per_byte=0.13701 * WATTS_PER_MBPS,
        active_w=0.13286,
        tail_w=0.1193,
        tail_s=0.2381,
        wake_j=0.1244 * 0.0791,
        rest_w=0.0772 * 7.6 / 308.2,
        source=HUANG,
    ),
}
TECHNOLOGIES = (*MEASURED, "5g")
COEFFICIENTS = tuple(field.name for field in fields(Radio) if field.name != "source")

NR = "3GPP TR 38.840 V16.0.0: the FR1 reference (100 MHz, 30 kHz) and its DRX for FTP traffic"
DEEP_SLEEP, MONITORING, RECEIVING, SENDING = 1, 100, 300, 700  # PDCCH only; PDCCH and PDSCH; uplink at 23 dBm
OUT_OF_SLEEP_MS, OUT_OF_SLEEP_MS_OF_POWER = 20, 450
DRX_CYCLE_MS, DRX_ON_MS, DRX_INACTIVITY_MS = 160, 8, 100


def nr(unit_w: float, tx_mbps: float, rx_mbps: float) -> Radio:
    """A 5G radio. The report gives its states' powers as ratios to deep sleep, whose watts are `unit_w`.

    It monitors the control channel while bytes move and until the inactivity timer has run out, then sleeps between
    the on-durations of its cycle. A byte holds the transmitter, or the receiver, for its time at the air's rate; a
    real one is held for whole slots of 0.5 ms, so messages of a few bytes cost more than this says.
    """
    asleep_ms = DRX_CYCLE_MS - DRX_ON_MS - OUT_OF_SLEEP_MS
    cycle_ms_of_power = DRX_ON_MS * MONITORING + OUT_OF_SLEEP_MS_OF_POWER + asleep_ms * DEEP_SLEEP
    return Radio(
        tx_j_per_byte=(SENDING - MONITORING) * unit_w * 8e-6 / tx_mbps,
        rx_j_per_byte=(RECEIVING - MONITORING) * unit_w * 8e-6 / rx_mbps,
        active_w=MONITORING * unit_w,
        tail_w=MONITORING * unit_w,
        tail_s=DRX_INACTIVITY_MS / 1e3,
        wake_j=OUT_OF_SLEEP_MS_OF_POWER / 1e3 * unit_w,
        rest_w=cycle_ms_of_power / DRX_CYCLE_MS * unit_w,
        source=f"{NR}; {unit_w:g} W in deep sleep, {tx_mbps:g} Mbit/s up and {rx_mbps:g} down, as declared",
    )


def declared_radio(
    technology: str = "",
    coefficients: Mapping[str, float] | None = None,
    source: str = "",
    unit_w: float | None = None,
    tx_mbps: float | None = None,
    rx_mbps: float | None = None,
) -> Radio:
    """`technology` names the coefficients, `coefficients` replaces some or (for another radio) gives all of them,
    `source` says where those are from. `unit_w` and the air's rates are 5G's.

    Raises ValueError for what is unknown or lacking.
    """
    own = dict(coefficients or {})
    scale = {"unit_w": unit_w, "tx_mbps": tx_mbps, "rx_mbps": rx_mbps}
    given = {name: value for name, value in scale.items() if value is not None}
    if technology and technology not in TECHNOLOGIES:
        raise ValueError(f"unknown technology {technology!r}: it is one of {', '.join(TECHNOLOGIES)}")
    if unknown := sorted(set(own) - set(COEFFICIENTS)):
        raise ValueError(f"unknown coefficients {', '.join(unknown)}: they are {', '.join(COEFFICIENTS)}")
    if own and not source:
        raise ValueError("coefficients without a source: say where they are from with source")
    for name, value in {**own, **given}.items():
        if not math.isfinite(value) or value < 0 or (value == 0 and name in scale):
            raise ValueError(f"{name} of {value:g} cannot be: give what a radio has")
    if technology == "5g":
        if lacking := [name for name in scale if name not in given]:
            raise ValueError(
                f"5g lacks {', '.join(lacking)}: TR 38.840 gives powers only as ratios; unit_w is what the radio draws "
                "in deep sleep (data sheet, or a meter), tx_mbps and rx_mbps are the rates of the air"
            )
        base = nr(**given)
    elif given:
        raise ValueError(f"{', '.join(given)}: only 5g has them")
    elif technology:
        base = MEASURED[technology]
    elif lacking := [name for name in COEFFICIENTS if name not in own]:
        raise ValueError(f"a radio of one's own lacks {', '.join(lacking)}; or technology={'|'.join(TECHNOLOGIES)}")
    else:
        return Radio(**own, source=source)
    return replace(base, **own, source=f"{base.source}; {', '.join(own)}: {source}" if own else base.source)


class RadioModel(Probe):
    """The options of `declared_radio`, and whose bytes: `traffic` returns (sent, received); without it the counters of
    `interface` are read, as the process `net_pid` sees them.

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
        unit_w: float | None = None,
        tx_mbps: float | None = None,
        rx_mbps: float | None = None,
        traffic: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self.name_of_it = technology or ("own coefficients" if coefficients else "")
        self.declare = partial(declared_radio, technology, coefficients, source, unit_w, tx_mbps, rx_mbps)
        self.net_dev = Path(f"/proc/{net_pid or 'self'}/net/dev")
        self.interface, self.traffic = interface, traffic
        self.joules = self.active_s = 0.0

    def trial(self) -> Finding:
        if not self.name_of_it:
            remedy = f"energy.radio: technology={' or '.join(TECHNOLOGIES)}, or coefficients with a source"
            return Finding(self.name, "unsupported", "no radio declared", remedy)
        try:
            self.radio = self.declare()
        except ValueError as error:
            what, _, remedy = str(error).partition(": ")
            return Finding(self.name, "unsupported", what, remedy)
        try:
            self.last_bytes, self.last_s = self._bytes(), time.monotonic()
        except (OSError, LookupError) as error:
            remedy = "a link in a lab has an interface; elsewhere: hosts.device.interface, device run --interface"
            return Finding(self.name, "unsupported", f"no bytes to count: {error}", remedy)
        self.moved_s = float("-inf")
        detail = f"{self.name_of_it}: {self.radio.source}"
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
        raise LookupError(f"no {self.interface} in {self.net_dev}" if self.interface else "no interface is named")
