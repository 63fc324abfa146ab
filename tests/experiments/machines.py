"""Two machines and a desk, for tests: each a network namespace with a mount namespace of its own, so that it has its
own users, home, Python and files, and its own sshd with its own host key.

    desk ──── 10.77.0.x ──── device, edge        where ssh goes
    device ── 10.78.0.1 ──── 10.78.0.2 ── edge   where the nodes talk
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
PORT = 2222
LINK = {"device": "10.78.0.1", "edge": "10.78.0.2"}
DESK = {"device": "10.77.1.1", "edge": "10.77.2.1"}  # this end of each machine's line to the desk
USERS = {"device": ("ada", 60001), "edge": ("grace", 60002)}
INIT = """
set -e
mount --make-rprivate /
mkdir -p {root}/python {root}/site
mount --bind {prefix} {root}/python && mount --bind {site} {root}/site
for file in passwd group shadow; do
    cp /etc/$file {root}/$file && cat {root}/more.$file >>{root}/$file && mount --bind {root}/$file /etc/$file
done
mkdir -p {root}/run/sshd {root}/home
mount --rbind {root}/run /run
mount -t tmpfs -o mode=755,size={home_size} home /home
mount --rbind {root} /mnt
mount -t tmpfs -o mode=755 hidden {project}
mkdir -p -m 700 /home/{user}/.ssh
cp /mnt/authorized_keys /home/{user}/.ssh/
mkdir -p /home/{user}/{bin}
cp /mnt/python.sh /home/{user}/{bin}/python && chmod 755 /home/{user}/{bin}/python
chown -R {uid}:{uid} /home/{user} && chmod 700 /home/{user}
exec /usr/sbin/sshd -D -e -f /mnt/sshd_config
"""
SSHD = """
Port {port}
ListenAddress 0.0.0.0
ListenAddress ::
HostKey /mnt/host_key
PidFile /mnt/sshd.pid
UsePAM no
PasswordAuthentication no
StrictModes yes
AuthorizedKeysFile .ssh/authorized_keys
"""
PYTHON = """#!/bin/sh
PYTHONHOME=/mnt/python PYTHONPATH=/mnt/site exec /mnt/python/bin/python{version} "$@"
"""


def why_not() -> str:
    """Empty where such machines can be made."""
    if os.geteuid() != 0:
        return "needs root: machines are made of network and mount namespaces"
    for tool, package in {"/usr/sbin/sshd": "openssh-server", "rsync": "rsync", "ip": "iproute2"}.items():
        if shutil.which(tool) is None:
            return f"needs {package}: apt-get install {package}"
    return ""


@dataclass
class Machine:
    role: str
    namespace: str
    folder: Path  # its files, as this machine sees them
    sshd: subprocess.Popen[bytes]

    @property
    def user(self) -> str:
        return USERS[self.role][0]

    def enter(self, *command: str) -> list[str]:
        """The command that runs another on it, as its root."""
        return ["nsenter", f"--target={self._inside()}", "--net", "--mount", "--", *command]

    def run(self, *command: str) -> str:
        return subprocess.run(self.enter(*command), capture_output=True, text=True, check=True, timeout=30).stdout

    def processes(self) -> list[int]:
        """The nodes on it: while a run goes on, or what it left."""
        found = []
        for pid in pids_in(self.namespace):
            with suppress(OSError):  # it ended meanwhile
                if b"nodes.process" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def _inside(self) -> int:
        return int((self.folder / "sshd.pid").read_text())


@dataclass
class Machines:
    desk: str
    device: Machine
    edge: Machine
    folder: Path  # the desk's: keys, known hosts, inventory

    def hosts(self, **changes: dict) -> dict:
        """An inventory; `device={...}` lays over its entry."""
        found = {}
        for role in ("device", "edge"):
            found[role] = {
                "address": f"{role}.test",
                "user": USERS[role][0],
                "identity": str(self.folder / role),
                "ssh_config": str(self.folder / "ssh_config"),
                "python": f"~/{bin_of(role)}/python",
                "workdir": f"~/work_of_nobody/{role}",
                "link_address": LINK[role],
                "interface": "link0",
                **changes.get(role, {}),
            }
        return found

    def at_desk(self, *command: str) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self.desk}", "--", *command]


def bin_of(role: str) -> str:
    return {"device": "venv/bin", "edge": "opt/py"}[role]


@contextmanager
def machines(folder: Path, ahead_s: int = 0, home_size: str = "400M") -> Iterator[Machines]:
    """`ahead_s`: the edge's monotonic clock against everybody else's. `home_size`: of the device's disk."""
    tag = f"{os.getpid() % 10000}{time.monotonic_ns() // 1000 % 100000}"
    names = {name: f"dt-{name}-{tag}" for name in ("desk", "device", "edge")}
    with ExitStack() as stack:
        for name in names.values():
            run("ip", "netns", "add", name)
            stack.callback(run, "ip", "netns", "del", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        for number, role in enumerate(("device", "edge"), 1):
            wire(names["desk"], f"to{number}", f"10.77.{number}.254", names[role], "desk0", DESK[role])
        wire(names["device"], "link0", LINK["device"], names["edge"], "link0", LINK["edge"])
        made = {}
        for role in ("device", "edge"):
            made[role] = start(
                role, names[role], folder / role, ahead_s * (role == "edge"), home_size if role == "device" else "400M"
            )
            stack.callback(stop, made[role])
        desk = folder / "desk"
        desk.mkdir()
        aliases = ""
        for role in ("device", "edge"):
            shutil.copy(folder / role / "login", desk / role)
            (desk / role).chmod(0o600)
            aliases += f"Host {role}.test\n  HostName {DESK[role]}\n  Port {PORT}\n  HostKeyAlias {role}\n"
        known = "".join(f"{role} {(folder / role / 'host_key.pub').read_text()}" for role in ("device", "edge"))
        (desk / "known_hosts").write_text(known)
        (desk / "ssh_config").write_text(f"{aliases}Host *\n  UserKnownHostsFile {desk}/known_hosts\n")
        for role in ("device", "edge"):
            until_listening(names["desk"], DESK[role])
        yield Machines(names["desk"], made["device"], made["edge"], desk)


def start(role: str, namespace: str, folder: Path, ahead_s: int, home_size: str) -> Machine:
    folder.mkdir(mode=0o755, parents=True)
    for parent in [folder, *folder.parents][:4]:  # pytest's folders are private, and its user is another
        parent.chmod(parent.stat().st_mode | 0o055)
    user, uid = USERS[role]
    for name in ("host_key", "login"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
    (folder / "authorized_keys").write_text((folder / "login.pub").read_text())
    (folder / "sshd_config").write_text(SSHD.format(port=PORT))
    (folder / "more.passwd").write_text(f"{user}:x:{uid}:{uid}::/home/{user}:/bin/sh\n")
    (folder / "more.group").write_text(f"{user}:x:{uid}:\n")
    (folder / "more.shadow").write_text(f"{user}:*:19000:0:99999:7:::\n")
    (folder / "python.sh").write_text(PYTHON.format(version=f"{sys.version_info[0]}.{sys.version_info[1]}"))
    script = INIT.format(
        root=folder, prefix=sys.base_prefix, site=sysconfig.get_path("purelib"), user=user, uid=uid, bin=bin_of(role),
        home_size=home_size, project=PROJECT,
    )  # fmt: skip
    bare = PYTHON.format(version=f"{sys.version_info[0]}.{sys.version_info[1]} -S").replace("/mnt/site", "")
    (folder / "bare").write_text(bare)  # a Python without a single library
    (folder / "bare").chmod(0o755)
    apart = ["--time", "--monotonic", str(ahead_s), "--fork"] if ahead_s else []
    with (folder / "sshd.log").open("wb") as log:
        sshd = subprocess.Popen(
            ["ip", "netns", "exec", namespace, "unshare", "--mount", *apart, "sh", "-c", script],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    return Machine(role, namespace, folder, sshd)


def stop(machine: Machine) -> None:
    for pid in pids_in(machine.namespace):
        with suppress(ProcessLookupError):  # it ended meanwhile
            os.kill(pid, signal.SIGKILL)
    machine.sshd.wait()


def pids_in(namespace: str) -> list[int]:
    return [int(pid) for pid in run("ip", "netns", "pids", namespace).split()]


def until_listening(desk: str, address: str) -> None:
    deadline = time.monotonic() + 20
    probe = f"import socket; socket.create_connection(('{address}', {PORT}), 1)"
    while time.monotonic() < deadline:
        if subprocess.run(["nsenter", f"--net=/run/netns/{desk}", "--", sys.executable, "-S", "-c", probe],
                          capture_output=True).returncode == 0:  # fmt: skip
            return
        time.sleep(0.1)
    raise AssertionError(f"no sshd at {address}")


def wire(one: str, port: str, address: str, other: str, other_port: str, other_address: str) -> None:
    run("ip", "-n", one, "link", "add", port, "type", "veth", "peer", "name", other_port, "netns", other)
    for name, end, ip in ((one, port, address), (other, other_port, other_address)):
        run("ip", "-n", name, "addr", "add", f"{ip}/24", "dev", end)
        run("ip", "-n", name, "link", "set", end, "up")


def run(*command: str | Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # type: ignore[arg-type]
