"""A system is a composition: which exchange, which schedule, which policies, which codecs. One YAML a system.

`nodes/systems/*.yaml` are the published ones. Whether a composition is exact is derived from its parts, never declared.
"""

from __future__ import annotations

import inspect
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml
from msgspec import Struct

from nodes.engine import Engine
from nodes.methods import Method, MethodError, method_class
from nodes.policies.route import make_route
from nodes.policies.stop import make_stop
from nodes.policies.upload import make_upload
from nodes.schedules import schedule_names
from transport.codecs import Codec, make_codec

SYSTEMS = Path(__file__).parent / "systems"


class CompositionError(ValueError):
    """No such system, or a part or option it cannot have; the message names the system and what there is."""


class Paper(Struct, frozen=True, forbid_unknown_fields=True):
    authors: str
    year: int
    venue: str = ""
    url: str = ""


class System(Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """The parts. `up`, `down`, `stop`, `upload`, `route` are a name or a mapping with a name and options."""

    title: str
    method: str
    name: str = ""  # the file's name, or `as` in a configuration
    paper: Paper | None = None  # None: ours
    options: dict[str, Any] = {}  # of the method
    up: str | dict[str, Any] = "dense_fp32"
    down: str | dict[str, Any] = "dense_fp32"
    schedule: str = "stop_and_wait"
    stop: str | dict[str, Any] = "fixed"
    upload: str | dict[str, Any] = "always"
    route: str | dict[str, Any] = "always"
    letters: dict[str, str] = {}  # the paper's letter: our name
    notes: str = ""  # what had to be decided where the paper is silent

    def build(self, vocab_size: int, named_tokens: int | None = None) -> Method:
        """The method with its codecs for rows of `vocab_size`, padded from `named_tokens` on. Raises
        CompositionError."""
        kind = method_class(self.method)
        known = list(inspect.signature(kind).parameters)[2:]
        for option in self.options:
            if option not in known:
                raise CompositionError(
                    f"system {self.name}: method {self.method} has no option {option!r}; "
                    f"it has: {', '.join(known) or 'none'}"
                )
        try:
            up, down = (_codec(spec, vocab_size, named_tokens) for spec in (self.up, self.down))
            return kind(up, down, **self.options)
        except ValueError as error:
            raise CompositionError(f"system {self.name}: {error}") from error

    def build_for(self, engine: Engine, role: Literal["draft", "target"]) -> Method:
        """The method on a node with this engine. Raises CompositionError where it cannot work with that model."""
        method = self.build(engine.vocab_size, engine.named_tokens)
        try:
            method.meet(role, engine)
        except ValueError as error:
            raise CompositionError(f"system {self.name}: {error}") from error
        return method

    @cached_property
    def exact(self) -> bool:
        """Is the output distributed as the target's? All the parts have to say so."""
        policies = make_upload(self.upload), make_route(self.route)
        return self.build(vocab_size=2).exact and all(policy.exact for policy in policies)

    def alone(self) -> System:
        """What answers the requests that `route` keeps on the device."""
        bare = System(self.title, "device_ar", self.name, stop={"policy": "fixed", "length": 1})
        return bare.check()

    def agreement(self) -> dict[str, Any]:
        """What both nodes have to hold alike before they may talk: everything that changes tokens or frames."""
        return {
            "method": self.method,
            "options": self.options,
            "up": self.up,
            "down": self.down,
            "stop": self.stop,
            **self.build(vocab_size=2).agreement(),
        }

    def check(self) -> System:
        """Builds every part once, so that a bad one is met before anything is started. Raises CompositionError."""
        try:
            stop = make_stop(self.stop)
            make_upload(self.upload)
            route = make_route(self.route)
            method = self.build(vocab_size=2)
        except (ValueError, MethodError) as error:
            raise CompositionError(f"system {self.name}: {error}") from error
        if stop.adapts and not method.drafts:
            raise CompositionError(
                f"system {self.name}: stop policy {self.stop!r} learns from rounds that the device drafted, and "
                f"{self.method} has none; give it `fixed` or `confidence`"
            )
        if route.decides and not method.edge:
            raise CompositionError(
                f"system {self.name}: {self.method} asks no edge, so there is nothing to route; remove `route`"
            )
        if self.schedule not in schedule_names():
            raise CompositionError(
                f"system {self.name}: unknown schedule {self.schedule!r}; there are: {', '.join(schedule_names())}"
            )
        return self

    def require_width(self, vocab_size: int) -> None:
        """No codec is to keep more tokens than there are. Raises CompositionError."""
        method = self.build(vocab_size)
        for part, codec in (("up", method.up), ("down", method.down)):
            k = getattr(codec, "k", 0)
            if k > vocab_size:
                raise CompositionError(
                    f"system {self.name}: its {part} codec keeps k = {k} tokens of a vocabulary of {vocab_size}; "
                    f"give it k of at most {vocab_size}: systems.{self.name}.{part}.k={vocab_size}"
                )


def _codec(spec: str | dict[str, Any], vocab_size: int, named_tokens: int | None) -> Codec:
    options = {"codec": spec} if isinstance(spec, str) else dict(spec)
    return make_codec(options.pop("codec", ""), vocab_size, named_tokens, **options)


def system_names() -> list[str]:
    return sorted(path.stem for path in SYSTEMS.glob("*.yaml"))


def load_system(name: str, **changes: Any) -> System:
    """The system of that name, with fields replaced by `changes`. Raises CompositionError."""
    if name not in system_names():
        raise CompositionError(f"unknown system {name!r}; there are: {', '.join(system_names())}")
    fields = yaml.safe_load((SYSTEMS / f"{name}.yaml").read_text(encoding="utf-8"))
    try:
        return msgspec.convert({"name": name, **fields, **changes}, System).check()
    except msgspec.ValidationError as error:
        raise CompositionError(f"system {name}: {error}") from error
