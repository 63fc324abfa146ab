"""Makes traces: the same seed gives the same points. Each ends in points that `files.write_csv` takes.

on_off     two states, up and down, exponential sojourns (a Gilbert channel over time)
walk       a rate that wanders: a random walk of its logarithm between two bounds, drawn back to their middle
fading     a block-fading radio channel: Rayleigh, with Clarke's Doppler spectrum; Shannon's rate and what is lost still
handover   cells passed one after another: the rate falls toward a cell's rim, stands still, and rises in the next
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netem.traces.trace import Point, TraceError

PACKET_BITS = 1500 * 8
SCATTERERS = 256  # of Clarke's model: waves from so many directions
LEAST_MBPS = 1e-3  # less is nothing: the link could not send a packet in ten seconds


@dataclass(frozen=True)
class Grid:
    """How long, how fine, which coins."""

    seconds: float = 60.0
    step_s: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        _positive(seconds=self.seconds, step_s=self.step_s)
        if self.step_s < 0.01:
            raise TraceError(f"step_s is {self.step_s:g}: the link can follow a change every 0.01 s, no faster")
        if self.n < 2:
            raise TraceError(f"seconds ({self.seconds:g}) is less than two steps of {self.step_s:g} s")

    @property
    def n(self) -> int:
        return round(self.seconds / self.step_s)

    @property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    @property
    def times_s(self) -> NDArray[np.float64]:
        return np.arange(self.n, dtype=np.float64) * self.step_s


def on_off(
    grid: Grid,
    up_s: float = 8.0,
    down_s: float = 1.0,
    rate_mbps: float = 20.0,
    down_mbps: float = 0.0,
) -> list[Point]:
    """`up_s` and `down_s` are mean sojourns; both states' lengths are exponential, in whole steps, one at least."""
    _positive(up_s=up_s, down_s=down_s, rate_mbps=rate_mbps)
    _at_least(0, down_mbps=down_mbps)
    rng, is_up, rates = grid.rng, True, list[float]()
    while len(rates) < grid.n:
        steps = max(1, round(rng.exponential(up_s if is_up else down_s) / grid.step_s))
        rates += [rate_mbps if is_up else down_mbps] * steps
        is_up = not is_up
    return _points(grid, np.array(rates[: grid.n]))


def walk(
    grid: Grid,
    low_mbps: float = 1.0,
    high_mbps: float = 30.0,
    spread: float = 0.5,
    memory_s: float = 5.0,
    delay_ms: float | None = None,
) -> list[Point]:
    """An Ornstein-Uhlenbeck process of the rate's logarithm around the bounds' geometric mean, reflected at both;
    `spread` is its standard deviation (natural logarithm), `memory_s` the time in which it forgets. With `delay_ms` the
    delay goes the other way: that long at the high bound, as many times longer as the rate is lower, in its root."""
    _positive(low_mbps=low_mbps, spread=spread, memory_s=memory_s)
    if not high_mbps > low_mbps:
        raise TraceError(f"high_mbps ({high_mbps:g}) has to be above low_mbps ({low_mbps:g})")
    low, high = math.log(low_mbps), math.log(high_mbps)
    middle, keep = (low + high) / 2, math.exp(-grid.step_s / memory_s)
    kicks = grid.rng.normal(0.0, spread, grid.n)
    away, logs = kicks[0], np.empty(grid.n)
    for i in range(grid.n):
        away = keep * away + math.sqrt(1 - keep**2) * kicks[i] if i else away
        away = _reflected(middle + away, low, high) - middle
        logs[i] = middle + away
    rates = np.exp(logs)
    return _points(grid, rates, delay_ms=None if delay_ms is None else delay_ms * np.sqrt(high_mbps / rates))


def fading(
    grid: Grid,
    mean_snr_db: float = 12.0,
    bandwidth_mhz: float = 5.0,
    doppler_hz: float = 5.0,
    known_after_ms: float = 4.0,
    margin_db: float = 3.0,
    tries: int = 4,
) -> list[Point]:
    """A step is a block, in which the channel stands still.

    The sender knows the channel as it was `known_after_ms` before the block and takes Shannon's rate of that,
    B log2(1 + SNR / margin). A packet of 1500 bytes fails with the normal approximation's probability
    Q(sqrt(n / V) (C - R)) over its n channel uses (Polyanskiy, Poor and Verdu 2010, IEEE Trans. Inf. Theory 56(5),
    theorem 54, for a complex channel); it is sent up to `tries` times in all, which slows the rate down, and what fails
    then is lost. The gain is Rayleigh with Clarke's autocorrelation J0(2 pi f_d t): a sum of waves from all around.
    """
    _positive(bandwidth_mhz=bandwidth_mhz)
    _at_least(0, doppler_hz=doppler_hz, known_after_ms=known_after_ms, margin_db=margin_db)
    _at_least(1, tries=tries)
    mean_snr = 10 ** (mean_snr_db / 10)
    snr = mean_snr * np.abs(rayleigh(grid, grid.times_s, doppler_hz)) ** 2
    known = mean_snr * np.abs(rayleigh(grid, grid.times_s - known_after_ms / 1e3, doppler_hz)) ** 2
    bits = np.log2(1 + known / 10 ** (margin_db / 10))  # a channel use, R
    failing = packet_error(snr, bits)
    sendings = sum(failing**k for k in range(tries))  # on the mean, of a packet
    return _points(grid, bandwidth_mhz * bits / sendings, loss_pct=100 * failing**tries)


def rayleigh(grid: Grid, times_s: NDArray[np.float64], doppler_hz: float) -> NDArray[np.complex128]:
    """[n] gains of mean power 1 at these times of the grid's channel."""
    rng = grid.rng
    angles = 2 * np.pi * (np.arange(SCATTERERS) + rng.random()) / SCATTERERS
    phases = 2 * np.pi * rng.random(SCATTERERS)
    gains = np.zeros(len(times_s), dtype=np.complex128)
    for angle, phase in zip(angles, phases):
        gains += np.exp(1j * (2 * np.pi * doppler_hz * math.cos(angle) * times_s + phase))
    return gains / math.sqrt(SCATTERERS)


def packet_error(snr: NDArray[np.float64], bits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Chance that a packet of 1500 bytes at `bits` a channel use does not get through at `snr`; all [n]."""
    capacity = np.log2(1 + snr)
    dispersion = np.maximum(snr * (snr + 2) / (snr + 1) ** 2 * math.log2(math.e) ** 2, 1e-12)
    uses = PACKET_BITS / np.maximum(bits, 1e-9)
    deviations = np.sqrt(uses / dispersion) * (capacity - bits)
    return np.array([0.5 * math.erfc(x / math.sqrt(2)) for x in deviations])


def handover(
    grid: Grid,
    rate_mbps: float = 30.0,
    rim_mbps: float = 4.0,
    delay_ms: float = 20.0,
    rim_delay_ms: float = 40.0,
    cell_s: float = 15.0,
    gap_s: float = 0.2,
) -> list[Point]:
    """Every `cell_s` or so (a fifth more or less) the next cell; in between nothing passes for `gap_s`, in whole steps.
    From a cell's rim to its middle and back, rate and delay go as the square of a sine."""
    _positive(rate_mbps=rate_mbps, rim_mbps=rim_mbps, cell_s=cell_s, gap_s=gap_s)
    _at_least(0, delay_ms=delay_ms, rim_delay_ms=rim_delay_ms)
    rng, nearness = grid.rng, list[float]()
    while len(nearness) < grid.n:
        steps = max(2, round(cell_s * rng.uniform(0.8, 1.2) / grid.step_s))
        nearness += [math.sin(math.pi * (i + 0.5) / steps) ** 2 for i in range(steps)]
        nearness += [math.nan] * max(1, round(gap_s / grid.step_s))
    near = np.array(nearness[: grid.n])
    rates = np.where(np.isnan(near), 0.0, rim_mbps + (rate_mbps - rim_mbps) * near)
    return _points(grid, rates, delay_ms=rim_delay_ms + (delay_ms - rim_delay_ms) * np.nan_to_num(near))


KINDS: dict[str, Callable[..., list[Point]]] = {"on-off": on_off, "walk": walk, "fading": fading, "handover": handover}


def _points(
    grid: Grid,
    rate_mbps: NDArray[np.float64],
    delay_ms: NDArray[np.float64] | None = None,
    loss_pct: NDArray[np.float64] | None = None,
) -> list[Point]:
    """Rounded to what `tc` can say."""
    rates = np.where(rate_mbps < LEAST_MBPS, 0.0, rate_mbps).round(6)
    columns: dict[str, NDArray[np.float64]] = {"rate_mbps": rates}
    columns |= {} if delay_ms is None else {"delay_ms": delay_ms.round(3)}
    columns |= {} if loss_pct is None else {"loss_pct": np.where(loss_pct < 1e-4, 0.0, loss_pct).round(4)}
    times = grid.times_s.round(6)
    return [
        Point(float(t_s), **{key: float(column[i]) for key, column in columns.items()}) for i, t_s in enumerate(times)
    ]


def _reflected(value: float, low: float, high: float) -> float:
    """Folded back into the bounds, as often as it takes."""
    span = high - low
    place = (value - low) % (2 * span)
    return low + (place if place <= span else 2 * span - place)


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise TraceError(f"{name} is {value:g}: give a number above 0")


def _at_least(least: float, **values: float) -> None:
    for name, value in values.items():
        if not (value >= least and math.isfinite(value)):
            raise TraceError(f"{name} is {value:g}: give a number of at least {least:g}")
