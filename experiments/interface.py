"""A link for a real interface, from what a command line says: a configuration, a profile, `--set`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import join
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationError

from experiments.reading import ConfigError, Strict, explain, link_by_name, override, read_yaml
from netem.physical import Shaping
from netem.physical.found import look_at
from netem.physical.plan import plan
from netem.profiles import KEYS as PROFILE_KEYS
from netem.spec import LinkSpec


class LinkOnly(Strict):
    link: Annotated[LinkSpec, BeforeValidator(link_by_name)]


def link_from(config: Path | None, named: str | None, overrides: Sequence[str]) -> LinkSpec:
    """The link of a configuration, or a profile's (by name or file), or what `--set link.…` says alone.

    Raises ConfigError.
    """
    if config is not None and named is not None:
        raise ConfigError(f"{config} has a link and --link {named} is another: give one of them")
    if named is not None and named.endswith((".yaml", ".yml")) and not set(read_yaml(Path(named))) <= PROFILE_KEYS:
        config = Path(named)
    if config is not None:
        from experiments.schema import load_config

        return load_config(config, overrides).link
    data: dict[str, Any] = {"link": {"profile": named} if named is not None else {}}
    for setting in overrides:
        override(data, setting)
    try:
        return LinkOnly.model_validate(data).link
    except ValidationError as error:
        lines = explain(error, LinkOnly, overrides)
        raise ConfigError("\n".join(f"link: {line}" for line in lines)) from None


def describe_shaping(shaping: Shaping) -> dict[str, Any]:
    """What `up` would do to this machine's interface, without doing it: `commands` and `undo`, as lines of a shell."""
    planned = plan(shaping, look_at(shaping.interface))
    lines = {"commands": planned.steps, "undo": planned.undo}
    return {**shaping.describe(), **{name: [join(step.argv) for step in steps] for name, steps in lines.items()}}
