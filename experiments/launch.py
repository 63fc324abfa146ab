"""One run: build the link, check it, start both nodes on it, watch them, take everything down, sum up.

The nodes are ordinary processes told by one file (`run.json`) what to do; they report on stdout and write their own
records, so what was measured before a failure is on disk whatever happens here.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from experiments import course
from experiments.schema import Config
from netem.check import check_link
from netem.lab import Lab, exit_on_sigterm, open_lab
from netem.traces.player import Player
from transport.keys import make_keys

READY_WITHIN_S = 120.0  # loading a large model takes its time
STOP_WITHIN_S = 10.0
LOG_TAIL_LINES = 15
HEARTBEAT_S = 2.0


class RunError(RuntimeError):
    """A node failed; the message is what it said last and where its log is."""


@dataclass
class Outcome:
    """What a run left, besides its files."""

    status: str = "interrupted"  # `complete`, or what ended it
    link: dict[str, Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)  # edge restarts and the like
    hosts: dict[str, Any] = field(default_factory=dict)  # by role, where the nodes ran elsewhere


Progress = Callable[[str, dict[str, Any]], None]  # (stage, fields): link, check, edge, device, request, done


@dataclass(frozen=True)
class Seat:
    """Where a node runs and what it is told there."""

    node: str
    python: str
    arguments: Sequence[str]  # its files and keys, as paths there
    wrap: Callable[[list[str]], list[str]]  # the command that runs another there
    leashed: bool = False  # it ends with its standard input, not with its parent: a parent far away is none
    stdin: int = subprocess.DEVNULL  # of one that is not leashed
    lost: Callable[[], str] = lambda: ""  # what cut us off from it, if something did

    def asked_through(self, prompts: int | None) -> Seat:
        """The same, for a device that takes its requests from this descriptor."""
        if prompts is None:
            return self
        return replace(self, arguments=[*self.arguments, "--prompts-on-stdin"], stdin=prompts)


class Node:
    """A node process whose stdout is a stream of JSON events and whose stderr is a log file."""

    def __init__(self, seat: Seat, arguments: list[str], folder: Path, events: queue.Queue) -> None:
        self.seat, self.name, self.log = seat, seat.node, folder / f"{seat.node}.log"
        self.said = ""  # the last failure it told of
        bond = "--die-with-stdin" if seat.leashed else f"--die-with-parent={os.getpid()}"
        argv = [seat.python, "-m", "nodes.process", seat.node, bond, *seat.arguments, *arguments]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                seat.wrap(argv),
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.PIPE if seat.leashed else seat.stdin,
                env={**os.environ, "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1")},
                start_new_session=True,  # Ctrl-C is ours to handle: nodes are told to stop, not shot
            )
        self._reader = threading.Thread(target=self._read, args=(events,), daemon=True)
        self._reader.start()
        self._released = threading.Event()
        if seat.leashed:
            threading.Thread(target=self._hold, daemon=True).start()

    def _hold(self) -> None:
        """A byte now and then says that we are there; the end of the stream, that we are not."""
        assert self.process.stdin is not None
        with suppress(OSError), self.process.stdin as leash:
            while not self._released.wait(HEARTBEAT_S) and self.process.poll() is None:
                leash.write(b"\n")
                leash.flush()

    def _read(self, events: queue.Queue) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                event = json.loads(line)
                self.said = event.get("error", self.said)
                events.put((self, event))
            except (ValueError, AttributeError):  # a library that prints; it is in nobody's way
                continue
        events.put((self, {"event": "exit", "code": self.process.wait()}))

    def stop(self) -> None:
        """SIGTERM, or the end of its stdin, then SIGKILL. Idempotent."""
        self._released.set()
        if self.process.poll() is None:
            if not self.seat.leashed:
                self.process.terminate()
            try:
                self.process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self._reader.join(STOP_WITHIN_S)

    def complaint(self) -> str:
        """The end of the log, for an error message."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n  ".join([f"{self.said} (log: {self.log})".strip(), *lines])

    def raise_if_over(self, event: dict[str, Any]) -> None:
        """Raises RunError if this event is this node's last."""
        if event["event"] == "failed":
            raise RunError(f"{self.name}: {event['error']} (log: {self.log})")
        if event["event"] == "exit":
            if cut_off := self.seat.lost():
                raise RunError(cut_off)
            raise RunError(f"the {self.name} process ended with code {event['code']} {self.complaint()}")


def run_nodes(config: Config, folder: Path, progress: Progress, outcome: Outcome, prompts: int | None = None) -> None:
    """Run `config` with its files in `folder`, noting in `outcome` what happened besides. Raises LinkError, RunError;
    link and nodes are gone afterwards. `prompts`: a file descriptor the device is asked through (nodes/dialogue.py)."""
    write_told(config, folder)
    course.keep_files(config.link, folder)
    with exit_on_sigterm(), interrupt_as_exit(), tempfile.TemporaryDirectory(prefix="dssd-keys-") as secrets:
        progress("link", {})
        with open_lab(config.link) as lab:
            outcome.link = lab.describe()
            _check(lab, config, folder, progress, outcome)
            keys = _keys(config, Path(secrets))
            address = lab.edge.address
            with Player(lab, folder / course.LOG) as player:
                seats = _seats(lab, folder, keys, prompts)
                heard = _hearing(progress, course.Course(player, config.link))
                try:
                    supervise(config, seats, f"tcp://{address}:0", address, folder, heard, outcome)
                finally:
                    outcome.link |= {"played": played} if (played := course.played(folder)) else {}
            player.check()
            outcome.link["counters"] = lab.exec_counters()
            write_link(folder, outcome)


def write_told(config: Config, folder: Path) -> Path:
    """run.json: what both nodes are told."""
    path = folder / "run.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(config.to_runspec()), indent=1))
    return path


def _hearing(progress: Progress, played: course.Course) -> Progress:
    def heard(stage: str, fields: dict[str, Any]) -> None:
        played.hear(stage, fields)
        progress(stage, fields)

    return heard


def _check(lab: Lab, config: Config, folder: Path, progress: Progress, outcome: Outcome) -> None:
    """Measure the link before it is believed; what was measured is kept even if the link is refused."""
    report = None
    if config.link.is_shaped:
        progress("check", {})
        report = check_link(lab, lab.now)
        outcome.link |= {**report.to_dict(), "declared": lab.spec.model_dump()}
    write_link(folder, outcome)
    if report:
        report.require()


def write_link(folder: Path, outcome: Outcome) -> None:
    (folder / "link.json").write_text(json.dumps(outcome.link, indent=1) + "\n", encoding="utf-8")


def _keys(config: Config, secrets: Path) -> list[str]:
    if config.transport.security == "plain":
        return []
    make_keys(secrets / "keys")
    return ["--keys", str(secrets / "keys")]


def _seats(lab: Lab, folder: Path, keys: list[str], prompts: int | None) -> tuple[Seat, Seat]:
    """The device's and the edge's, in this machine's lab."""
    told = ["--spec", str(folder / "run.json"), "--out", str(folder), *keys]
    interface = ["--interface", lab.device.interface] if lab.device.namespace else []
    device = Seat("device", sys.executable, [*told, *interface], lab.device.wrap).asked_through(prompts)
    return device, Seat("edge", sys.executable, told, lab.edge.wrap)


def supervise(
    config: Config,
    seats: tuple[Seat, Seat],
    bind: str,
    edge_address: str,
    folder: Path,
    progress: Progress,
    outcome: Outcome,
) -> None:
    """Start the edge at `bind`, then the device, which finds it at `edge_address`; an edge that dies is restarted as
    often as the configuration allows. Raises RunError; both have ended afterwards."""
    events: queue.Queue[tuple[Node, dict[str, Any]]] = queue.Queue()
    nodes: list[Node] = []

    def start(seat: Seat, *arguments: str) -> Node:
        nodes.append(Node(seat, list(arguments), folder, events))
        return nodes[-1]

    def port_of(edge: Node) -> str:
        for _, event in _events_of(edge, events, time.monotonic() + READY_WITHIN_S):
            if event["event"] == "ready":
                return str(event["endpoint"].rpartition(":")[2])
            edge.raise_if_over(event)
        raise RunError(f"the edge was not ready within {READY_WITHIN_S:.0f} s {edge.complaint()}")

    try:
        progress("edge", {})
        edge = start(seats[1], "--bind", bind)
        port = port_of(edge)
        progress("device", {"endpoint": f"tcp://{edge_address}:{port}"})
        device = start(seats[0], "--connect", f"tcp://{edge_address}:{port}")
        restarts = 0
        while True:
            node, event = events.get()
            if node is device:
                if event["event"] == "exit" and event["code"] == 0:
                    return
                device.raise_if_over(event)
                progress(event["event"], event)
            elif node is edge and event["event"] == "exit":
                if cut_off := edge.seat.lost():
                    raise RunError(cut_off)
                if restarts == config.edge.restarts:
                    raise RunError(f"the edge died with code {event['code']} {edge.complaint()}")
                restarts += 1
                outcome.events.append({"event": "edge_restarted", "code": event["code"], "t_ns": time.monotonic_ns()})
                progress("edge_restarted", event)
                edge = start(seats[1], "--bind", f"{bind.rpartition(':')[0]}:{port}")
    finally:
        for node in reversed(nodes):
            node.stop()


def attend(seat: Seat, edge: str, folder: Path, progress: Progress) -> None:
    """Start the device alone, for an edge that listens at `edge` already. Raises RunError; it has ended afterwards."""
    events: queue.Queue[tuple[Node, dict[str, Any]]] = queue.Queue()
    with exit_on_sigterm(), interrupt_as_exit():
        progress("device", {"endpoint": edge})
        device = Node(seat, ["--connect", edge], folder, events)
        try:
            while True:
                _, event = events.get()
                if event["event"] == "exit" and event["code"] == 0:
                    return
                device.raise_if_over(event)
                progress(event["event"], event)
        finally:
            device.stop()


def _events_of(node: Node, events: queue.Queue, deadline: float) -> Iterator[tuple[Node, dict[str, Any]]]:
    while (left := deadline - time.monotonic()) > 0:
        try:
            sender, event = events.get(timeout=left)
        except queue.Empty:
            return
        if sender is node:
            yield sender, event


@contextmanager
def interrupt_as_exit() -> Iterator[None]:
    """Ctrl-C leaves every `with`, as SIGTERM does; the exit code is the shell's, 130."""
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(130) from None
