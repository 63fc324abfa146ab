"""A laboratory: a device host and an edge host, joined by a link that is what it was declared to be.

    with exit_on_sigterm(), open_lab(LinkSpec(rtt_ms=40, rate_mbps=10)) as lab:
        subprocess.Popen(lab.edge.wrap(["python", "-m", "nodes.edge", "--bind", lab.edge.address]))

Whatever happens inside the `with`, an exception, Ctrl-C or (with `exit_on_sigterm`) SIGTERM, the
namespaces, their processes and the router are gone afterwards; after a SIGKILL, `journal.clean_leftovers`
does it. Open a lab from a thread that outlives it, best the main one: the router dies with the thread that
started it.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO

from netem import plan
from netem.apply import applied_values, bottleneck_values, differences, execute, our_netem
from netem.backend import choose_backend, choose_congestion
from netem.errors import BackendError, LinkError
from netem.inside import open_counters, parse_counters, tcp_in_force
from netem.journal import Journal, clean_leftovers, undisturbed
from netem.plan import INTERFACE, LabNames, Place, Step
from netem.spec import DIRECTIONS, Direction, LinkSpec
from netem.traces.trace import Point
from netem.uml import UmlRouter

PROBE_SCRIPT = Path(__file__).with_name("probe.py")
LAB_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")


@dataclass(frozen=True)
class Host:
    """One end of the link, as its processes see it."""

    name: Literal["device", "edge"]
    address: str
    interface: str
    namespace: str | None  # None: this machine's own, as in the loopback backend
    prober: tuple[str, ...] = (sys.executable, "-I", "-S", str(PROBE_SCRIPT))
    _counters: TextIO | None = field(default=None, repr=False, compare=False)

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` on this host."""
        if self.namespace is None:
            return list(argv)
        return ["nsenter", f"--net=/run/netns/{self.namespace}", "--", *argv]

    def read_counters(self) -> dict[str, int]:
        """`rx_bytes tx_bytes rx_packets tx_packets` of its interface so far, Ethernet headers included.

        Cheap (no process is started), from any thread, while anything runs. On loopback: of the whole
        machine's `lo`.
        """
        if self._counters is None or self._counters.closed:
            raise LinkError(f"the lab of host {self.name} is not up")
        return parse_counters(self._counters, self.interface)


class Router(Protocol):
    """Runs commands where the link is shaped; None in a lab stands for a namespace of this kernel."""

    def run(self, argv: Sequence[str]) -> str: ...


class Lab:
    """Made by `open_lab`. `backend` is 'loopback', 'netns' or 'uml'; `applied` and `tcp` are read back. A traced
    direction stands at its trace's first point until a player (see traces/player.py) moves it on."""

    router_class: type[UmlRouter] = UmlRouter

    def __init__(self, name: str, backend: str, spec: LinkSpec) -> None:
        self.name = name
        self.backend = backend
        self.spec = spec
        self.now = spec.at_start()  # what is in force at this moment, where a trace plays
        self.applied: dict[str, dict[str, Any]] = {}
        self.tcp: dict[str, dict[str, Any]] = {}
        self.router: dict[str, str] = {}
        self.device = self.edge = Host("device", "127.0.0.1", "lo", None)
        self._names = LabNames(name)
        self._journal: Journal | None = None
        self._router: Router | None = None
        self._cut: set[Direction] = set()
        self._bucket_mbps: dict[Direction, float] = {}  # of a rate that varies, as last asked for
        self._rate_held: dict[Direction, tuple[float | None, float]] = {}  # by the bucket and its gate, until when (ns)

    def change(self, spec: LinkSpec) -> None:
        """Give the live link another shape; packets in flight stay so (exceptions: see plan.reshape).

        Only `up` and `down` may differ. Raises LinkError when the kernel did not take the new values.
        """
        self._needs_router("change the link")
        if spec.tcp != self.spec.tcp:
            raise LinkError("the TCP settings of a live lab cannot be changed: open another lab")
        for which in DIRECTIONS:
            before, after = self.now.direction(which), spec.direction(which).at_start()
            if before != after:
                self._run(plan.reshape(which, before, after))
        self.spec, self.now = spec, spec.at_start()
        self._bucket_mbps.clear()
        self._rate_held.clear()
        self.read_back()

    def retune(self, which: Direction, point: Point, due_ns: float, until_ns: float) -> None:
        """Move a traced direction to another point of its trace, due at `due_ns`, whose rate holds until `until_ns`.
        Loses no packet, takes about a millisecond, does not read back. Raises CommandError."""
        before = self.now.direction(which)
        after = before.at(point)
        held = (after.rate_mbps, until_ns)
        hold_s = (until_ns - due_ns) / 1e9 if held != self._rate_held.get(which) else None
        steps = plan.retune(which, before, after, hold_s)
        if isinstance(self._router, UmlRouter):
            self._router.run_at_once([step.argv for step in steps])
        else:
            self._run(steps)
        if after.rate_mbps and hold_s is not None:
            self._bucket_mbps[which] = plan.bucket_bps(after, hold_s) / 1e6
        self._rate_held[which] = held
        self.now = self.now.model_copy(update={which: after})

    def cut(self, which: Direction | None = None) -> None:
        """A hard outage: from now on the router silently drops everything, or one direction."""
        self._needs_router("cut the link")
        for direction in [which] if which else DIRECTIONS:
            self._run(plan.cut(self._names, direction))
            self._cut.add(direction)

    def mend(self, which: Direction | None = None) -> None:
        """End an outage, of both directions or of one."""
        for direction in sorted(self._cut & set([which] if which else DIRECTIONS)):
            self._run(plan.mend(self._names, direction))
            self._cut.remove(direction)

    def exec_counters(self) -> dict[str, dict[str, int]]:
        """netem's statistics per shaped direction: what it sent on, dropped (lost or queue full), holds."""
        return {
            which: {key: int(qdisc[key]) for key in ("bytes", "packets", "drops", "overlimits", "qlen", "backlog")}
            for which in DIRECTIONS
            if (qdisc := our_netem(self._qdiscs(which))) is not None
        }

    def close(self) -> None:
        """Take everything down. Idempotent. Raises LinkError naming what could not be removed."""
        if isinstance(self._router, UmlRouter):
            self._router.stop()
        self.detach()
        journal, self._journal = self._journal, None
        if journal is not None and (problems := journal.close()):
            raise LinkError(f"lab {self.name} was not removed completely:\n  " + "\n  ".join(problems))

    def _open(self) -> None:
        if self.backend == "loopback":
            self.device = Host("device", "127.0.0.1", "lo", None, _counters=open_counters(None))
            self.edge = Host("edge", "127.0.0.1", "lo", None, _counters=open_counters(None))
            self.tcp = {"device": tcp_in_force(None, "lo"), "edge": tcp_in_force(None, "lo")}
            return
        if os.geteuid() != 0:
            raise BackendError("this program is not root: run it with sudo, or see netem.rootless")
        congestion = choose_congestion(self.spec.tcp.congestion)
        made = plan.namespaces(self._names)
        with suppress(LinkError):  # somebody else's trouble; the doctor will tell
            clean_leftovers()
        journal = Journal(
            self.name, list(self._names.namespaces), [list(step.argv) for step in made.undo], self.backend
        )
        journal.write()
        self._journal = journal
        self._run(made.steps)
        shaping = plan.router(self._names, self.spec)
        if self.backend == "netns":
            self._run([*plan.veth_wires(self._names), *shaping])
        else:
            make, move = plan.tap_wires(self._names)
            self._run(make)
            self._router = guest = self.router_class(self._names, journal.folder)
            guest.wait_until_up()
            self.router = guest.describe()
            self._run([*shaping, *move])  # the guest opens a tap when it brings its port up; only then may it move
        for end in plan.ENDS:
            self._run(plan.host(self._names, end, self.spec.tcp, congestion))
        self._find_hosts()
        self.read_back()
        for host in (self.device, self.edge):
            self.tcp[host.name] = tcp_in_force(host.namespace, host.interface)

    def attach(self, router: Router) -> None:
        """Take part in a lab that another process holds (see keeper.attached)."""
        self._router = router
        self._find_hosts()
        for which in DIRECTIONS:
            self.applied[which] = self._applied(which)

    def detach(self) -> None:
        """Let go of the namespaces: an open counter would keep them alive."""
        for host in (self.device, self.edge):
            if host._counters is not None:
                host._counters.close()

    def on_router(self, argv: Sequence[str]) -> str:
        """Run a command on the router. Raises CommandError when it fails."""
        return self._run_one("router", argv)

    def _find_hosts(self) -> None:
        self.device, self.edge = self._host("device"), self._host("edge")

    def _host(self, name: Literal["device", "edge"]) -> Host:
        namespace = self._names.namespace(name)
        return Host(name, self._names.address(name), INTERFACE, namespace, _counters=open_counters(namespace))

    def _run(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self._run_one(step.place, step.argv)

    def _run_one(self, place: Place, argv: Sequence[str]) -> str:
        if place == "router" and self._router is not None:
            return self._router.run(argv)
        return execute(plan.in_place(Step(place, tuple(argv)), self._names))

    def _qdiscs(self, which: Direction) -> str:
        if self.backend == "loopback":
            return ""
        return self._run_one("router", ["tc", "-j", "-s", "qdisc", "show", "dev", plan.PORTS[which]])

    def _applied(self, which: Direction) -> dict[str, Any]:
        shown = self._qdiscs(which)
        return applied_values(our_netem(shown)) | bottleneck_values(shown)

    def read_back(self) -> None:
        """Look at what is in force. Raises LinkError where it is not what was last asked for."""
        problems = []
        for which in DIRECTIONS:
            self.applied[which] = self._applied(which)
            asked = self.now.direction(which)
            if asked.has_bottleneck:  # shut, its bucket stays as it was
                bucket_mbps = self._bucket_mbps.get(which, asked.at_start().rate_mbps)
                asked = asked.model_copy(update={"rate_mbps": bucket_mbps})
            problems += [f"{which}: {text}" for text in differences(asked, self.applied[which])]
        if problems:
            raise LinkError("the kernel did not take the link as declared:\n  " + "\n  ".join(problems))

    def _needs_router(self, wish: str) -> None:
        if self.backend == "loopback":
            raise LinkError(f"cannot {wish} on loopback: open the lab with backend netns or uml")

    def describe(self) -> dict[str, Any]:
        """What a run records about its link, apart from what was observed."""
        return {
            "name": self.name,
            "backend": self.backend,
            "declared": self.spec.model_dump(),
            "applied": self.applied,
            "tcp": self.tcp,
            "router": self.router,
        }


@contextmanager
def open_lab(spec: LinkSpec, name: str | None = None) -> Iterator[Lab]:
    """Build the link, hand it out, take it down.

    Raises BackendError when this machine cannot build it (with the command that mends it), LinkError when a
    lab of that name is up or the kernel did not take the link as declared, CommandError when a command
    fails.
    """
    if name is not None and not LAB_NAME.fullmatch(name):
        raise LinkError(f"lab name '{name}' must be 1 to 31 of a-z, 0-9 and '-'")
    with opened(Lab(name or secrets.token_hex(4), choose_backend(spec), spec)) as lab:
        yield lab


@contextmanager
def opened(lab: Lab) -> Iterator[Lab]:
    """Build a lab, hand it out, take it down, whatever happens. Raises as `open_lab` does."""
    try:
        lab._open()
        yield lab
    finally:
        with undisturbed():
            lab.close()


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """SIGTERM and SIGHUP end the program as an exception does: every `with` is left. One that this program was started
    to ignore, as by `nohup`, stays ignored. Main thread only."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    heeded = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, leave) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
