"""Joules from samples, after the run: pure, offline, and telescoping, so that the parts sum to the whole.

A counter is followed linearly between two samples. A hole of more than GAP_PERIODS sampling periods is never
interpolated: what was drawn in it is known as a sum and as nothing finer, so a bound inside it has no value. Not even
the sum is known where nothing counted meanwhile: over a reset, and over a long hole in what is integrated from watts.
A counter that moves in steps coarser than the sampling is followed from step to step instead of along its
stairs. Joules that were integrated from a sensor's watts move at every read: their step is the sensor's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.probes import STATUSES
from nodes.probes.sampler import Sample

GAP_PERIODS = 5.0
STILL_NS, STILL_STEPS = 1_000_000_000, 20.0
IDLE, GAP = ("idle", "", ""), ("gap", "", "")  # rows of nobody

Interval = tuple[int, int]  # t0_ns, t1_ns
Phase = tuple[int, int, str, str, str]  # t0_ns, t1_ns, phase, system, request_id


@dataclass(frozen=True)
class EnergyResult:
    """Joules in a window, or None where they cannot be known. `source` names the probes that were added.

    Flags: `no_samples` (nothing counts towards this node's energy), `outside` (a bound lies before the first
    or after the last sample), `gap` (a bound lies in a hole: no value), `spans_gap` (a hole inside: the sum
    stands, its course is unknown), `counter_reset` (the counting started again inside, after a reset or, of integrated
    watts, after a hole: no value, as nothing counted what was drawn meanwhile),
    `below_resolution` (the window is shorter than the counter's step: average over many such windows),
    `stands_still` (a measured counter did not move for a second and twenty of its steps: is the sensor alive?).
    """

    joules: float | None
    status: str
    source: str
    flags: tuple[str, ...] = ()


@dataclass
class Counter:
    """The cumulative joules of one channel: what `integrate` works on. Made by `counters`."""

    node: str
    probe: str
    channel: str
    status: str
    t_ns: NDArray[np.int64]  # [n] increasing
    joules: NDArray[np.float64]  # [n] never falling
    resets: list[Interval] = field(default_factory=list)  # in which nothing counted: `joules` stands still there
    gap_periods: float = GAP_PERIODS
    renewed_ms: float = 0.0  # of the watts it was integrated from; 0: it was counted

    def __post_init__(self) -> None:
        period_ns = _period_ns(self.t_ns)
        wide = np.flatnonzero(np.diff(self.t_ns) > self.gap_periods * period_ns)
        self.gaps: list[Interval] = [(int(self.t_ns[i]), int(self.t_ns[i + 1])) for i in wide]
        self.gaps = sorted({*self.gaps, *self.resets})
        steps = np.flatnonzero(np.diff(self.joules) > 0) + 1
        seen_ns = float(np.median(np.diff(self.t_ns[steps]))) if len(steps) > 1 else float(period_ns)
        self.step_ns = max(seen_ns, self.renewed_ms * 1e6)
        ends = np.unique(np.concatenate([[0], steps, [len(self.t_ns) - 1]]))
        long = np.flatnonzero(np.diff(self.t_ns[ends]) > max(STILL_NS, STILL_STEPS * self.step_ns))
        self.stills: list[Interval] = []
        if self.status == "measured":
            self.stills = [(int(self.t_ns[ends[i]]), int(self.t_ns[ends[i + 1]])) for i in long]
            self.stills = [still for still in self.stills if still not in self.gaps and not _within(self.resets, still)]
        keep = np.arange(len(self.t_ns))
        if seen_ns > 1.5 * period_ns:  # a staircase: between steps nothing is known but their sum
            keep = ends
        self._at = (self.t_ns[keep] - self.t_ns[0]).astype(float)
        self._joules = self.joules[keep]

    def at(self, t_ns: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
        """Joules at instants within the samples. Whoever asks has looked at `gaps` first."""
        since_ns = np.asarray(t_ns, dtype=np.int64) - self.t_ns[0]
        return np.interp(since_ns.astype(float), self._at, self._joules)

    def at_edges(self, t_ns: Sequence[int]) -> NDArray[np.float64]:
        """Joules at instants, in order, at which the power may have changed.

        A sampling interval with edges inside shares its joules in proportion to the power of the interval
        before (up to the first edge), of itself (between edges) and of the interval after, where those two
        have no edge of their own; elsewhere as `at`. Only the split of what was counted moves: the sum is
        untouched.
        """
        edges = (np.asarray(t_ns, dtype=np.int64) - self.t_ns[0]).astype(float)
        joules = np.interp(edges, self._at, self._joules)
        power = np.diff(self._joules) / np.diff(self._at)
        interval = np.searchsorted(self._at, edges, side="right") - 1  # [edges] the one it lies in
        inside = ~np.isin(edges, self._at)
        torn = set(interval[inside].tolist())
        for k in (k for k in torn if 1 <= k < len(power) - 1 and not {k - 1, k + 1} & torn):
            here = np.flatnonzero(inside & (interval == k))
            widths = np.diff([self._at[k], *edges[here], self._at[k + 1]])
            shares = np.cumsum(widths * [power[k - 1], *[power[k]] * (len(here) - 1), power[k + 1]])
            if shares[-1] > 0:
                counted_j = self._joules[k + 1] - self._joules[k]
                joules[here] = self._joules[k] + counted_j * shares[:-1] / shares[-1]
        return joules


def _period_ns(t_ns: NDArray[np.int64]) -> float:
    return float(np.median(np.diff(t_ns))) if len(t_ns) > 1 else 0.0


def counters(
    samples: Iterable[Sample],
    node: str | None = None,
    channels: Sequence[tuple[str, str]] | None = None,
    gap_periods: float = GAP_PERIODS,
) -> list[Counter]:
    """The counted energy channels (of one node, or of all) as counters.

    With `channels` those (probe, channel) pairs instead, for what stands beside the total: a single rail, a
    radio.
    """
    rows: dict[tuple[str, str, str], list[Sample]] = {}
    for sample in samples:
        wanted = sample.total if channels is None else (sample.probe, sample.channel) in channels
        if wanted and sample.unit == "j" and node in (None, sample.node):
            rows.setdefault((sample.node, sample.probe, sample.channel), []).append(sample)
    found = []
    for (of_node, probe, channel), group in rows.items():
        group.sort(key=lambda s: s.t_ns)
        t_ns = np.array([s.t_ns for s in group], dtype=np.int64)
        values = np.array([s.value for s in group])
        rise = np.diff(values, prepend=values[0])
        lost = rise < 0  # a restarted sampler counts from zero again
        renewed_ms = max(s.renewed_ms for s in group)
        if renewed_ms:  # no sensor counted on while nobody read it
            longest_ns = gap_periods * max(_period_ns(t_ns), renewed_ms * 1e6)
            lost |= np.diff(t_ns, prepend=t_ns[0]) > longest_ns
        rise[lost] = 0.0
        resets = [(int(t_ns[i - 1]), int(t_ns[i])) for i in np.flatnonzero(lost)]
        joules = np.cumsum(rise)
        found.append(Counter(of_node, probe, channel, group[0].status, t_ns, joules, resets, gap_periods, renewed_ms))
    return found


def integrate(counter: Counter, intervals: Sequence[Interval]) -> list[EnergyResult]:
    """Joules per interval; None with the reason where a bound falls outside the samples or into a gap."""
    joules = np.diff(counter.at(np.array(intervals, dtype=np.int64).reshape(-1)).reshape(-1, 2), axis=1)[:, 0]
    results = []
    for (t0_ns, t1_ns), value in zip(intervals, joules):
        flags = _flags(counter, t0_ns, t1_ns)
        known = not {"outside", "gap", "counter_reset"} & set(flags)
        results.append(EnergyResult(float(value) if known else None, counter.status, counter.probe, flags))
    return results


def _flags(counter: Counter, t0_ns: int, t1_ns: int) -> tuple[str, ...]:
    flags = []
    if t0_ns < counter.t_ns[0] or t1_ns > counter.t_ns[-1]:
        flags.append("outside")
    if any(a < t0_ns < b or a < t1_ns < b for a, b in counter.gaps):
        flags.append("gap")
    lost = _within(counter.resets, (t0_ns, t1_ns))
    if len(_within(counter.gaps, (t0_ns, t1_ns))) > len(lost):  # the resets are among the gaps
        flags.append("spans_gap")
    if lost:
        flags.append("counter_reset")
    if any(a < t1_ns and t0_ns < b for a, b in counter.stills):
        flags.append("stands_still")
    if t1_ns - t0_ns < counter.step_ns:
        flags.append("below_resolution")
    return tuple(flags)


def energy_between(samples: Iterable[Sample] | Sequence[Counter], node: str, t0_ns: int, t1_ns: int) -> EnergyResult:
    """What a node drew between two instants of its monotonic clock: all its counted channels together.

    Give the samples of a trace, or for many windows of one trace the `counters` made from them once.
    """
    parts = [integrate(c, [(t0_ns, t1_ns)])[0] for c in _of(samples, node)]
    if not parts:
        return EnergyResult(None, "unsupported", "", ("no_samples",))
    known = [part.joules for part in parts if part.joules is not None]
    return EnergyResult(
        sum(known) if len(known) == len(parts) else None,
        max((part.status for part in parts), key=STATUSES.index),
        "+".join(dict.fromkeys(part.source for part in parts)),
        tuple(dict.fromkeys(flag for part in parts for flag in part.flags)),
    )


def _of(samples: Iterable[Sample] | Sequence[Counter], node: str) -> list[Counter]:
    given: list[Any] = list(samples)
    if given and isinstance(given[0], Counter):
        return [counter for counter in given if counter.node == node]
    return counters(given, node)


def attribute(
    samples: Iterable[Sample] | Sequence[Counter],
    phases: Sequence[Phase],
    node: str,
    span: Interval | None = None,
    passive: Sequence[str] = ("wait",),
    idle_w: float | None = None,
) -> list[dict[str, Any]]:
    """A node's joules by (phase, system, request_id); the time between phases is the row `idle`.

    Instants with several phases at once share their joules equally, except that a `passive` phase yields to
    any other. A hole in the samples with a phase bound inside, or in which nothing counted, becomes the row `gap`,
    whose joules belong to nobody in particular. The rows sum to what was counted in `span` (by default all of the
    samples; clipped to them, and `windows_outside` counts the windows of a row that this cut). With `idle_w`, the watts
    at rest, `joules_above_idle` is what is left of `joules`.
    """
    mine = _of(samples, node)
    if not mine:
        return []
    first = max([int(c.t_ns[0]) for c in mine] + ([span[0]] if span else []))
    last = min([int(c.t_ns[-1]) for c in mine] + ([span[1]] if span else []))
    bounds = {min(max(t, first), last) for t0, t1, *_ in phases for t in (t0, t1)} | {first, last}
    holes = _merged(gap for counter in mine for gap in counter.gaps)
    resets = [reset for counter in mine for reset in counter.resets]
    torn = [hole for hole in holes if any(hole[0] < t < hole[1] for t in bounds) or _within(resets, hole)]
    cuts = sorted(
        t
        for t in bounds | {min(max(t, first), last) for gap in torn for t in gap}
        if t in (first, last) or not any(a < t < b for a, b in torn)
    )
    if first >= last:
        return []
    joules = np.diff(sum((c.at_edges(cuts) for c in mine), np.zeros(len(cuts))))
    owners = _owners(cuts, phases, torn, passive)

    status = max((c.status for c in mine), key=STATUSES.index)
    source = "+".join(dict.fromkeys(c.probe for c in mine))
    step_ns = max(c.step_ns for c in mine)
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for key in [*(phase[2:] for phase in phases), IDLE, GAP]:
        rows.setdefault(
            key,
            {
                "node": node,
                "phase": key[0],
                "system": key[1],
                "request_id": key[2],
                "joules": 0.0,
                "seconds": 0.0,
                "windows": 0,
                "windows_below_resolution": 0,
                "windows_outside": 0,
                "status": status,
                "source": source,
            },
        )
    for i, keys in enumerate(owners):
        for key in keys:
            rows[key]["joules"] += float(joules[i]) / len(keys)
            rows[key]["seconds"] += (cuts[i + 1] - cuts[i]) / 1e9 / len(keys)
    for phase in phases:
        row = rows[phase[2:]]
        row["windows"] += 1
        row["windows_below_resolution"] += phase[1] - phase[0] < step_ns
        row["windows_outside"] += phase[0] < first or phase[1] > last
    if idle_w is not None:
        for row in rows.values():
            row["joules_above_idle"] = row["joules"] - idle_w * row["seconds"]
    return [row for key, row in rows.items() if key != GAP or row["seconds"] > 0]


def _within(intervals: Iterable[Interval], whole: Interval) -> list[Interval]:
    return [(a, b) for a, b in intervals if whole[0] <= a and b <= whole[1]]


def _merged(intervals: Iterable[Interval]) -> list[Interval]:
    """Those that overlap as one: where any counter has a hole, the sum of all has none but the ends of that."""
    merged: list[Interval] = []
    for t0_ns, t1_ns in sorted(intervals):
        if merged and t0_ns < merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], t1_ns)
        else:
            merged.append((t0_ns, t1_ns))
    return merged


def _owners(
    cuts: list[int], phases: Sequence[Phase], torn: list[Interval], passive: Sequence[str]
) -> list[list[tuple[str, str, str]]]:
    """Who draws between each cut and the next: one sweep over the bounds in the order of time."""
    opens = sorted((p for p in phases if p[0] < p[1]), key=lambda p: p[0])
    open_now: list[Phase] = []
    owners, following = [], 0
    for t0, t1 in itertools.pairwise(cuts):
        while following < len(opens) and opens[following][0] <= t0:
            open_now.append(opens[following])
            following += 1
        open_now = [p for p in open_now if p[1] > t0]
        active = [p for p in open_now if p[2] not in passive] or open_now
        if any(a <= t0 and t1 <= b for a, b in torn):
            owners.append([GAP])
        else:
            owners.append([phase[2:] for phase in active] or [IDLE])
    return owners


def power_w(
    samples: Iterable[Sample] | Sequence[Counter], node: str, step_ms: float = 100.0
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Mean watts of a node per step, for plotting: [n] t_ns at the middle of the step, [n] watts, NaN in
    gaps.
    """
    mine = _of(samples, node)
    if not mine:
        return np.empty(0, dtype=np.int64), np.empty(0)
    step_ns = int(step_ms * 1e6)
    cuts = np.arange(max(c.t_ns[0] for c in mine), min(c.t_ns[-1] for c in mine), step_ns, dtype=np.int64)
    watts = np.diff(sum((c.at(cuts) for c in mine), np.zeros(len(cuts)))) / (step_ns / 1e9)
    for start, end in (gap for c in mine for gap in c.gaps):
        watts[(cuts[1:] > start) & (cuts[:-1] < end)] = np.nan
    return cuts[:-1] + step_ns // 2, watts
