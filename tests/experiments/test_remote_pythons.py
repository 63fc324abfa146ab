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


APT = """
APT::Architecture "arm64";
APT::Architectures {{"arm64";}};
Dir::State::lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
"""
DEBIAN = ["python3.11-minimal", "libpython3.11-stdlib", "libstdc++6"]  # bookworm's
WHEELS = ["manylinux2014_aarch64", "manylinux_2_17_aarch64", "manylinux_2_28_aarch64"]


@pytest.fixture(scope="module")
def arm(tmp_path_factory) -> Other:
    """A Python for 64-bit ARM with its libraries, from Debian's packages, run by qemu."""
    if shutil.which("qemu-aarch64-static") is None or shutil.which("dpkg") is None:
        pytest.skip("needs an emulated processor on Debian: apt-get install qemu-user-static")
    folder = tmp_path_factory.mktemp("arm")
    for name in ("lists/partial", "cache/archives/partial", "root", "site"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "apt.conf").write_text(APT.format(folder=folder))
    apt = ["env", f"APT_CONFIG={folder}/apt.conf", "apt-get", "-qq"]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder / "site"), "--python-version", "3.11"]
    pip += ["--only-binary=:all:", *(word for wheel in WHEELS for word in ("--platform", wheel))]
    for command in (
        [*apt, "update"],
        [*apt, "install", "-y", "--download-only", "--no-install-recommends", *DEBIAN],
        [*pip, *NEEDED.values()],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no Python for arm64: {' '.join(done.stderr.split()[:40])}")
    for package in (folder / "cache" / "archives").glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, folder / "root"], check=True)
    return Other(folder / "root/usr/bin/python3.11", folder / "root", folder / "site")


def bring(world, name: str, other: Other, command: str, home: str = "") -> str:
    """The device's machine gets this Python; its path there. `command` runs it."""
    folder = world.device.folder
    for part, source in {name: other.prefix, f"{name}-site": other.site}.items():
        (folder / part).mkdir()
        source.chmod(0o755)
        world.device.run("mount", "--bind", str(source), f"/mnt/{part}")
    world.device.run("chmod", "-R", "a+rX", f"/mnt/{name}-site")
    environment = f"PYTHONHOME=/mnt/{name}{home} PYTHONPATH=/mnt/{name}-site"
    (folder / f"{name}-python").write_text(f'#!/bin/sh\n{environment} exec {command} "$@"\n')
    (folder / f"{name}-python").chmod(0o755)
    return f"/mnt/{name}-python"


def test_the_two_may_have_processors_of_different_kinds(arm, world, tmp_path):
    """The device's is emulated; to its Python, and to the libraries it loads, it is a real one."""
    command = "qemu-aarch64-static -L /mnt/arm -0 /mnt/arm-python /mnt/arm/usr/bin/python3.11"
    python = bring(world, "arm", arm, command, home="/usr")
    # every command over there takes seconds
    patient = {"transport": {"retry_after_s": 60.0, "give_up_after_s": 300.0}, "energy": {"baseline_s": 0}}
    far, outcome = run(tmp_path, write_config(tmp_path, world, {"device": {"python": python}}, **patient))
    device, edge = (outcome.hosts[role]["facts"]["architecture"] for role in ("device", "edge"))
    assert device == "aarch64" != edge
    here, _ = run(tmp_path, write_config(tmp_path, world, hosts=None, **patient), on_hosts=False)
    assert tokens(far) == tokens(here)


def test_the_two_may_have_pythons_of_different_versions(other_version, world, tmp_path):
    """`other_version` comes first: its packages come over a network that the machines have not."""
    python = bring(world, "other", other_version, f"/mnt/other/bin/{other_version.python.name}")
    far, outcome = run(tmp_path, write_config(tmp_path, world, {"device": {"python": python}}))
    device, edge = (outcome.hosts[role]["facts"]["python"] for role in ("device", "edge"))
    assert device.rpartition(".")[0] == other_version.python.name.removeprefix("python") != edge.rpartition(".")[0]
    here, _ = run(tmp_path, write_config(tmp_path, world, hosts=None), on_hosts=False)
    assert tokens(far) == tokens(here)
    assert far.traces()
