"""What a chat runs on: a configuration's link, models and systems, or the bundled ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from experiments.nodes_section import located
from experiments.reading import ConfigError, unknown
from experiments.schema import Config, load_config

DEFAULT = Path(__file__).parent.parent / "configs" / "chat.yaml"


def chat_config(path: Path | None, settings: Sequence[str], systems: Sequence[str] = (), pair: str = "") -> Config:
    """`systems`: these of the configuration's, in this order; without a configuration, these published ones. `pair`:
    `toy`, or two engines, draft first. Raises ConfigError."""
    chosen = [f"systems={json.dumps(list(systems))}"] if systems and path is None else []
    config = load_config(path or DEFAULT, [*_engines(pair), *chosen, *settings])
    if config.hosts is not None:
        raise ConfigError(f"{path}: names two hosts, and a chat starts none: begin the edge there, and give --connect")
    if path is None or not systems:
        return config
    entries = {entry["as"]: entry for entry in config.resolved()["systems"]}
    for name in systems:
        if name not in entries:
            raise ConfigError(f"{path}: {unknown('system', name, entries)}")
    return Config.model_validate({**config.resolved(), "systems": [entries[name] for name in systems]})


def _engines(pair: str) -> list[str]:
    """As overrides of a configuration."""
    if not pair:
        return []
    if pair == "toy":
        return ["engine=toy"]
    draft, comma, target = pair.partition(",")
    if not comma or not draft or not target:
        raise ConfigError(f"--pair {pair}: toy, or two engines with a comma between, as bundled:draft,bundled:target")
    engines = {role: located(engine, Path.cwd()) for role, engine in (("draft", draft), ("target", target))}
    return [f"models={json.dumps(engines)}"]


def link_here(link: str) -> str:
    """A link's file is looked for from where one is; a profile has a name alone."""
    return str(Path(link).expanduser().resolve()) if link.endswith((".yaml", ".yml")) else link
