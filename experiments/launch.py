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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from experiments.schema import Config
from netem.check import check_link
from netem.lab import Host, Lab, exit_on_sigterm, open_lab
from transport.keys import make_keys

READY_WITHIN_S = 120.0  # loading a large model takes its time
STOP_WITHIN_S = 10.0
LOG_TAIL_LINES = 15


class RunError(RuntimeError):
    """A node failed; the message is what it said last and where its log is."""


@dataclass
class Outcome:
    """What a run left, besides its files."""

    link: dict[str, Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)  # edge restarts and the like


Progress = Callable[[str, dict[str, Any]], None]  # (stage, fields): link, check, edge, device, request, done


class Node:
    """A node process whose stdout is a stream of JSON events and whose stderr is a log file."""

    def __init__(self, host: Host, node: str, arguments: list[str], folder: Path, events: queue.Queue) -> None:
        self.name, self.log = node, folder / f"{node}.log"
        argv = [sys.executable, "-m", "nodes.process", node, "--die-with-parent", *arguments]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                host.wrap(argv),
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1")},
                start_new_session=True,  # Ctrl-C is ours to handle: nodes are told to stop, not shot
            )
        self._reader = threading.Thread(target=self._read, args=(events,), daemon=True)
        self._reader.start()

    def _read(self, events: queue.Queue) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                events.put((self, json.loads(line)))
            except ValueError:  # a library that prints; it is in nobody's way
                continue
        events.put((self, {"event": "exit", "code": self.process.wait()}))

    def stop(self) -> None:
        """SIGTERM, then SIGKILL. Idempotent."""
        if self.process.poll() is None:
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
        return "\n  ".join([f"(log: {self.log})", *lines])


def run_nodes(config: Config, folder: Path, progress: Progress, outcome: Outcome) -> None:
    """Run `config` with its files in `folder`, noting in `outcome` what happened besides. Raises LinkError, RunError;
    link and nodes are gone afterwards."""
    (folder / "run.json").write_bytes(msgspec.json.format(msgspec.json.encode(config.to_runspec()), indent=1))
    with exit_on_sigterm(), _interrupt_as_exit(), tempfile.TemporaryDirectory(prefix="dssd-keys-") as secrets:
        progress("link", {})
        with open_lab(config.link) as lab:
            outcome.link = lab.describe()
            _check(lab, config, folder, progress, outcome)
            keys = _keys(config, Path(secrets))
            _supervise(config, lab, keys, folder, progress, outcome)
            outcome.link["counters"] = lab.exec_counters()


def _check(lab: Lab, config: Config, folder: Path, progress: Progress, outcome: Outcome) -> None:
    """Measure the link before it is believed; what was measured is kept even if the link is refused."""
    report = None
    if config.link.is_shaped:
        progress("check", {})
        report = check_link(lab)
        outcome.link |= report.to_dict()
    (folder / "link.json").write_text(json.dumps(outcome.link, indent=1) + "\n", encoding="utf-8")
    if report:
        report.require()


def _keys(config: Config, secrets: Path) -> list[str]:
    if config.transport.security == "plain":
        return []
    make_keys(secrets / "keys")
    return ["--keys", str(secrets / "keys")]


def _supervise(
    config: Config, lab: Lab, keys: list[str], folder: Path, progress: Progress, outcome: Outcome
) -> None:
    """Start the edge, then the device; an edge that dies is restarted as often as the configuration allows."""
    events: queue.Queue[tuple[Node, dict[str, Any]]] = queue.Queue()
    spec = ["--spec", str(folder / "run.json"), "--out", str(folder), *keys]
    nodes: list[Node] = []

    def start_edge(bind: str) -> tuple[Node, str]:
        node = Node(lab.edge, "edge", [*spec, "--bind", bind], folder, events)
        nodes.append(node)
        deadline = time.monotonic() + READY_WITHIN_S
        for _, event in _events_of(node, events, deadline):
            if event["event"] == "ready":
                return node, event["endpoint"]
            _raise_if_over(node, event)
        raise RunError(f"the edge was not ready within {READY_WITHIN_S:.0f} s {node.complaint()}")

    try:
        progress("edge", {})
        edge, endpoint = start_edge(f"tcp://{lab.edge.address}:0")
        interface = ["--interface", lab.device.interface] if lab.device.namespace else []
        progress("device", {"endpoint": endpoint})
        device = Node(lab.device, "device", [*spec, "--connect", endpoint, *interface], folder, events)
        nodes.append(device)
        restarts = 0
        while True:
            node, event = events.get()
            if node is device:
                if event["event"] == "exit" and event["code"] == 0:
                    return
                _raise_if_over(node, event)
                progress(event["event"], event)
            elif node is edge and event["event"] == "exit":
                if restarts == config.edge.restarts:
                    raise RunError(f"the edge died with code {event['code']} {node.complaint()}")
                restarts += 1
                outcome.events.append({"event": "edge_restarted", "code": event["code"], "t_ns": time.monotonic_ns()})
                progress("edge_restarted", event)
                nodes.append(Node(lab.edge, "edge", [*spec, "--bind", endpoint], folder, events))
                edge = nodes[-1]
    finally:
        for node in reversed(nodes):
            node.stop()


def _events_of(node: Node, events: queue.Queue, deadline: float) -> Iterator[tuple[Node, dict[str, Any]]]:
    while (left := deadline - time.monotonic()) > 0:
        try:
            sender, event = events.get(timeout=left)
        except queue.Empty:
            return
        if sender is node:
            yield sender, event


def _raise_if_over(node: Node, event: dict[str, Any]) -> None:
    if event["event"] == "failed":
        raise RunError(f"{node.name}: {event['error']} (log: {node.log})")
    if event["event"] == "exit":
        raise RunError(f"the {node.name} process ended with code {event['code']} {node.complaint()}")


@contextmanager
def _interrupt_as_exit() -> Iterator[None]:
    """Ctrl-C leaves every `with`, as SIGTERM does; the exit code is the shell's, 130."""
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(130) from None
