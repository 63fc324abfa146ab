"""A run's folder as the report finds it: records of a real toy run in this process, power traces made by hand; and its
page as a browser would read it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import yaml
from harness import Setup, play

from experiments.store import RunFolder
from experiments.summary import summarise_run
from nodes.tcp_trace import TcpSample

SYSTEMS = ("device_ar", "edge_ar", "colocated_sd", "dssd", "dssd_sampled", "dssd_lookahead")
WATTS = {"device": 5.0, "edge": 80.0}
FREQUENCY_HZ = {"device": 1.5e9, "edge": 2.6e9}
SAMPLING_MS = 1.0
SHAPED = {
    "backend": "netns",
    "declared": {"profile": "lte", "up": {"rate_mbps": 10.0, "delay_ms": 25.0}, "down": {"delay_ms": 25.0}},
    "applied": {"up": {"rate_mbps": 10.0, "delay_ms": 25.0}, "down": {"delay_ms": 25.0}},
    "observed": {
        "rtt_ms": {"median": 50.4, "min": 50.1, "p95": 51.0, "probes": 140},
        "up": {"loss_pct": 0.0, "loss_interval_pct": [0.0, 0.53], "rate_mbps": 9.98},
    },
    "problems": [],
    "skipped": ["rate down: none declared"],
}


def toy_run(
    path: Path,
    systems: Sequence[str] = SYSTEMS,
    power: bool = True,
    boots: tuple[str, str] = ("one boot", "one boot"),
    **setup: Any,
) -> RunFolder:
    """`boots` are the device's and the edge's: where they differ, their clocks do not compare."""
    toy = Setup(systems, requests=setup.pop("requests", 3), forward_ms=1.0, **setup)
    play(toy, path)
    (path / "config.yaml").write_text(yaml.safe_dump({"name": "toy", "systems": list(systems)}), encoding="utf-8")
    (path / "run.json").write_bytes(msgspec.json.encode(toy.spec()))
    (path / "manifest.json").write_text(json.dumps({"name": "toy", "status": "complete", "events": []}))
    (path / "link.json").write_text(json.dumps(SHAPED))
    folder = RunFolder(path)
    requests = folder.requests().records
    span_ns = min(r.start_ns for r in requests), max(r.end_ns for r in requests)
    for node, boot_id in zip(("device", "edge"), boots):
        write_power(path, node, boot_id, *span_ns, power)
        write_tcp(path, node, systems, *span_ns)
    return folder


def write_tcp(path: Path, node: str, systems: Sequence[str], t0_ns: int, t1_ns: int) -> None:
    """A connection a system, whose window grows by a segment a sample; the edge knows it by its port alone."""
    samples = [
        TcpSample(t_ns, node, who, *ports, 40_000, 900, 10 + i, 99, 1448, 0, i // 5, 50 * i, 9)
        for number, system in enumerate(systems)
        for who, *ports in [(system, 40_000 + number, 5555) if node == "device" else ("", 5555, 40_000 + number)]
        for i, t_ns in enumerate(range(t0_ns, t1_ns, (t1_ns - t0_ns) // 20))
    ]
    (path / f"tcp.{node}.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(samples))


def write_power(path: Path, node: str, boot_id: str, t0_ns: int, t1_ns: int, counted: bool) -> None:
    """A trace of constant watts over the run, in the sampler's own form; not counted: a node without any source."""
    reason = "best status is modelled: node by paced_model" if counted else "no <usable> energy probe"
    source = {"probes": ["paced_model"] if counted else [], "status": "modelled" if counted else "unsupported"}
    header = {
        "node": node,
        "interval_ms": SAMPLING_MS,
        "clock": {"boot_id": boot_id},
        "probes": ["paced_model", "psutil_trace"],
        "columns": [[["node", "j", "modelled", counted]], [["cpu.frequency", "hz", "measured", False]]],
        "energy_source": {**source, "reason": reason},
    }
    step_ns = int(SAMPLING_MS * 1e6)
    times = range(t0_ns - 5 * step_ns, t1_ns + 6 * step_ns, step_ns)
    lines = [{"header": header}]
    lines += [{"p": 0, "t": t, "d": 0, "v": [WATTS[node] * (t - times[0]) / 1e9]} for t in times]
    lines += [{"p": 1, "t": t, "d": 0, "v": [FREQUENCY_HZ[node]]} for t in (times[0], times[len(times) // 2])]
    (path / f"power.{node}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def rewrite(path: Path, change: Any) -> None:
    """Change every record of a JSONL file."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for record in records:
        change(record)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def summary_of(folder: RunFolder) -> dict[str, Any]:
    return summarise_run(folder)


class Page(HTMLParser):
    """What a browser would make of the page, scripts aside."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._script = False
        self.data: dict = {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._script = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._script = False

    def handle_data(self, data):
        if self._script and dict(self.tags[-1][1]).get("id") == "data":
            self.data = json.loads(data)
        elif not self._script:
            self.text += data

    def plot(self, name: str) -> dict:
        return next(plot for plot in self.data["plots"] if plot["id"] == name)

    def values(self, tag: str, attribute: str) -> list[str]:
        return [found for name, attributes in self.tags if name == tag and (found := attributes.get(attribute))]
