"""What the two node processes are told: one resolved, typed file (`run.json`), the same for both."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from nodes.composition import System
from nodes.engine import Engine
from nodes.sampling import Sampling


class Prompt(Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    text: str
    category: str = ""


class Timing(Struct, frozen=True, forbid_unknown_fields=True):
    """What the sockets' heartbeats and the retries are scaled from."""

    rtt_ms: float = 1.0
    rate_mbps: float = 1000.0  # of the slower direction
    loss_pct: float = 0.0
    retry_after_s: float = 30.0
    give_up_after_s: float = 180.0


class ProbeSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Which probes a node runs. `idle_w` and `full_w` are declared watts; without them nothing is estimated."""

    probes: list[str] = []  # `name:option=value`, as `parse_probe` reads it; none named: all that this machine has
    interval_ms: float = 50.0
    idle_w: float | None = None
    full_w: float | None = None
    radio: dict[str, Any] = {}  # options of radio_model; empty: no radio


class NodeSpec(Struct, frozen=True, forbid_unknown_fields=True):
    engine: dict[str, Any]
    probes: ProbeSpec = ProbeSpec()
    draft_engine: dict[str, Any] | None = None  # edge only: for systems that draft at the edge
    batch: str | dict[str, Any] = "immediate"
    max_sessions: int = 256
    cpus: list[int] = []  # device only: the cores it may use; empty: all
    cpu_share: float | None = None  # device only: seconds of CPU it may use a second
    cpu_max_mhz: float | None = None  # device only: the clock of its cores at most


class RunSpec(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    systems: list[System]
    sampling: Sampling
    device: NodeSpec
    edge: NodeSpec
    prompts: list[Prompt]
    max_new_tokens: int = 64
    stop: list[str] = []
    ignore_eos: bool = False
    repeats: int = 1
    warmup: int = 1  # requests per system before anything counts
    shared_machine: bool = True  # both nodes run here: a sensor of the machine tells neither's share
    timing: Timing = Timing()
    shaped: bool = False  # the link was made slower than it is
    baseline_s: float = 0.0  # of rest before the first request and after the last, where joules are measured

    def system(self, name: str) -> System | None:
        return next((system for system in self.systems if system.name == name), None)

    def agreement(self, system: System, engine: Engine) -> dict[str, Any]:
        """What must be alike on both nodes before a round of this system: everything that changes tokens or frames."""
        return {
            **system.agreement(),
            "sampling": msgspec.to_builtins(self.sampling),
            "vocab_size": engine.vocab_size,
            "vocab_hash": engine.vocab_hash,
            "eos_tokens": sorted(engine.eos_tokens),
        }


def read_runspec(path: Path) -> RunSpec:
    return msgspec.json.decode(path.read_bytes(), type=RunSpec)


def conversation_id(prompt_id: str, repeat: int) -> int:
    """Names a conversation to the coins: the same for every system, so that systems meet on the same coins."""
    digest = hashlib.blake2b(f"{prompt_id}/{repeat}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
