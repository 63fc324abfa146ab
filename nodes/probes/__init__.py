"""What a node draws and computes. One probe is one file here; the file is the registration. Other packages
add theirs by an entry point of the group `dssd.probes` that names a Probe class.

A probe says first what it found (`trial`, a real read), then gives cumulative readings. Nothing is guessed
silently: every channel carries a status, and exactly the channels marked `total` add up to what their probe
covers, so that psys, package and core are never counted twice.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
import pkgutil
import re
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, ClassVar, NamedTuple

STATUSES = ("measured", "estimated", "modelled", "denied", "unsupported")  # the best first
USABLE = STATUSES[:3]
NOT_PROBES = frozenset({"calibrate", "cpu", "energy", "meter_csv", "sampler", "sampler_process"})
PLUGINS = "dssd.probes"  # entry points of other packages: a serial meter, say


class ProbeError(Exception):
    """An unknown probe or option, or a trace that cannot be read. The message names what exists or what to
    do.
    """


class Reading(NamedTuple):
    """One value now. Unit `j` and `s` and counts are cumulative since the probe was made; `w c hz pct` are of
    now.
    """

    channel: str
    value: float
    unit: str
    status: str


@dataclass(frozen=True)
class Channel:
    """What a probe can read. The `total` channels of a probe, summed, are the energy of its scope.

    `renewed_ms`, of joules that the probe integrates from a sensor's watts: how often that sensor renews them, which
    such joules, moving at every read, do not show. 0 where joules are counted.
    """

    name: str
    unit: str
    status: str
    total: bool = False
    renewed_ms: float = 0.0


@dataclass(frozen=True)
class Finding:
    """What a trial read showed. `remedy` is the line to type where the status is denied or unsupported.

    `scope` is what the total channels cover: `node` (all of it), `cpu`, `gpu` (parts that may be added),
    `process` (this node's share of a machine), `radio` (never added to the rest), or empty (no energy at
    all). `resolution_ms` is the time between two steps of the finest sensor, as far as known.
    """

    probe: str
    status: str
    detail: str = ""
    remedy: str = ""
    resolution_ms: float = 0.0
    scope: str = ""
    channels: tuple[Channel, ...] = ()

    @property
    def usable(self) -> bool:
        return self.status in USABLE


class Probe(ABC):
    """Made cheaply, tried once, then read many times by one thread."""

    name: ClassVar[str]  # the file's name
    every_ms: float = 0.0  # reading more often than this costs more than it tells
    blocking: ClassVar[bool] = False  # a read waits (network, subprocess): it gets a thread of its own

    @abstractmethod
    def trial(self) -> Finding:
        """Read for real and say what is here. Never raises for a missing or closed sensor: that is a
        status.
        """

    @abstractmethod
    def read(self) -> list[Reading]:
        """Readings of now; a channel that cannot be read now is left out. After a usable trial only."""

    def close(self) -> None:  # noqa: B027  a probe without descriptors has nothing to close
        """Give back descriptors. A probe is not read after this."""


class Joules:
    """Cumulative joules of a sensor that only shows watts: trapezoids between reads, from the first read on. Over a
    long pause that is a guess, which the reader of a trace takes for no joules (`Channel.renewed_ms`, energy.py).
    """

    def __init__(self) -> None:
        self.total_j = 0.0
        self.last: tuple[float, float] | None = None

    def add(self, watts: float, at_s: float | None = None) -> float:
        """`watts` as seen at `at_s` (monotonic seconds, now by default). Raises ValueError on NaN or
        infinity.
        """
        if not math.isfinite(watts):
            raise ValueError(f"power is {watts} W")
        at_s = time.monotonic() if at_s is None else at_s
        if self.last is not None:
            self.total_j += (watts + self.last[1]) / 2 * (at_s - self.last[0])
        self.last = (at_s, watts)
        return self.total_j


def probe_names() -> list[str]:
    """The probes that exist: the files here, and what other packages offer as entry points."""
    return sorted({*_files(), *(plugin.name for plugin in entry_points(group=PLUGINS))})


def _files() -> set[str]:
    return {module.name for module in pkgutil.iter_modules(__path__)} - NOT_PROBES


def probe_class(name: str) -> type[Probe]:
    """The class a name stands for. Raises ProbeError listing the names that exist."""
    if name in _files():
        module = importlib.import_module(f"{__name__}.{name}")
        for value in vars(module).values():
            # its module first: to Python 3.10 dict[str, float] is a type too, but no class to ask issubclass about
            if isinstance(value, type) and value.__module__ == module.__name__ and issubclass(value, Probe):
                return value
        raise ProbeError(f"{module.__name__} defines no Probe")
    for plugin in entry_points(group=PLUGINS, name=name):
        cls = plugin.load()
        if isinstance(cls, type) and issubclass(cls, Probe):
            return cls
        raise ProbeError(f"the entry point {name!r} of {PLUGINS} is no Probe class but {cls!r}")
    raise ProbeError(f"unknown probe {name!r}; there are: {', '.join(probe_names())}")


def make_probe(name: str, **options: Any) -> Probe:
    """A probe by name. Raises ProbeError for an unknown name or option, listing what exists."""
    cls = probe_class(name)
    known = inspect.signature(cls).parameters
    for option in options:
        if option not in known:
            raise ProbeError(f"probe {name!r} has no option {option!r}; it has: {', '.join(known) or 'none'}")
    return cls(**options)


def parse_probe(spec: str) -> tuple[str, dict[str, Any]]:
    """`name` or `name:option=value,option=value` as on a command line; values are JSON where they parse as
    such.
    """
    name, _, rest = spec.partition(":")
    options: dict[str, Any] = {}
    for item in re.split(r",(?=\w+=)", rest) if rest else []:
        option, equals, text = item.partition("=")
        if not equals:
            raise ProbeError(f"in probe {spec!r}: {item!r} is not option=value")
        try:
            options[option] = json.loads(text)
        except json.JSONDecodeError:
            options[option] = text
    return name, options


def try_probe(probe: Probe) -> Finding:
    """The probe's trial; one that breaks, or has two channels of one name, which nobody could tell apart in a trace, is
    unsupported, with the reason, rather than the end of the run.
    """
    try:
        finding = probe.trial()
    except Exception as error:  # any failure of a third party's sensor code is a finding, not ours
        return Finding(probe.name, "unsupported", f"trial read failed: {type(error).__name__}: {error}")
    twice = [name for name, times in Counter(channel.name for channel in finding.channels).items() if times > 1]
    if twice:
        detail = f"more than one channel is called {', '.join(twice)}"
        return Finding(probe.name, "unsupported", detail, "its author has to tell them apart (`numbered`)")
    return finding


def numbered(names: Iterable[str]) -> list[str]:
    """Sensors that share a name are told apart by their place among them: `nvme.Composite#1`, `nvme.Composite#2`."""
    names = list(names)
    times, seen = Counter(names), Counter[str]()
    unlike = []
    for name in names:
        seen[name] += 1
        unlike.append(f"{name}#{seen[name]}" if times[name] > 1 else name)
    return unlike


def find_probes(options: Mapping[str, Mapping[str, Any]] | None = None) -> list[Finding]:
    """Try every probe there is on this machine; `options` by probe name."""
    findings = []
    for name in probe_names():
        probe = make_probe(name, **(options or {}).get(name, {}))
        findings.append(try_probe(probe))
        probe.close()
    return findings


@dataclass(frozen=True)
class EnergySource:
    """The probes whose total channels, added, are the node's energy; none where nothing could be chosen."""

    probes: tuple[str, ...]
    status: str
    reason: str


def choose_energy_source(findings: Iterable[Finding], *, paced: bool = False, shared: bool = False) -> EnergySource:
    """Best status wins, then what covers the whole node over parts of it, then the finer resolution.

    `paced`: the engine's time is not its own, so only a modelled energy may stand for it. `shared`: another
    node runs on this machine, so a sensor of the machine says nothing about this node alone.
    """
    usable = [f for f in findings if f.usable and f.scope in ("node", "process", "cpu", "gpu")]
    why, need = "", "psutil_estimate"
    if paced:
        usable = [f for f in usable if f.status == "modelled"]
        why, need = "the engine is paced; ", "paced_model"
    elif shared:
        usable = [f for f in usable if f.scope == "process" or f.status == "modelled"]
        why, need = "the machine is shared; ", "psutil_estimate with the node's pids"
    if not usable:
        return EnergySource((), "unsupported", f"{why}no usable energy probe; declare watts for {need}")
    status = min((f.status for f in usable), key=STATUSES.index)
    best: dict[str, Finding] = {}
    for finding in sorted((f for f in usable if f.status == status), key=lambda f: f.resolution_ms):
        best.setdefault(finding.scope, finding)
    whole = best.get("process" if shared else "node") or best.get("node") or best.get("process")
    chosen: Sequence[Finding] = [whole] if whole else list(best.values())
    covers = " + ".join(f"{f.scope} by {f.probe}" for f in chosen)
    return EnergySource(tuple(f.probe for f in chosen), status, f"{why}best status is {status}: {covers}")
