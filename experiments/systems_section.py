"""`systems:` of a configuration: names of published systems, or entries that change one of their parts."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import msgspec
from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema, field_validator, model_validator

from experiments.reading import NAME, Strict, unknown
from nodes.composition import System, load_system, system_names
from nodes.methods import method_class
from nodes.policies.route import route_class, route_names


def _part(key: str) -> Any:
    """`immediate` is short for `{policy: immediate}`, `sparse` for `{codec: sparse}`."""
    return Annotated[
        dict[str, Any],
        BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value),
        WithJsonSchema({"type": ["string", "object"]}),
    ]


PART_KEYS = {"stop": "policy", "upload": "policy", "route": "policy", "up": "codec", "down": "codec"}
Policy, CodecPart = _part("policy"), _part("codec")


class SystemEntry(Strict):
    """An entry is laid over the system's own file: what it does not name stays as published.

    `stop: {length: 8}` changes the length only; `stop: {policy: confidence, ...}` replaces the policy whole.
    """

    system: str
    name: str | None = Field(default=None, alias="as", pattern=NAME, description="its name in the results")
    title: str | None = None
    options: dict[str, Any] = Field(default={}, description="of the method")
    up: CodecPart | None = None  # type: ignore[valid-type]
    down: CodecPart | None = None  # type: ignore[valid-type]
    schedule: str | None = None
    stop: Policy | None = None  # type: ignore[valid-type]
    upload: Policy | None = None  # type: ignore[valid-type]
    route: Policy | None = None  # type: ignore[valid-type]

    @field_validator("options", "route")
    @classmethod
    def _files_are_somewhere(cls, value: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        """A file that an option names is looked for in the configuration's folder."""
        if not value or info.data.get("system") not in system_names():
            return value
        base = load_system(info.data["system"])
        if info.field_name == "options":
            return _located(method_class(base.method), value, info)
        published = base.route if isinstance(base.route, str) else base.route["policy"]
        policy = value.get("policy", published)
        return _located(route_class(policy), value, info) if policy in route_names() else value

    @model_validator(mode="after")
    def _can_be_built(self) -> SystemEntry:
        if self.system not in system_names():
            raise ValueError(unknown("system", self.system, system_names()))
        self.compose(None)
        return self

    def compose(self, draft_length: int | None) -> System:
        """The system with this entry's changes; `draft_length` counts unless the entry says when to stop or
        the system drafts token by token (a length of 1). Raises CompositionError."""
        base = load_system(self.system)
        changes: dict[str, Any] = {"options": {**base.options, **self.options}}
        if self.title:
            changes["title"] = self.title
        if self.schedule:
            changes["schedule"] = self.schedule
        for part, key in PART_KEYS.items():
            published = getattr(base, part)
            published = {key: published} if isinstance(published, str) else published
            given = getattr(self, part)
            if given is not None:
                changes[part] = given if key in given else {**published, **given}
            elif part == "stop" and draft_length and published["policy"] == "fixed":
                token_by_token = published.get("length") == 1
                changes[part] = published if token_by_token else {**published, "length": draft_length}
        system = load_system(self.system, **changes)
        short = {part: _shortest(getattr(system, part), key) for part, key in PART_KEYS.items()}
        return msgspec.structs.replace(system, name=self.name or base.name, **short)

    def spell_out(self, system: System) -> dict[str, Any]:
        """The entry, every part named, that composes to `system` without shorthands."""
        parts = ("title", "options", "up", "down", "schedule", "stop", "upload", "route")
        fields = {part: msgspec.to_builtins(getattr(system, part)) for part in parts}
        return {"system": self.system, "as": system.name, **fields}


def _located(owner: Any, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    """`options` of a method or policy; those of its `files` with their paths made whole. A default names no file."""
    folder = (info.context or {}).get("folder", ".")
    known = signature(owner).parameters
    paths = {
        name: str(Path(folder, Path(options[name]).expanduser()).resolve())
        for name in owner.files
        if isinstance(options.get(name), str) and options[name] != known[name].default
    }
    return {**options, **paths}


def _shortest(part: str | dict[str, Any], key: str) -> str | dict[str, Any]:
    """One spelling for one part, so that the same parts are the same configuration."""
    return part[key] if isinstance(part, dict) and set(part) == {key} else part


def as_entry(value: Any) -> Any:
    return {"system": value} if isinstance(value, str) else value
