"""Two "machines" on this one: an ssh server each, on a loopback address of its own and with keys of its own, both for
the user who asks. They share everything else, so they measure what is done over ssh, and not a network."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

SSHD = "/usr/sbin/sshd"
ADDRESSES = {"device": "127.0.0.1", "edge": "127.0.0.2"}
SERVER = """
Port {port}
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/login.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin yes
"""
WITHIN_S = 10.0


def why_not() -> str:
    """Empty where they can be made."""
    for tool, package in {SSHD: "openssh-server", "ssh": "openssh-client", "rsync": "rsync"}.items():
        if shutil.which(tool) is None:
            return f"needs {package}: sudo apt-get install -y {package}"
    return ""


@contextmanager
def neighbours(folder: Path) -> Iterator[dict[str, Any]]:
    """An inventory of both, whose files are in `folder`; they are gone after the block."""
    with ExitStack() as stack:
        yield {role: stack.enter_context(_neighbour(role, folder / role)) for role in ADDRESSES}


@contextmanager
def _neighbour(role: str, folder: Path) -> Iterator[dict[str, Any]]:
    folder.mkdir(parents=True)
    for name in ("host_key", "login"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    address, port = ADDRESSES[role], _free_port(ADDRESSES[role])
    (folder / "sshd_config").write_text(SERVER.format(port=port, address=address, folder=folder))
    (folder / "known_hosts").write_text(f"[{address}]:{port} {(folder / 'host_key.pub').read_text()}")
    (folder / "ssh_config").write_text(f"Host *\n  UserKnownHostsFile {folder}/known_hosts\n")
    if getpass.getuser() == "root":  # where a system's own server has never run
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with (folder / "sshd.log").open("wb") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stdin=subprocess.DEVNULL,
                                  stdout=log, stderr=log, start_new_session=True)  # fmt: skip
    try:
        _until(True, address, port, server)
        yield {
            "address": address,
            "port": port,
            "user": getpass.getuser(),
            "identity": str(folder / "login"),
            "ssh_config": str(folder / "ssh_config"),
            "python": sys.executable,
            "workdir": str(folder / "work"),
        }
    finally:
        with suppress(ProcessLookupError):  # it ended by itself
            os.killpg(server.pid, signal.SIGTERM)  # a child just forked for a caller holds the door open too
        server.wait()
        _until(False, address, port)


def _free_port(address: str) -> int:
    with socket.socket() as door:
        door.bind((address, 0))
        return int(door.getsockname()[1])


def _until(listens: bool, address: str, port: int, server: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + WITHIN_S
    while _listens(address, port) != listens:
        if time.monotonic() > deadline or (server and server.poll() is not None):
            raise TimeoutError(f"ssh server at {address}:{port}: {'does not listen' if listens else 'listens still'}")
        time.sleep(0.05)


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 1).close()
    except OSError:
        return False
    return True
