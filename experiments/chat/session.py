"""Both nodes as in a run, the device asked line by line: the launcher's events become rounds and answers to a screen.

chat(config, prompts, screen, folder)     link, edge and device on this machine
chat(..., edge=("tcp://server:5555", keys))     the device here, the edge where it is
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import msgspec
import yaml

from experiments.chat.watts import Watts
from experiments.launch import Outcome, Seat, attend, run_nodes
from experiments.schema import Config
from experiments.store import replacing


class Screen(Protocol):
    """Where a chat is seen. `ask` returns the next prompt and the system that is to answer it, None when there are no
    more."""

    def stage(self, stage: str, fields: dict[str, Any]) -> None: ...
    def ask(self, watts: Watts) -> tuple[str, str] | None: ...
    def round(self, fields: dict[str, Any], watts: Watts) -> None: ...
    def answer(self, fields: dict[str, Any], watts: Watts) -> None: ...
    def refused(self, fields: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


class Asker:
    """Hands the screen's prompts to the device, one when the last was answered, and the device's events to the screen.

    Ctrl-C while an answer is made ends that answer; at any other time, or a second time, it is KeyboardInterrupt.
    `asked` are the prompts so far: the first is p1, as in a configuration that lists them."""

    def __init__(self, screen: Screen, to_device: int, folder: Path, keep: Callable[[list[str]], None]) -> None:
        self.screen, self.watts = screen, Watts(folder)
        self.asked: list[str] = []
        self._to_device, self._keep = to_device, keep
        self._answering = self._stopping = False

    def hear(self, stage: str, fields: dict[str, Any]) -> None:
        """What the launcher says is going on."""
        if stage == "asking":
            self._answering = self._stopping = False
            self._ask()
        elif stage == "round":
            self.screen.round(fields, self.watts)
        elif stage == "answer":
            self.screen.answer(fields, self.watts)
        elif stage == "refused":
            self.screen.refused(fields)
        else:
            self.screen.stage(stage, fields)

    @contextmanager
    def minding_interrupts(self) -> Iterator[None]:
        before = signal.signal(signal.SIGINT, self._interrupted)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _ask(self) -> None:
        asked = self.screen.ask(self.watts)
        if asked is None:
            os.close(self._to_device)  # the device ends with its prompts, and the launcher with the device
            return
        text, system = asked
        self.asked.append(text)
        self._keep(self.asked)
        self._answering = True
        self._tell({"id": f"p{len(self.asked)}", "text": text, "system": system})

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if not self._answering or self._stopping:
            raise KeyboardInterrupt
        self._stopping = True
        self._tell({"stop": True})

    def _tell(self, what: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):  # the device has died: the launcher says how
            os.write(self._to_device, json.dumps(what).encode() + b"\n")


def chat(
    config: Config, screen: Screen, folder: Path, outcome: Outcome, edge: tuple[str, Path | None] | None = None
) -> None:
    """Until the screen has no more to ask. Records go to `folder`, whose config.yaml and run.json are kept to what was
    asked, so that `dssd run config.yaml` asks it again. Raises LinkError, RunError."""

    def keep(asked: list[str]) -> None:
        now = with_prompts(config, asked)
        with replacing(folder / "run.json") as path:
            path.write_bytes(msgspec.json.format(msgspec.json.encode(now.to_runspec()), indent=1))
        with replacing(folder / "config.yaml") as path:
            path.write_text(yaml.safe_dump(now.resolved(), sort_keys=False, allow_unicode=True), encoding="utf-8")

    from_us, to_device = os.pipe()
    asker = Asker(screen, to_device, folder, keep)
    try:
        with asker.minding_interrupts():
            if edge:
                keep([])
                attend(_seat(config, folder, edge[1]).asked_through(from_us), edge[0], folder, asker.hear)
            else:
                run_nodes(config, folder, asker.hear, outcome, prompts=from_us)
    finally:
        os.close(from_us)
        with suppress(OSError):
            os.close(to_device)


def with_prompts(config: Config, texts: list[str]) -> Config:
    """The configuration of a run that asks these."""
    if not texts:
        return config
    asked = {"prompts": texts, "categories": [], "requests": None, "sha256": None}
    workload = {**config.workload.model_dump(), **asked}
    return Config.model_validate({**config.resolved(), "workload": workload})


def _seat(config: Config, folder: Path, keys: Path | None) -> Seat:
    told = ["--spec", str(folder / "run.json"), "--out", str(folder), *(["--keys", str(keys)] if keys else [])]
    return Seat("device", sys.executable, told, lambda argv: argv)
