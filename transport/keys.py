"""CURVE key pairs: who may talk to this edge, and which edge this device trusts.

A key file is text: comment lines start with "# ", one other line holds one key in Z85 (40 characters).
`edge.key` and `device.key` are secret (mode 0600), `edge.pub` and `device.pub` are not. `devices.allow` lists
the public keys of the devices an edge serves, one a line, anything after a space is the device's name.
Between machines: the edge keeps `edge.key` and `devices.allow`; a device `device.key` and a copy of
`edge.pub`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import zmq
import zmq.utils.z85

ALLOW_FILE = "devices.allow"
ROLES = ("edge", "device")


class KeysError(RuntimeError):
    """A key is missing, malformed or readable by others; the message names the file and the remedy."""


@dataclass(frozen=True)
class EdgeKeys:
    """What an edge needs. Keys in Z85; `allowed` holds the public keys of the devices it serves."""

    public: bytes
    secret: bytes = field(repr=False)
    allowed: frozenset[bytes]
    source: str = "ephemeral keys"  # where they came from, for messages


@dataclass(frozen=True)
class DeviceKeys:
    """What a device needs: its own pair and the public key of the edge it will talk to."""

    public: bytes
    secret: bytes = field(repr=False)
    edge_public: bytes
    source: str = "ephemeral keys"


def lab_keys() -> tuple[EdgeKeys, DeviceKeys]:
    """A fresh pair of pairs in memory, good for one run; every device of the run shares the device's."""
    edge_public, edge_secret = zmq.curve_keypair()
    device_public, device_secret = zmq.curve_keypair()
    return (
        EdgeKeys(edge_public, edge_secret, frozenset([device_public])),
        DeviceKeys(device_public, device_secret, edge_public),
    )


def make_keys(directory: Path | str, roles: Sequence[str] = ROLES) -> list[Path]:
    """Write new key files for the roles (edge, device) and return their paths.

    With both roles the edge's allow-list holds the device. Raises KeysError, before writing anything, if one
    of the files exists or the directory cannot be written.
    """
    folder = Path(directory)
    files: dict[str, tuple[str, int]] = {}
    publics: dict[str, str] = {}
    for role in roles:
        public, secret = (key.decode() for key in zmq.curve_keypair())
        publics[role] = public
        files[f"{role}.key"] = (f"# CURVE secret key of this {role}, mode 0600\n{secret}\n", 0o600)
        files[f"{role}.pub"] = (f"# CURVE public key of the {role}, for the other end\n{public}\n", 0o644)
    if "edge" in roles:
        listed = f"{publics['device']} device\n" if "device" in roles else ""
        files[ALLOW_FILE] = (f"# public keys of the devices this edge serves: KEY NAME\n{listed}", 0o644)
    for name in files:
        if (folder / name).exists():
            raise KeysError(f"{folder / name} exists and keys are never overwritten: name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, (text, mode) in files.items():
            handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(text)
    except OSError as error:
        raise KeysError(f"cannot write keys to {folder}: {error.strerror}; name a folder you own") from error
    return [folder / name for name in files]


def load_edge_keys(directory: Path | str) -> EdgeKeys:
    """Read `edge.key` and `devices.allow`. Raises KeysError naming the file and what mends it."""
    folder = Path(directory)
    secret = _secret(folder / "edge.key")
    allowed = frozenset(_keys(folder / ALLOW_FILE))
    return EdgeKeys(zmq.curve_public(secret), secret, allowed, source=str(folder / ALLOW_FILE))


def load_device_keys(directory: Path | str) -> DeviceKeys:
    """Read `device.key` and `edge.pub`. Raises KeysError naming the file and what mends it."""
    folder = Path(directory)
    secret = _secret(folder / "device.key")
    edge_public = _one(folder / "edge.pub")
    return DeviceKeys(zmq.curve_public(secret), secret, edge_public, source=str(folder / "device.key"))


def _secret(path: Path) -> bytes:
    key = _one(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise KeysError(f"{path} is open to others (mode {mode:04o}): chmod 600 {path}")
    return key


def _one(path: Path) -> bytes:
    keys = _keys(path)
    if len(keys) != 1:
        raise KeysError(f"{path} holds {len(keys)} keys, expected one: make it anew (dssd keys)")
    return keys[0]


def _keys(path: Path) -> list[bytes]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        remedy = "make keys (dssd keys) or copy it from the other machine"
        raise KeysError(f"cannot read {path} ({error.strerror}): {remedy}") from error
    keys = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith(b"# "):
            continue
        key = line.split()[0]
        try:
            zmq.utils.z85.decode(key)
            if len(key) != 40:
                raise ValueError
        except (ValueError, KeyError) as error:
            raise KeysError(f"{path}:{number} is no CURVE key (40 Z85 characters): make it anew") from error
        keys.append(key)
    return keys
