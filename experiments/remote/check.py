"""What a host answers before a run: `python -m experiments.remote.check`, a question on stdin, an answer on stdout.

Runs over there, with whatever Python is there: nothing but the standard library is imported before it is known what
can be. An answer is `{facts, checks: [{name, ok, detail, remedy}]}`; `ok` false refuses the run, null only tells.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from nodes.identity import source_hash

NEEDED = {  # module: what pip calls it
    "zmq": "pyzmq>=26.4",
    "msgspec": "msgspec>=0.19",
    "numpy": "numpy>=1.26",
    "psutil": "psutil>=6",
    "yaml": "pyyaml>=6",
    "pydantic": "pydantic>=2.7",
    "typer": "typer>=0.12",
    "rich": "rich>=13.7",
}
NEEDED_BY_MODELS = {"torch": "torch>=2.6", "transformers": "transformers>=4.57,<6"}
ROOM_BYTES = 64 << 20
WEIGHTS = ("*.safetensors", "*.bin", "tokenizer.json")
READ_BYTES = 1 << 20


def check(question: dict[str, Any]) -> dict[str, Any]:
    """`question`: folders, version (of the code), folder (the run's), engines (by the
    configuration's names, as they are called here), probes, interface."""
    checks = [_python(), _code(question), _room(Path(question["folder"]))]
    facts: dict[str, Any] = {
        "python": sys.version.split()[0],
        "wall_s": time.time(),
        "architecture": os.uname().machine,
    }
    facts["ssh_address"] = os.environ.get("SSH_CONNECTION", "").split(" ")[2:3]
    importable = _imports(question["engines"])
    checks.append(importable)
    if importable["ok"]:
        facts |= _machine()
        checks += [_model(name, engine, facts) for name, engine in question["engines"].items()]
        checks += _probes(question["probes"], facts)
        checks += _interface(question["interface"], facts)
    return {"facts": facts, "checks": checks}


def _record(name: str, ok: bool | None, detail: str, remedy: str = "") -> dict[str, Any]:
    return {"name": name, "ok": ok, "detail": detail, "remedy": "" if ok else remedy}


def _python() -> dict[str, Any]:
    version = ".".join(map(str, sys.version_info[:3]))
    remedy = "name a python 3.10 or newer in the inventory"
    return _record("python", sys.version_info >= (3, 10), f"{sys.executable} is {version}", remedy)


def _code(question: dict[str, Any]) -> dict[str, Any]:
    found = source_hash(question["folders"], {"__pycache__"})
    detail = f"version {found} in {Path.cwd()}, {question['version']} on the machine that asks"
    return _record("code", found == question["version"], detail, f"remove that folder there: rm -r {Path.cwd()}")


def _room(folder: Path) -> dict[str, Any]:
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1e6:.0f} MB free in {folder}, {ROOM_BYTES / 1e6:.0f} MB wanted"
    return _record("disk", free > ROOM_BYTES, detail, "make room there, or name another workdir in the inventory")


def _imports(engines: dict[str, str]) -> dict[str, Any]:
    missing, why = [], ""
    real = any(engine != "toy" for engine in engines.values())
    for module, requirement in {**NEEDED, **(NEEDED_BY_MODELS if real else {})}.items():
        try:
            importlib.import_module(module)
        except Exception as error:  # a library of another architecture or of CUDA raises what it likes
            missing.append(f"'{requirement}'")
            why = why or f"{module}: {error}"
    if not missing:
        return _record("packages", True, "all there")
    remedy = f"there: {sys.executable} -m pip install {' '.join(missing)}; or name another python in the inventory"
    return _record("packages", False, f"{sys.executable} cannot import {why}", remedy)


def _machine() -> dict[str, Any]:
    from experiments.manifest import machine, software

    return {"machine": machine(), "software": software()}


def _model(name: str, engine: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Present, and which one: a hash of its weights and its tokenizer. `name` as the configuration calls it."""
    kind, _, where = engine.partition(":")
    if kind == "toy":
        return _record(f"model {name}", True, "tables, made on the spot")
    folder = _folder(kind, where)
    if folder is None or not (folder / "config.json").is_file():
        remedy = f"there: `hf download {where}`" if kind == "hf" and not where.startswith("/") else "copy it there"
        return _record(f"model {name}", False, f"not there ({folder or 'not downloaded'})",
                       f"{remedy}, or give its path on that host under `models` in the inventory")  # fmt: skip
    facts.setdefault("models", {})[name] = found = model_hash(folder)
    return _record(f"model {name}", True, f"{found} in {folder}")


def _folder(kind: str, where: str) -> Path | None:
    if kind == "bundled":
        from nodes.engine.bundled import FOLDER

        return FOLDER / where
    if where.startswith(("/", "~", ".")):
        return Path(where).expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or "~/.cache/huggingface", "hub"))
    model = hub.expanduser() / f"models--{where.replace('/', '--')}"
    revision = model / "refs" / "main"
    return model / "snapshots" / revision.read_text().strip() if revision.is_file() else None


def model_hash(folder: Path) -> str:
    """12 hex digits of its weights and tokenizer, wherever it lies. A file in a hub's cache is named by its hash; any
    other is read once, and remembered by size and time of change."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in WEIGHTS for path in folder.glob(pattern)):
        digest.update(f"{path.name}\t{_file_hash(path)}\n".encode())
    return digest.hexdigest()[:12]


def _file_hash(path: Path) -> str:
    real = path.resolve()
    if len(real.name) == 64 and real.parent.name == "blobs":
        return real.name
    memory = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dssd" / "model-hashes.json"
    key = f"{real} {real.stat().st_size} {real.stat().st_mtime_ns}"
    try:
        known = dict(json.loads(memory.read_text()))
    except (OSError, ValueError):
        known = {}
    if key not in known:
        digest = hashlib.sha256()
        with real.open("rb") as file:
            while block := file.read(READ_BYTES):
                digest.update(block)
        known[key] = digest.hexdigest()
        try:
            memory.parent.mkdir(parents=True, exist_ok=True)
            memory.write_text(json.dumps(known))
        except OSError:  # then it is read again the next time
            pass
    return str(known[key])


def _probes(wanted: list[str], facts: dict[str, Any]) -> list[dict[str, Any]]:
    from nodes.probes import find_probes, parse_probe

    options = dict(map(parse_probe, wanted))
    findings = {finding.probe: finding for finding in find_probes(options)}
    facts["probes"] = {name: finding.status for name, finding in findings.items()}
    usable = [name for name, finding in findings.items() if finding.usable]
    told = _record("probes", True if usable else None, ", ".join(usable) or "none works", "no power will be recorded")
    refused = [
        _record(f"probe {name}", False, f"{findings[name].status}: {findings[name].detail}", findings[name].remedy)
        for name in options
        if not findings[name].usable and name not in ("psutil_estimate", "radio_model", "paced_model")
    ]  # those three are models, with numbers from the configuration
    return [told, *refused]


def _interface(name: str | None, facts: dict[str, Any]) -> list[dict[str, Any]]:
    if name is None:
        return []
    import psutil

    interfaces = psutil.net_if_addrs()
    if name not in interfaces:
        known = ", ".join(sorted(interfaces))
        return [_record("interface", False, f"there is no {name}; there are: {known}", "name one in the inventory")]
    facts["addresses"] = [each.address for each in interfaces[name] if each.family.name in ("AF_INET", "AF_INET6")]
    return [_record("interface", True, f"{name}: {', '.join(facts['addresses']) or 'no address'}")]


def main() -> None:
    print(json.dumps(check(json.load(sys.stdin))))


if __name__ == "__main__":
    main()
