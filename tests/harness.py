"""Both nodes in this process, over the in-process link, on toy engines: what every law is tested with."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from scipy import stats

from nodes.composition import System, load_system
from nodes.device import DeviceNode
from nodes.edge import EdgeNode
from nodes.engine import Engine
from nodes.engine.paced import PacedEngine
from nodes.engine.profiles import Pace
from nodes.engine.toy import ToyEngine
from nodes.methods import method_class
from nodes.policies.stop import make_stop
from nodes.records import RecordWriter, RequestRecord, RoundRecord
from nodes.runspec import NodeSpec, Prompt, RunSpec, Timing
from nodes.sampling import Sampling
from nodes.session import Session
from transport.inproc import Faults, InprocDeviceLink, InprocEdgeLink

PROMPT = "t1 t2"
_addresses = itertools.count()


@dataclass
class Setup:
    """A toy run: the same tables on both nodes, `acceptance` exactly as set."""

    systems: Sequence[str | System]
    sampling: Sampling = field(default_factory=Sampling)
    requests: int = 20
    max_new_tokens: int = 12
    vocab_size: int = 12
    acceptance: float = 0.6
    eos: int | None = None
    stop: Sequence[str] = ()
    batch: str | dict = "immediate"
    prompts: Sequence[str] = ()
    retry_after_s: float = 30.0
    forward_ms: float = 0.0  # how long a target forward takes: 0 is as fast as it goes
    padded_to: int | None = None  # entries of a row, of which `vocab_size` stand for a token

    def spec(self) -> RunSpec:
        node = NodeSpec(engine={"engine": "toy"}, batch=self.batch)
        texts = self.prompts or [PROMPT]
        return RunSpec(
            name="toy",
            systems=[load_system(system) if isinstance(system, str) else system for system in self.systems],
            sampling=self.sampling,
            device=node,
            edge=node,
            prompts=[Prompt(f"p{i}", texts[i % len(texts)]) for i in range(self.requests)],
            max_new_tokens=self.max_new_tokens,
            stop=list(self.stop),
            warmup=0,
            timing=Timing(retry_after_s=self.retry_after_s, give_up_after_s=20),
        )

    def engine(self, role: str) -> Engine:
        engine = ToyEngine(role, vocab_size=self.vocab_size, acceptance=self.acceptance, eos=self.eos)
        if not self.forward_ms and self.padded_to is None:
            return engine
        forward_ms = self.forward_ms if role == "target" else 0.0
        return PacedEngine(engine, Pace("slow", role, forward_ms, vocab_size=self.padded_to))


class ToyEdge:
    """An edge in a thread, that can be killed and started again at the same address."""

    def __init__(self, setup: Setup, faults: Faults | None = None) -> None:
        self.setup, self.faults = setup, faults
        self.address = f"toy-{next(_addresses)}"
        self.start()

    def start(self) -> None:
        self.link = InprocEdgeLink(self.address, faults=self.faults)
        self.node = EdgeNode(self.setup.spec(), self.setup.engine("target"), self.link, self.setup.engine("draft"))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self.node.serve, args=(self._stopped.is_set, 0.01), daemon=True)
        self._thread.start()

    def kill(self) -> None:
        """Sessions, replies and all are gone."""
        self._stopped.set()
        self._thread.join()
        self.link.close()


@contextmanager
def toy_edge(setup: Setup, faults: Faults | None = None) -> Iterator[ToyEdge]:
    edge = ToyEdge(setup, faults)
    try:
        yield edge
    finally:
        edge.kill()


@dataclass
class Result:
    requests: list[RequestRecord]
    rounds: list[RoundRecord]
    edge: EdgeNode

    def tokens(self, system: str) -> list[list[int]]:
        return [record.tokens for record in self.requests if record.system == system]


def device_on(setup: Setup, edge: ToyEdge, folder: Path, faults: Faults | None = None) -> DeviceNode:
    def connect(system: System) -> InprocDeviceLink:
        return InprocDeviceLink(edge.address, identity=f"{id(folder)}/{system.name}".encode(), faults=faults)

    return DeviceNode(setup.spec(), setup.engine("draft"), connect, RecordWriter(folder))


def play(setup: Setup, folder: Path, faults: Faults | None = None, edge_faults: Faults | None = None) -> Result:
    """Run the set-up to its end and read its records back."""
    with toy_edge(setup, edge_faults) as edge:
        device = device_on(setup, edge, folder, faults)
        try:
            device.run()
        finally:
            device.close()
            device.writer.close()
        return read_back(folder, edge.node)


def read_back(folder: Path, edge: EdgeNode) -> Result:
    return Result(
        [msgspec.json.decode(line, type=RequestRecord) for line in (folder / "requests.jsonl").open("rb")],
        [msgspec.json.decode(line, type=RoundRecord) for line in (folder / "rounds.jsonl").open("rb")],
        edge,
    )


def composed(method: str, **parts) -> System:
    """A system of that method with these parts, under a name of its own."""
    name = f"{method}:{json.dumps(parts, sort_keys=True)}"
    return msgspec.convert({"title": name, "name": name, "method": method, **parts}, System).check()


def steady(name: str) -> System:
    """That system with a fixed draft length in place of one that follows the clock."""
    system = load_system(name)
    return msgspec.structs.replace(system, stop="fixed") if make_stop(system.stop).adapts else system


def methods_with_edge(names: Sequence[str]) -> list[str]:
    return [name for name in names if method_class(name).edge]


def target_row(setup: Setup, tokens: Sequence[int]) -> np.ndarray:
    return setup.engine("target").forward([Session(setup.sampling, tokens)], [1])[0].row(0)


def joint_law(setup: Setup, prompt: Sequence[int], at: int = 0) -> dict[tuple[int, int], float]:
    """The target's law of output tokens `at` and `at + 1`. A toy's row depends on the two tokens before it."""
    law = {tuple(prompt[-2:]): 1.0}
    for _ in range(at + 2):
        later: dict[tuple[int, int], float] = {}
        for (a, b), probability in law.items():
            row = target_row(setup, [a, b])
            for c in np.flatnonzero(row):
                later[b, int(c)] = later.get((b, int(c)), 0.0) + probability * float(row[c])
        law = later
    return law


def p_value(pairs: Sequence[tuple[int, int]], law: dict[tuple[int, int], float]) -> float:
    """Chi-square of observed pairs against the law; cells expecting under 5 are pooled. 0 for a pair it rules out."""
    if any(pair not in law for pair in pairs):
        return 0.0
    expected = np.array(list(law.values()))
    expected *= len(pairs) / expected.sum()
    counts = dict.fromkeys(law, 0)
    for pair in pairs:
        counts[pair] += 1
    observed = np.array(list(counts.values()), dtype=float)
    small = expected < 5
    if small.any():
        expected = np.append(expected[~small], expected[small].sum())
        observed = np.append(observed[~small], observed[small].sum())
    return float(stats.chisquare(observed, expected).pvalue)
