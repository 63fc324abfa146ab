"""The draft and target that ship with the project: where they lie and what they are, without loading them."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any

from nodes.engine import EngineError

FOLDER = Path(__file__).parent / "bundled"
KINDS = ("draft", "target")


def bundled_paths(kind: str) -> tuple[Path, Path]:
    """(model folder, tokenizer folder). Raises EngineError if they are not there."""
    model, tokenizer = FOLDER / kind, FOLDER / "tokenizer"
    for file in (model / "config.json", model / "model.safetensors", tokenizer / "tokenizer.json"):
        if not file.is_file():
            raise EngineError(
                f"bundled:{kind}: {file} is missing; reinstall the package, or train the pair anew with "
                "`python -m experiments.pair.train --out FOLDER --minutes 90`"
            )
    return model, tokenizer


def list_models() -> list[dict[str, Any]]:
    """One record per bundled model: name, kind, path, bytes (of the weights file), sha256 (of the same),
    vocab_size, parameters, tokenizer (its folder). A model that is not there is left out."""
    records = []
    for kind in KINDS:
        try:
            model, tokenizer = bundled_paths(kind)
        except EngineError:
            continue
        weights = model / "model.safetensors"
        config = json.loads((model / "config.json").read_text())
        records.append(
            {
                "name": f"bundled:{kind}",
                "kind": kind,
                "path": str(model),
                "bytes": weights.stat().st_size,
                "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
                "vocab_size": config["vocab_size"],
                "parameters": _n_parameters(weights),
                "tokenizer": str(tokenizer),
            }
        )
    return records


def _n_parameters(weights: Path) -> int:
    """Counted in the header of the safetensors file: eight bytes of length, then JSON."""
    with weights.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
