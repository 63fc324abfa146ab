"""From a YAML file to checked values: reading it, `--set`, and errors that name the key and what it may be.

Knows nothing of experiments: the models are in schema.py and in what they are made of.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo

MAX_ERRORS = 6  # printed at once; the rest is counted
NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"  # what may name a folder and a column
SHORT_FOR = {  # a name that stands for a mapping: `link: lte` is `link: {profile: lte}`
    "link": "profile",
    "engine": "engine",
    "draft_engine": "engine",
    "stop": "policy",
    "upload": "policy",
    "route": "policy",
    "batch": "policy",
    "up": "codec",
    "down": "codec",
}


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names file, dotted key, what is wrong and allowed."""


class Strict(BaseModel):
    """A mapping of a configuration: an unknown key is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Loader(yaml.SafeLoader):
    """A key written twice is an error: YAML's own reader would silently keep the second."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                at = key_node.start_mark.line + 1
                raise ConfigError(f"line {at}: braces or brackets where a key belongs; text that has them takes quotes")
            key = key_node.value
            if key != "<<" and key in seen:
                raise ConfigError(f"line {key_node.start_mark.line + 1}: `{key}` is given twice; keep one")
            seen.add(key)
        return super().construct_mapping(node, deep)


# `1e-3` is a number to everybody but YAML 1.1, which wants a point and a sign.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The file's mapping. Raises ConfigError for one that is missing, is not YAML, or is not a mapping."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML: {_one_line(error)}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: has to be a mapping (`key: value` lines), it is {_kind(data)}")
    return data


def override(data: dict[str, Any], setting: str) -> None:
    """Apply one `--set a.b=c` in place; the value is YAML. A list's element is given by number or by name,
    as in `systems.dssd.stop.length=6`. Raises ConfigError where the path leads through what has no keys."""
    path, equals, text = setting.partition("=")
    if not equals or not all(path.split(".")):
        raise ConfigError(f"--set {setting}: write it as key=value or section.key=value")
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, ConfigError) as error:
        raise ConfigError(f"--set {setting}: the value is not YAML: {_one_line(error)}") from None
    assign(data, path, value, f"--set {setting}")


def assign(data: dict[str, Any], path: str, value: Any, said: str) -> None:
    """Give the key at a dotted path its value, in place; `said` begins the message of a ConfigError."""
    parts = path.split(".")
    at: Any = data
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(at, list):
            index = _index(at, part, ".".join(parts[:depth]), said)
            if last:
                at[index] = value
                return
            if isinstance(at[index], str):  # `- dssd` is short for `- system: dssd`
                at[index] = {"system": at[index]}
            at = at[index]
        elif isinstance(at, dict):
            if last:
                at[part] = value
                return
            if at.get(part) is None:
                at[part] = {}
            elif isinstance(at[part], str) and part in SHORT_FOR:
                at[part] = {SHORT_FOR[part]: at[part]}
            at = at[part]
        else:
            above = ".".join(parts[:depth])
            raise ConfigError(f"{said}: {above} is {at!r} and has no key `{part}`; set {above} itself")


def _index(items: list[Any], part: str, path: str, said: str) -> int:
    names = [item if isinstance(item, str) else _name(item) for item in items]
    if part in names:
        return names.index(part)
    if part.isdigit() and int(part) < len(items):
        return int(part)
    known = ", ".join(name for name in names if name) or "none"
    raise ConfigError(f"{said}: {path} has no element `{part}`; there are: {known}")


def _name(item: Any) -> str:
    return str(item.get("as") or item.get("system") or "") if isinstance(item, dict) else ""


def link_by_name(value: Any, info: ValidationInfo) -> Any:
    """`link: lte` is `link: {profile: lte}`. A profile's file is taken from the configuration's folder, else from where
    we are, and by its whole path: who reads it again may be elsewhere."""
    if isinstance(value, str):
        value = {SHORT_FOR["link"]: value}
    profile = value.get("profile") if isinstance(value, dict) else None
    if isinstance(profile, str) and profile.endswith((".yaml", ".yml")):
        folder = (info.context or {}).get("folder", ".")
        value = {**value, "profile": str(Path(folder, Path(profile).expanduser()).resolve())}
    return value


def explain(error: ValidationError, model: type[BaseModel], settings: Iterable[str] = ()) -> list[str]:
    """What pydantic found, a line for each: dotted key, what is wrong, what is allowed."""
    set_here = {setting.partition("=")[0]: setting for setting in settings}
    lines = []
    for found in error.errors()[:MAX_ERRORS]:
        path = ".".join(str(part) for part in found["loc"])
        line = f"{path}: {_wrong(found, model)}" if path else _wrong(found, model)
        if path in set_here:
            line += f" (from --set {set_here[path]})"
        lines.append(line)
    more = error.error_count() - MAX_ERRORS
    return [*lines, f"and {more} more"] if more > 0 else lines


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """unknown key `thread`; did you mean `threads`? There are: ..."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"did you mean `{close[0]}`? There" if close else "there"
    return f"unknown {kind} `{name}`; {hint} are: {', '.join(names)}"


def _wrong(found: Any, model: type[BaseModel]) -> str:
    if found["type"] == "extra_forbidden":
        owner = _model_at(model, found["loc"][:-1])
        if owner is None:
            return "unknown key"
        known = [field.alias or name for name, field in owner.model_fields.items()]
        return unknown("key", str(found["loc"][-1]), known)
    if found["type"] == "missing":
        return "is missing, and has no default"
    if found["type"] == "value_error":
        return str(found["ctx"]["error"])
    if found["type"] == "string_pattern_mismatch" and found["ctx"]["pattern"] == NAME:
        return f"{found['input']!r} names files and columns, so it may have letters, digits, _ . and - only"
    message = found["msg"]
    if message.startswith("Input should be"):
        message = "must be" + message.removeprefix("Input should be")
    if found["type"] in ("model_type", "model_attributes_type", "dict_type"):
        message = "must be a mapping"
    value = found["input"]
    shown = repr(value) if isinstance(value, str | int | float | bool | None) else _kind(value)
    return f"{message}, not {shown}"


def _model_at(model: type[BaseModel], loc: tuple[Any, ...]) -> type[BaseModel] | None:
    """The model whose keys live at `loc`."""
    at: type[BaseModel] | None = model
    for part in loc:
        if isinstance(part, int):
            continue  # an element of a list: its model is the list's
        fields = {field.alias or name: field for name, field in at.model_fields.items()} if at else {}
        at = _inner_model(fields[part].annotation) if part in fields else None
    return at


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    # to Python 3.10 dict[str, float] is a type, but no class to ask issubclass about
    if isinstance(annotation, type) and not get_args(annotation) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _inner_model(arg)) is not None), None)


def sendable(text: str, said: str) -> str:
    """The text itself, which a message to a node can carry. `said` begins the ConfigError for one that has no UTF-8
    form: bytes of another encoding, or half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{said}: {text[:40]!r} is not text that has a UTF-8 form; write it in UTF-8") from None
    return text


def _kind(value: Any) -> str:
    kinds = {dict: "a mapping", list: "a list", str: "text", type(None): "empty"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _one_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error))
