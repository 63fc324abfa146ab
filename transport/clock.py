"""The other host's monotonic clock, seen from here: offset, error bound, drift, from ping-pongs.

Offset means remote minus local. An exchange pins the offset to within half its round trip, however unequal
the two ways are, so the quickest exchange says most and averaging says nothing. Two nodes on one kernel share
the clock: then the offset is 0 and exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_DRIFT_PPM = 200.0  # crystals of hosts that work differ by less
MIN_SAMPLES_FOR_DRIFT = 6


@dataclass(frozen=True)
class ClockSample:
    """One exchange. `sent_ns` and `received_ns` on the local clock, the other two on the remote one."""

    sent_ns: int
    remote_received_ns: int
    remote_sent_ns: int
    received_ns: int

    @property
    def rtt_ns(self) -> int:
        return (self.received_ns - self.sent_ns) - (self.remote_sent_ns - self.remote_received_ns)

    @property
    def offset_ns(self) -> int:
        return (self.remote_received_ns - self.sent_ns + self.remote_sent_ns - self.received_ns) // 2

    @property
    def error_ns(self) -> int:
        return (self.rtt_ns + 1) // 2

    @property
    def at_ns(self) -> int:
        return (self.sent_ns + self.received_ns) // 2


@dataclass(frozen=True)
class Offset:
    """Remote minus local clock: `offset_ns` at local time `at_ns`, changing by `drift_ppm` (None: not seen).

    True within `error_ns` between `at_ns` and `until_ns`; outside, the error grows by `drift_error_ppm`.
    """

    offset_ns: int
    error_ns: int
    drift_ppm: float | None = None
    drift_error_ppm: float = 0.0
    at_ns: int = 0
    until_ns: int = 0

    def to_local_ns(self, remote_ns: int) -> int:
        """The local time at which the remote clock showed `remote_ns`."""
        drift = (self.drift_ppm or 0.0) * 1e-6
        since_ns = remote_ns - self.offset_ns - self.at_ns
        return self.at_ns + since_ns - round(since_ns * drift / (1 + drift))

    def error_at_ns(self, local_ns: int) -> int:
        """Bound on the error of what is translated to about this local time."""
        outside_ns = max(0, self.at_ns - local_ns, local_ns - self.until_ns)
        return self.error_ns + round(outside_ns * self.drift_error_ppm * 1e-6)


SAME_CLOCK = Offset(0, 0)


def estimate(samples: Sequence[ClockSample]) -> Offset:
    """Offset from the quickest exchange, or a line through the quickest early and the quickest late one.

    The line is taken once it bounds the drift better than MAX_DRIFT_PPM does. Raises ValueError on no samples
    or on one whose round trip is negative (stamps mixed up, or a clock that is not monotonic).
    """
    if not samples:
        raise ValueError("a clock offset needs at least one exchange")
    if min(sample.rtt_ns for sample in samples) < 0:
        raise ValueError("a negative round trip: these stamps are not from two monotonic clocks")
    best = min(samples, key=lambda sample: sample.rtt_ns)
    constant = Offset(best.offset_ns, best.error_ns, None, MAX_DRIFT_PPM, best.at_ns, best.at_ns)
    if len(samples) < MIN_SAMPLES_FOR_DRIFT:
        return constant
    ordered = sorted(samples, key=lambda sample: sample.at_ns)
    third = len(ordered) // 3
    early = min(ordered[:third], key=lambda sample: sample.rtt_ns)
    late = min(ordered[-third:], key=lambda sample: sample.rtt_ns)
    span_ns = max(1, late.at_ns - early.at_ns)
    drift_error_ppm = (early.error_ns + late.error_ns) / span_ns * 1e6
    if drift_error_ppm > MAX_DRIFT_PPM:
        return constant
    drift_ppm = (late.offset_ns - early.offset_ns) / span_ns * 1e6
    error_ns = max(early.error_ns, late.error_ns)
    return Offset(early.offset_ns, error_ns, drift_ppm, drift_error_ppm, early.at_ns, late.at_ns)


def clock_identity() -> str | None:
    """Names the boot and the time namespace: equal on both ends means one clock. None: cannot tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
    try:
        namespace = str(Path("/proc/self/ns/time").readlink())
    except FileNotFoundError:  # a kernel before 5.6 has no time namespaces
        namespace = "time:none"
    except OSError:
        return None
    return f"{boot} {namespace}"
