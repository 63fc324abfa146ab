"""How long a forward lasts on hardware that is not here: named compute profiles, each number with its source.

A profile is a YAML file in `profiles/` with `title`, `source`, `vocab_size` and one section per role. A
number is written `{value, assumed, source}`: `assumed: false` was published where `source` says, `assumed:
true` is our own and `source` says how we came by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from nodes.engine import EngineError

FOLDER = Path(__file__).parent / "profiles"
Role = Literal["draft", "target"]
HEAD = {"title", "source", "vocab_size", "draft", "target"}
NUMBERS = ("forward_ms", "per_token_ms", "prefill_per_token_ms", "idle_w", "active_w")
WORDS = {"model", "hardware"}


@dataclass(frozen=True)
class Pace:
    """A forward lasts forward_ms + per_token_ms x tokens fed, all sessions of the batch together; tokens fed
    to a session that held nothing yet (its prompt) count at prefill_per_token_ms instead. Watts are the
    node's."""

    name: str
    role: Role
    forward_ms: float
    vocab_size: int | None = None  # None: the inner engine's
    per_token_ms: float = 0.0
    prefill_per_token_ms: float = 0.0
    idle_w: float | None = None
    active_w: float | None = None
    model: str = ""
    hardware: str = ""
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # number -> {assumed, source}

    def duration_s(self, n_tokens: int, n_prompt_tokens: int = 0) -> float:
        per_token_ms = self.per_token_ms * n_tokens + self.prefill_per_token_ms * n_prompt_tokens
        return (self.forward_ms + per_token_ms) / 1e3

    def describe(self) -> dict[str, Any]:
        return asdict(self)


def profile_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def list_profiles() -> list[dict[str, Any]]:
    """The shipped profiles as they are written: {name, title, source, vocab_size, draft, target}."""
    return [{"name": name, **_read(name)} for name in profile_names()]


def load_pace(pace: str | Mapping[str, Any], role: Role) -> Pace:
    """The pace of one role: of a named profile, or of a mapping with Pace's own numbers. Raises
    EngineError."""
    return _of_profile(pace, role) if isinstance(pace, str) else _of_mapping(pace, role)


def _of_profile(name: str, role: Role) -> Pace:
    profile = _read(name)
    section = dict(profile[role])
    words: dict[str, Any] = {key: str(section.pop(key)) for key in WORDS & section.keys()}
    numbers = {"vocab_size": profile["vocab_size"], **section}
    sources = {key: {"assumed": entry["assumed"], "source": entry["source"]} for key, entry in numbers.items()}
    values = {key: entry["value"] for key, entry in numbers.items()}
    return _checked(Pace(name=name, role=role, sources=sources, **values, **words))


def _of_mapping(numbers: Mapping[str, Any], role: Role) -> Pace:
    known = [spec.name for spec in fields(Pace) if spec.name not in ("name", "role", "sources")]
    unknown = sorted(set(numbers) - set(known))
    if unknown:
        raise EngineError(f"pace: unknown key {', '.join(unknown)}; known are {', '.join(known)}")
    if "forward_ms" not in numbers:
        raise EngineError("pace: forward_ms is missing; say how many milliseconds one forward lasts")
    declared = {key: {"assumed": True, "source": "the configuration"} for key in numbers}
    return _checked(Pace(name="custom", role=role, sources=declared, **numbers))


def _checked(pace: Pace) -> Pace:
    for key in NUMBERS:
        value = getattr(pace, key)
        if value is None and key.endswith("_w"):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise EngineError(f"pace {pace.name}: {key} must be a number of at least 0, not {value!r}")
    size = pace.vocab_size
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 2):
        raise EngineError(f"pace {pace.name}: vocab_size must be an integer of at least 2, not {size!r}")
    return pace


def _read(name: str) -> dict[str, Any]:
    path = FOLDER / f"{name}.yaml"
    if name not in profile_names():
        raise EngineError(
            f"no compute profile '{name}': known are {', '.join(profile_names())}; or give the numbers "
            "themselves, for instance pace: {forward_ms: 30, vocab_size: 50272}"
        )
    profile = yaml.safe_load(path.read_text())
    if set(profile) != HEAD:
        raise EngineError(f"compute profile {path}: needs exactly the keys {', '.join(sorted(HEAD))}")
    for role in ("draft", "target"):
        strange = sorted(set(profile[role]) - set(NUMBERS) - WORDS)
        if strange:
            raise EngineError(f"compute profile {path}: {role} has unknown keys {', '.join(strange)}")
    return profile
