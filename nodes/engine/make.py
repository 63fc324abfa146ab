"""From a configuration's `draft:` or `target:` section to an engine. Imports torch only when a model asks for
it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nodes.engine import Engine, EngineError
from nodes.engine.bundled import KINDS, bundled_paths, list_models
from nodes.engine.checks import check_shares
from nodes.engine.profiles import Pace, load_pace

if TYPE_CHECKING:
    from nodes.engine.hf import HfEngine

__all__ = ["EngineSpec", "Role", "known_vocab_size", "list_models", "make_engine", "make_unpaced", "parse"]

Role = Literal["draft", "target"]
ENGINES = "bundled:draft, bundled:target, hf:<id or folder>, toy"
DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")
TOY_VOCAB_SIZE = 32
TOY_OPTIONS: dict[str, tuple[type, ...]] = {
    "vocab_size": (int,),
    "acceptance": (int, float),
    "order": (int,),
    "sharpness": (int, float),
    "table_seed": (int,),
    "eos": (int,),
}


@dataclass(frozen=True)
class EngineSpec:
    """`pace` is a profile's name or a mapping of numbers, `threads` torch's for the whole process (None: as
    it is), `tensor_parallel` the number of processes that hold the model between them."""

    engine: str
    pace: str | Mapping[str, Any] | None = None
    threads: int | None = None
    tensor_parallel: int = 1
    dtype: str = "float32"
    device: str = "auto"
    toy: Mapping[str, Any] = field(default_factory=dict)  # those of TOY_OPTIONS that were given


def parse(spec: Mapping[str, Any], role: Role) -> EngineSpec:
    """Checks everything that can be checked without loading. A key whose value is None counts as not given.

    Raises EngineError naming the key, what would be valid, and the remedy.
    """
    given = {key: value for key, value in spec.items() if value is not None}
    own = [each.name for each in fields(EngineSpec) if each.name != "toy"]
    unknown = sorted(str(key) for key in given if key not in own and key not in TOY_OPTIONS)
    if unknown:
        raise EngineError(f"{role}: unknown key {', '.join(unknown)}; known are {', '.join([*own, *TOY_OPTIONS])}")
    engine = given.get("engine")
    if not isinstance(engine, str):
        raise EngineError(f"{role}: `engine` is missing; it is one of {ENGINES}")
    toy = {key: given[key] for key in TOY_OPTIONS if key in given}
    if toy and engine != "toy":
        raise EngineError(f"{role}: {', '.join(toy)} are options of engine toy, not of {engine}; remove them")
    for key, value in toy.items():
        _check(role, key, value, TOY_OPTIONS[key])
    if "threads" in given:
        _check(role, "threads", given["threads"], (int,))
        if given["threads"] < 1:
            raise EngineError(f"{role}: threads must be at least 1, not {given['threads']}")
    _check_choice(role, "dtype", given.get("dtype", "float32"), DTYPES)
    _check_choice(role, "device", given.get("device", "auto"), DEVICES)
    _check_engine(role, engine)
    if "tensor_parallel" in given:
        _check_shares(role, engine, given["tensor_parallel"])
    if "pace" in given:
        if not isinstance(given["pace"], str | Mapping):
            raise EngineError(f"{role}: pace must be a profile's name or a mapping, not {given['pace']!r}")
        load_pace(given["pace"], role)
    return EngineSpec(**{key: given[key] for key in own if key in given}, toy=toy)


def make_engine(spec: Mapping[str, Any], role: Role) -> Engine:
    """The engine of one node. Raises EngineError; a missing or unreadable model is named with its remedy."""
    parsed = parse(spec, role)
    engine = _bare(parsed, role)
    if parsed.pace is None:
        return engine
    from nodes.engine.paced import PacedEngine

    pace: Pace = load_pace(parsed.pace, role)
    return PacedEngine(engine, pace)


def known_vocab_size(spec: Mapping[str, Any], role: Role) -> int | None:
    """Width of a row, as far as it can be told without loading: None for a model on a hub. Raises EngineError."""
    parsed = parse(spec, role)
    pace = load_pace(parsed.pace, role) if parsed.pace is not None else None
    if pace is not None and pace.vocab_size is not None:
        return pace.vocab_size
    if parsed.engine == "toy":
        return int(parsed.toy.get("vocab_size", TOY_VOCAB_SIZE))
    size = _config(parsed.engine).get("vocab_size")
    return size if isinstance(size, int) else None


def make_unpaced(spec: Mapping[str, Any], role: Role) -> Engine:
    """The engine in this process and at this machine's own speed, for what only wants to know what it says."""
    return make_engine({key: spec[key] for key in spec if key not in ("pace", "tensor_parallel")}, role)


def unpaced_pair(device: Mapping[str, Any], edge: Mapping[str, Any]) -> tuple[Engine, Engine]:
    """Both models in this process, draft first. Raises EngineError where their tokens are not the same."""
    draft, target = make_unpaced(device, "draft"), make_unpaced(edge, "target")
    if (draft.vocab_size, draft.vocab_hash) != (target.vocab_size, target.vocab_hash):
        raise EngineError(
            f"{draft.name} has {draft.vocab_size} tokens and {target.name} {target.vocab_size}, or other words for "
            "them: a token of one says nothing to the other; choose two models of one family"
        )
    return draft, target


def follow_engine(spec: Mapping[str, Any]) -> None:
    """What all but the first of the processes that hold a target do, until the first ends. Raises EngineError."""
    from nodes.engine.hf_parallel import follow

    follow(_transformers(parse(spec, "target")))


def _bare(spec: EngineSpec, role: Role) -> Engine:
    if spec.engine == "toy":
        from nodes.engine.toy import ToyEngine

        return ToyEngine(role, **{"vocab_size": TOY_VOCAB_SIZE, **spec.toy})
    engine = _transformers(spec)
    if spec.tensor_parallel == 1:
        return engine
    from nodes.engine.hf_parallel import ParallelEngine

    return ParallelEngine(engine)


def _transformers(spec: EngineSpec) -> HfEngine:
    """This process's engine, or its share of one."""
    from nodes.engine.hf import HfEngine  # torch: seconds

    if spec.tensor_parallel > 1:
        from nodes.engine.hf_parallel import join

        join(spec.tensor_parallel, spec.device)
    kind, _, where = spec.engine.partition(":")
    model, tokenizer = bundled_paths(where) if kind == "bundled" else (_expanded(where), None)
    return HfEngine(
        model,
        name=spec.engine,
        tokenizer=tokenizer,
        dtype=spec.dtype,
        device=spec.device,
        threads=spec.threads,
        processes=spec.tensor_parallel,
    )


def _check_engine(role: Role, engine: str) -> None:
    kind, _, where = engine.partition(":")
    if engine == "toy":
        return
    if kind == "bundled" and where in KINDS:
        bundled_paths(where)
    elif kind == "hf" and where:
        if _is_path(where) and not Path(_expanded(where), "config.json").is_file():
            raise EngineError(
                f"{role}: no model at {_expanded(where)}: a folder with a config.json is wanted, as "
                "save_pretrained() writes it; or give a model's id, as hf:owner/name"
            )
    else:
        raise EngineError(f"{role}: unknown engine '{engine}'; it is one of {ENGINES}")


def _check_shares(role: Role, engine: str, count: Any) -> None:
    _check(role, "tensor_parallel", count, (int,))
    if count < 1:
        raise EngineError(f"{role}: tensor_parallel must be at least 1, not {count}")
    if count > 1 and (role == "draft" or engine == "toy"):
        raise EngineError(f"{role}: tensor_parallel shares out the edge's target, a transformers model: remove it here")
    if count > 1:
        check_shares(engine, _config(engine), count)


def _config(engine: str) -> dict[str, Any]:
    """Of a transformers model that lies here; empty for one on a hub."""
    kind, _, where = engine.partition(":")
    path = (bundled_paths(where)[0] if kind == "bundled" else Path(_expanded(where))) / "config.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _is_path(where: str) -> bool:
    return where.startswith((".", "/", "~")) or Path(where).is_dir()


def _expanded(where: str) -> str:
    return str(Path(where).expanduser()) if _is_path(where) else where


def _check(role: Role, key: str, value: Any, types: tuple[type, ...]) -> None:
    if isinstance(value, bool) or not isinstance(value, types):
        raise EngineError(f"{role}: {key} must be {' or '.join(each.__name__ for each in types)}, not {value!r}")


def _check_choice(role: Role, key: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise EngineError(f"{role}: {key} must be one of {', '.join(choices)}, not {value!r}")
