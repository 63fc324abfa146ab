"""netem and the token bucket behind it, as Linux 6.1 has them: when what is sent arrives, on a link that is honest."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from netem.distributions import delay_quantile_ms
from netem.judge import paced_bits
from netem.qdisc import BURST_S, FRAME_BYTES
from netem.spec import DirectionSpec


def arrivals_s(side: DirectionSpec, sent_s: Sequence[float], frame_bits: int, seed: int = 0) -> list[float]:
    """Of what is not lost, in order: nothing overtakes where a rate is set, and one is where there is jitter."""
    passed = _netem(side, sent_s, frame_bits, random.Random(seed))
    return list(_bucket(side, passed, frame_bits) if side.has_bottleneck else passed)


def _netem(side: DirectionSpec, sent_s: Sequence[float], frame_bits: int, chance: random.Random) -> Iterator[float]:
    paces = side.rate_mbps and not side.has_bottleneck
    frame_s = paced_bits(side, frame_bits) / (side.rate_mbps * 1e6) if paces else 0.0
    last_s = 0.0
    for at_s in sent_s:
        if 100 * chance.random() >= side.loss_pct:
            last_s = max(last_s, at_s + (delay_quantile_ms(side, chance.random()) or 0.0) / 1e3) + frame_s
            yield last_s


def _bucket(side: DirectionSpec, ready_s: Iterator[float], frame_bits: int) -> Iterator[float]:
    bps = 1e6 * (side.rate_mbps or 0.0)
    full = max(8.0 * FRAME_BYTES, BURST_S * bps)
    bits, last_s = full, 0.0
    for at_s in ready_s:
        begins_s = max(at_s, last_s)
        bits = min(full, bits + bps * (begins_s - last_s))
        waits_s = max(0.0, (frame_bits - bits) / bps)
        bits, last_s = bits + bps * waits_s - frame_bits, begins_s + waits_s
        yield last_s
