"""Which model an engine runs, so that what was trained for one model is not used with another."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from nodes.engine import Engine

ENDS_BYTES = 1 << 20  # of a weights file: its header and its last tensor tell models apart, a whole 70B takes minutes
TABLES = ("role", "acceptance", "order", "sharpness", "table_seed")  # what a toy's rows are made from


def model_id(engine: Engine) -> str:
    """16 hex digits, the same for the same weights wherever they lie; pace, dtype and device do not count. A model
    named by its id on a hub counts by id and revision."""
    about = engine.describe()
    digest = hashlib.sha256()
    folder = Path(str(about.get("model", "")))
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]) if about.get("model") else []
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(ENDS_BYTES))
            file.seek(max(0, size - ENDS_BYTES))
            digest.update(file.read())
    if not files:
        named = {key: about.get(key) for key in ("engine", "model", "revision", *TABLES) if key in about}
        digest.update(json.dumps(named, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]
