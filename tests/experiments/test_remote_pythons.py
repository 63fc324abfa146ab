"""Runs on two machines whose Pythons differ: another version, another architecture. Their packages are fetched first,
so this needs a package index."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from machines import PROJECT
from test_remote import run, tokens, world, write_config

from experiments.remote.check import NEEDED

__all__ = ["world"]
pytestmark = pytest.mark.slow


@dataclass
class Other:
    """A Python that is not this one, and a folder with its packages."""

    python: Path
    prefix: Path
    site: Path


def known_pythons() -> dict[str, Path]:
    """Prefixes by name, `python3.N`: on the path, or installed beside this one. A shim without one does not count."""
    beside = sorted(Path(sys.base_prefix).resolve().parent.glob("3.*/bin/python3.[0-9]*"))
    on_path = [Path(found) for n in range(10, 16) if (found := shutil.which(f"python3.{n}"))]
    found = {}
    for path in [*on_path, *beside]:
        if re.fullmatch(r"python3\.1\d", path.name) and path.name != f"python3.{sys.version_info[1]}":
            ask = [path, "-I", "-c", "import sys; print(sys.base_prefix)"]
            said = subprocess.run(ask, capture_output=True, text=True)
            if said.returncode == 0 and Path(said.stdout.strip(), "bin", path.name).is_file():
                found[path.name] = Path(said.stdout.strip())
    return found


@pytest.fixture(scope="module")
def other_version(tmp_path_factory) -> Other:
    pythons = known_pythons()
    if not pythons:
        pytest.skip("needs a Python of another version, 3.10 or newer, on the path or beside this one")
    name, prefix = next(iter(pythons.items()))
    site = tmp_path_factory.mktemp("site")
    pip = [prefix / "bin" / name, "-m", "pip", "install", "-q", "--target", site, "-c", PROJECT / "constraints.txt"]
    done = subprocess.run(list(map(str, [*pip, *NEEDED.values()])), capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no packages for {name}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return Other(prefix / "bin" / name, prefix, site)


def test_the_two_may_have_pythons_of_different_versions(other_version, world, tmp_path):
    """`other_version` comes first: its packages come over a network that the machines have not."""
    folder = world.device.folder
    for name, source in {"other": other_version.prefix, "other-site": other_version.site}.items():
        (folder / name).mkdir()
        world.device.run("mount", "--bind", str(source), f"/mnt/{name}")
    python = f'PYTHONHOME=/mnt/other PYTHONPATH=/mnt/other-site exec /mnt/other/bin/{other_version.python.name} "$@"'
    (folder / "other-python").write_text(f"#!/bin/sh\n{python}\n")
    (folder / "other-python").chmod(0o755)
    world.device.run("chmod", "-R", "a+rX", "/mnt/other-site")
    far, outcome = run(tmp_path, write_config(tmp_path, world, {"device": {"python": "/mnt/other-python"}}))
    device, edge = (outcome.hosts[role]["facts"]["python"] for role in ("device", "edge"))
    assert device.rpartition(".")[0] == other_version.python.name.removeprefix("python") != edge.rpartition(".")[0]
    here, _ = run(tmp_path, write_config(tmp_path, world, hosts=None), on_hosts=False)
    assert tokens(far) == tokens(here)
    assert far.traces()
