"""What is asked: the bundled prompts, a list in the configuration, or a file of the user's.

A `.jsonl` file has Spec-Bench's shape (Xia et al. 2024, arXiv 2401.07851): a line
`{"question_id": ..., "category": ..., "turns": [...]}`, of which the first turn is used. A `.txt` file has a
prompt a line, or, where blank lines divide it, a prompt a paragraph.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from experiments.reading import Strict, sendable, unknown
from nodes.runspec import Prompt

BUNDLED = Path(__file__).parent / "prompts" / "bundled.jsonl"


class WorkloadSpec(Strict):
    """`workload:` of a configuration."""

    prompts: str | list[str] = Field(
        default="bundled", description="bundled, a list of texts, or the path of a .jsonl or .txt"
    )
    categories: list[str] = Field(default=[], description="only prompts of these; empty: all")
    requests: int | None = Field(
        default=None, ge=1, le=1_000_000, description="None: every prompt once; more: go round again"
    )
    max_new_tokens: int = Field(default=48, ge=1, le=1_000_000)
    stop: list[str] = Field(default=[], description="a request ends where its text contains one of these")
    ignore_eos: bool = False
    sha256: str | None = Field(default=None, description="of the prompts' file, where it has to be this very one")

    @field_validator("prompts", mode="before")
    @classmethod
    def _prompts_are_somewhere(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, list):
            if not value or not all(isinstance(text, str) and text for text in value):
                raise ValueError("a list of prompts has at least one text, and none that is empty")
            return [sendable(text, "a prompt") for text in value]
        if not isinstance(value, str):
            raise ValueError(f"must be bundled, a list of texts or a path, not {value!r}")
        if value == "bundled":
            return value
        path = Path((info.context or {}).get("folder", "."), Path(value).expanduser()).resolve()
        if path.suffix not in (".jsonl", ".txt"):
            raise ValueError(f"{value!r} is not `bundled`, and a file of prompts ends in .jsonl or .txt")
        if not path.is_file():
            raise ValueError(f"no file {path}; a relative path is taken from the configuration's folder")
        return str(path)

    @field_validator("stop")
    @classmethod
    def _stops_say_something(cls, value: list[str]) -> list[str]:
        if not all(value):
            raise ValueError("an empty stop string would end every request at once; remove it")
        return [sendable(text, "a stop string") for text in value]

    @model_validator(mode="after")
    def _file_is_the_same(self) -> WorkloadSpec:
        if self.sha256 is not None and self.sha256 != self.file_sha256:
            raise ValueError(
                f"{self.prompts} is not the file this configuration was written for (its sha256 is "
                f"{self.file_sha256}, not {self.sha256}): bring that back, or remove sha256 to use this"
            )
        return self

    @property
    def file_sha256(self) -> str | None:
        """None for prompts that stand in the configuration itself."""
        return None if isinstance(self.prompts, list) else hashlib.sha256(self._path.read_bytes()).hexdigest()

    @property
    def _path(self) -> Path:
        assert isinstance(self.prompts, str)
        return BUNDLED if self.prompts == "bundled" else Path(self.prompts)

    def load(self) -> list[Prompt]:
        """One prompt a request, every id once: coins are keyed by it. Raises ValueError."""
        prompts = self._read()
        known = {prompt.category for prompt in prompts} - {""}
        for category in self.categories:
            if category not in known:
                raise ValueError(f"workload.categories: {unknown('category', category, known)}")
        chosen = [prompt for prompt in prompts if not self.categories or prompt.category in self.categories]
        n = self.requests or len(chosen)
        return [_again(chosen[i % len(chosen)], i // len(chosen)) for i in range(n)]

    def _read(self) -> list[Prompt]:
        if isinstance(self.prompts, list):
            return [Prompt(f"p{i}", text) for i, text in enumerate(self.prompts, 1)]
        try:
            text = self._path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise ValueError(f"workload.prompts: {self._path} is not UTF-8 text") from None
        prompts = _spec_bench(text, self._path) if self._path.suffix == ".jsonl" else _plain(text, self._path)
        if not prompts:
            raise ValueError(f"workload.prompts: {self._path} has no prompt in it")
        twice = [name for name, times in Counter(prompt.id for prompt in prompts).items() if times > 1]
        if twice:
            raise ValueError(f"workload.prompts: {self._path} has question_id {twice[0]} twice; each once, please")
        for prompt in prompts:
            sendable(prompt.text, f"workload.prompts: {self._path}: question_id {prompt.id}")
        return prompts


def _again(prompt: Prompt, turn: int) -> Prompt:
    """The same prompt as another request: `#2` on the second turn round, with coins of its own."""
    return prompt if turn == 0 else Prompt(f"{prompt.id}#{turn + 1}", prompt.text, prompt.category)


def _spec_bench(text: str, path: Path) -> list[Prompt]:
    prompts = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            turns = entry["turns"]
            assert isinstance(turns, list) and isinstance(turns[0], str) and turns[0]
            prompts.append(Prompt(str(entry["question_id"]), turns[0], str(entry.get("category", ""))))
        except (ValueError, KeyError, IndexError, TypeError, AssertionError):
            raise ValueError(
                f"workload.prompts: {path} line {number} is not of the shape "
                '{"question_id": 1, "category": "qa", "turns": ["the prompt"]}'
            ) from None
    return prompts


def _plain(text: str, path: Path) -> list[Prompt]:
    paragraphs = re.split(r"\n[ \t]*\n+", text.strip())
    parts = paragraphs if len(paragraphs) > 1 else text.splitlines()
    return [Prompt(f"{path.stem}-{i}", part) for i, part in enumerate((p for p in parts if p.strip()), 1)]
