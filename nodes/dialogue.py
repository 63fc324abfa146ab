"""Requests as somebody makes them: a prompt a line on a stream, each answered while the next may be thought of.

    in    {"id": "p1", "text": "def add(", "system": "dssd"}
          {"stop": true}         the answer being made ends after its round
    out   asking                 the device waits for a prompt
          round                  a RoundRecord, and its tokens: [{"id", "text", "maker"}]
          answer                 a RequestRecord
          refused                this prompt was not answered, and why; the next may be

The stream's end ends the dialogue. What is asked gets the tokens that a run of these prompts gives: coins are keyed by
the prompt's id.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from nodes.channel import EdgeError
from nodes.device import DeviceNode, Job, jobs
from nodes.engine import EngineError, Tokenizer
from nodes.records import RoundRecord, makers
from nodes.runspec import Prompt

Announce = Callable[..., None]  # (event, **fields)
UNFINISHED = "\ufffd"  # what a decoder gives for the first bytes of a character


class Pieces:
    """An answer's text, token by token: what each adds to it. A character spread over tokens comes with its last."""

    def __init__(self, tokenizer: Tokenizer, eos_tokens: frozenset[int]) -> None:
        self._tokenizer, self._eos_tokens = tokenizer, eos_tokens
        self._tokens: list[int] = []
        self._shown = 0

    def add(self, token: int) -> str:
        if token in self._eos_tokens:
            return ""
        self._tokens.append(token)
        text = self._tokenizer.decode(self._tokens)
        if text.endswith(UNFINISHED):
            return ""
        piece, self._shown = text[self._shown :], len(text)
        return piece


class Dialogue:
    """Reads prompts from `lines` and has `node` answer them, one after another."""

    def __init__(self, node: DeviceNode, lines: Iterable[str], announce: Announce) -> None:
        self.node, self.announce = node, announce
        self._prompts: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._stop = threading.Event()
        self._pieces: Pieces
        node.watch = self._watch
        threading.Thread(target=self._read, args=(lines,), name="prompts", daemon=True).start()

    def run(self) -> None:
        """Warm-up, then every prompt until there are no more. Raises EdgeError where the systems cannot be agreed."""
        self.node.agree()
        for job in jobs(self.node.spec):
            if job.warmup:
                self.node.serve(job)
        self.announce("asking")
        while (asked := self._prompts.get()) is not None:
            self._answer(asked)
            self.announce("asking")

    def _read(self, lines: Iterable[str]) -> None:
        for line in lines:
            asked = json.loads(line)
            if asked.get("stop"):
                self._stop.set()
            else:
                self._stop.clear()  # here and not when its turn comes: a stop may follow at once
                self._prompts.put(asked)
        self._stop.set()
        self._prompts.put(None)

    def _answer(self, asked: dict[str, Any]) -> None:
        system = self.node.spec.system(asked["system"])
        if system is None:
            there = ", ".join(one.name for one in self.node.spec.systems)
            self.announce("refused", id=asked["id"], error=f"no system {asked['system']!r} here; there are: {there}")
            return
        self._pieces = Pieces(self.node.engine.tokenizer, self.node.engine.eos_tokens)
        try:
            record = self.node.serve(Job(system, Prompt(asked["id"], asked["text"]), 0, warmup=False))
        except (EdgeError, EngineError) as error:
            self.announce("refused", id=asked["id"], error=str(error))
        else:
            self.announce("answer", **msgspec.to_builtins(record))

    def _watch(self, record: RoundRecord, tokens: list[int]) -> bool:
        told = [
            {"id": token, "text": self._pieces.add(token), "maker": maker}
            for token, maker in zip(tokens, makers(record))
        ]
        self.announce("round", **msgspec.to_builtins(record), tokens=told)
        return not self._stop.is_set()
