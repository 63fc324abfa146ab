"""The code, on a host: this machine's own four packages, byte for byte, in a folder named by their hash.

What is there already is not sent again; what is half there is completed. Nothing is installed: the host's Python needs
the dependencies, and `check` says which are missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from experiments.remote.ssh import LocalHost, SshHost
from nodes.identity import ROOT, source_files, source_hash

FOLDERS = ("experiments", "netem", "nodes", "transport")
NOT_SENT = frozenset({"__pycache__"})
COMPLETE = ".complete"
PREPARE = f"""umask 077
mkdir -p "$1/runs/$2" "$1/source/$3" && cd "$1" && pwd && cd && pwd || exit
cd "$OLDPWD" && {{ test -e "source/$3/{COMPLETE}" && echo deployed || echo absent; }}"""


@dataclass(frozen=True)
class Place:
    """What a node finds on its host, as absolute paths."""

    source: str  # working directory: `python -m nodes.process` finds the code there
    folder: str  # of this run: what it is told, its keys, its records
    python: str
    workdir: str


def code_hash() -> str:
    """Of everything that is deployed, the bundled models included."""
    return source_hash(FOLDERS, NOT_SENT)


def deploy(host: LocalHost, run: str, folder: Path) -> Place:
    """Make the host ready for a run of this name; on this machine the run's own `folder` is the place. Raises
    RemoteError."""
    if not isinstance(host, SshHost):
        return Place(str(ROOT), str(folder.resolve()), host.python(), str(folder.resolve()))
    version = code_hash()
    workdir = host.spec.workdir.removeprefix("~/")  # a login begins at home
    said = host.run(["sh", "-c", PREPARE, "sh", workdir, run, version])
    absolute, home, state = said.splitlines()[-3:]
    source = f"{absolute}/source/{version}"
    if state == "absent":
        files = [str(path.relative_to(ROOT)) for path in source_files(FOLDERS, NOT_SENT)]
        host.put(ROOT, source, files)
        host.run(["touch", f"{source}/{COMPLETE}"])
    python = host.python()
    if "/" in python and not python.startswith("/"):
        python = f"{home}/{python.removeprefix('~/')}"
    return Place(source, f"{absolute}/runs/{run}", python, absolute)
