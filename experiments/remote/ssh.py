"""A machine, by the system's own `ssh` and `rsync`: one connection each, over which everything else goes.

The connection (an ssh master on a socket in a short temporary path) runs `cat` over there and holds its standard input:
whatever ends this process, by SIGKILL too, ends that `cat`, the connection, and with it whatever was started over it.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.remote.inventory import HostSpec, Role, bracketed

CONNECT_WITHIN_S = 15
COMMAND_WITHIN_S = 60.0
COPY_WITHIN_S = 600.0
SPOKEN = "dssd-connected"
ALIVE = ["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"]
REMEDIES = {
    "permission denied": "check user and identity in the inventory; `ssh-copy-id` puts your public key there",
    "host key verification failed": "connect once by hand (`ssh {where}`) and compare the key it shows",
    "could not resolve": "check the address in the inventory",
    "connection refused": "is an ssh server running there, on that port?",
    "no route to host": "is the machine on, and in this network?",
    "network is unreachable": "is the machine on, and in this network?",
    "timed out": "is the machine on, is the address right, does a firewall drop port 22?",
    "unprotected private key": "chmod 600 the identity file",
    "no such identity": "check identity in the inventory",
    "bad configuration": "mend that line of the ssh configuration",
    "no space left": "make room there, or name another workdir in the inventory",
    "disk quota exceeded": "make room there, or name another workdir in the inventory",
    "read-only file system": "name another workdir in the inventory",
    "cannot create directory": "name a workdir in the inventory that this user may write",
    "rsync: command not found": "install it there: sudo apt-get install -y rsync",
    "rsync: not found": "install it there: sudo apt-get install -y rsync",
    "future feature annotations": "name a python 3.10 or newer in the inventory",
}


class RemoteError(RuntimeError):
    """A host cannot be reached, prepared or heard of any more; the message names it and what mends it."""


class LocalHost:
    """This machine in the role of a host: the same words, no ssh."""

    def __init__(self, role: Role, spec: HostSpec) -> None:
        self.role, self.spec, self.where = role, spec, spec.where

    def connect(self) -> None: ...

    def close(self) -> None: ...

    def lost(self, within_s: float = 0.0) -> bool:
        return False

    def wrap(self, argv: Sequence[str], folder: str) -> list[str]:
        """The command that runs `argv` in `folder` there, its standard input and output ours."""
        return ["env", "-C", folder, *argv]

    def python(self) -> str:
        return str(Path(self.spec.python).expanduser()) if self.spec.python else sys.executable

    def run(self, argv: Sequence[str], folder: str = ".", text: str = "", within_s: float = COMMAND_WITHIN_S) -> str:
        """What the command says on stdout. Raises RemoteError with what it said on stderr."""
        return self._say(self.wrap(argv, folder), text, within_s)

    def _say(self, command: Sequence[str], text: str, within_s: float) -> str:
        try:
            done = subprocess.run(
                command, input=text, capture_output=True, text=True, timeout=within_s, start_new_session=True
            )
        except FileNotFoundError as error:
            raise RemoteError(
                f"{error.filename} is not installed here: sudo apt-get install -y {error.filename}"
            ) from None
        except subprocess.TimeoutExpired:
            raise RemoteError(self._explain(f"no answer within {within_s:.0f} s")) from None
        if done.returncode:
            raise RemoteError(self._explain(done.stderr or f"exit code {done.returncode}"))
        return done.stdout

    def _explain(self, said: str) -> str:
        said = "\n  ".join(line for line in said.strip().splitlines() if line.strip()) or "it said nothing"
        remedy = next((text for mark, text in REMEDIES.items() if mark in said.lower()), "")
        tail = f"\n  remedy: {remedy.format(where=self.where)}" if remedy else ""
        return f"{self.role} host {self.where}: {said}{tail}"


class SshHost(LocalHost):
    """`sockets` is a folder for the master's socket; its path must stay under 100 characters."""

    def __init__(self, role: Role, spec: HostSpec, sockets: Path) -> None:
        super().__init__(role, spec)
        self._socket = sockets / role[0]
        self._log = sockets / f"{role}.said"
        self._master: subprocess.Popen[bytes] | None = None

    def connect(self) -> None:
        """Raises RemoteError: unreachable, unknown, or not let in."""
        self.close()
        spec = self.spec
        options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_WITHIN_S}", *ALIVE]
        options += ["-p", str(spec.port)] if spec.port else []
        options += ["-i", str(Path(spec.identity).expanduser()), "-o", "IdentitiesOnly=yes"] if spec.identity else []
        options += ["-F", str(Path(spec.ssh_config).expanduser())] if spec.ssh_config else []
        command = ["ssh", "-T", "-M", "-S", str(self._socket), "-o", "ControlPersist=no", *options, self._destination]
        with self._log.open("wb") as log:
            try:
                self._master = subprocess.Popen(
                    [*command, f"echo {SPOKEN}; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                    start_new_session=True,
                )  # fmt: skip
            except FileNotFoundError:
                raise RemoteError("ssh is not installed here: sudo apt-get install -y openssh-client") from None
        limit = threading.Timer(2 * CONNECT_WITHIN_S, self._master.kill)
        limit.start()
        try:
            assert self._master.stdout is not None
            while line := self._master.stdout.readline():  # a login shell may greet
                if line.strip().decode(errors="replace") == SPOKEN:
                    return
        finally:
            limit.cancel()
        self._master.wait()
        said = self._log.read_text(errors="replace")
        self.close()
        raise RemoteError(self._explain(said or f"no connection within {2 * CONNECT_WITHIN_S} s: timed out"))

    def close(self) -> None:
        master, self._master = self._master, None
        if master is not None:
            assert master.stdin is not None and master.stdout is not None
            master.stdin.close()
            try:
                master.wait(2)
            except subprocess.TimeoutExpired:
                master.kill()
                master.wait()
            master.stdout.close()
        self._socket.unlink(missing_ok=True)

    def lost(self, within_s: float = 0.0) -> bool:
        """Has the connection ended by itself, or does it within this time? Its sessions hear of it first."""
        if self._master is None:
            return True
        deadline = time.monotonic() + within_s
        while self._master.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return self._master.poll() is not None

    def wrap(self, argv: Sequence[str], folder: str) -> list[str]:
        # a shell that stays: else a command killed by a signal would look like a connection that broke
        script = 'cd "$1" && shift && "$@"; exit $?'
        return [*self._ssh, self._destination, shlex.join(["sh", "-c", script, "sh", folder, *argv])]

    def python(self) -> str:
        return self.spec.python or "python3"

    def put(self, source: Path, target: str, files: Sequence[str] | None = None) -> None:
        """Copy the content of a folder, or those `files` of it. Raises RemoteError."""
        some = ["--files-from=-"] if files is not None else []
        argv = ["rsync", "-rlpt", *some, "-e", shlex.join(self._ssh), f"{source}/", self._path(target)]
        self._say(argv, "\n".join(files or ()), COPY_WITHIN_S)

    def fetch(self, source: str, target: Path, without: Sequence[str] = ()) -> None:
        """Copy the content of a folder over there into one here. Raises RemoteError."""
        but = [f"--exclude={name}" for name in without]
        argv = [
            "rsync",
            "-rt",
            "--omit-dir-times",
            *but,
            "-e",
            shlex.join(self._ssh),
            self._path(source),
            f"{target}/",
        ]
        self._say(argv, "", COPY_WITHIN_S)

    @property
    def _destination(self) -> str:
        return self._login + str(self.spec.address)

    @property
    def _login(self) -> str:
        return f"{self.spec.user}@" if self.spec.user else ""

    def _path(self, folder: str) -> str:
        """A folder's content over there, as rsync names it."""
        return f"{self._login}{bracketed(str(self.spec.address))}:{folder}/"

    @property
    def _ssh(self) -> list[str]:
        """A session over the master; without it none, rather than a second connection that asks for a password."""
        alone = ["-o", "BatchMode=yes", "-o", "ControlMaster=no", "-o", "ProxyCommand=false"]
        return ["ssh", "-T", "-S", str(self._socket), *alone]

    def _explain(self, said: str) -> str:
        if self._master is not None and self._master.poll() is not None:
            why = self._log.read_text(errors="replace").strip() or "it did not say why"
            said = f"{said}\nthe connection was lost: {why}"
        return super()._explain(said)
