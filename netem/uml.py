"""A router that is a user-mode Linux guest: a whole kernel as a process, with the netem this one lacks.

It opens two taps, boots in about two seconds, takes commands line by line on its console and answers there; `tc` and
`ip` have a console each, on which they stay (see batch.py).
"""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from netem import batch
from netem.apply import COMMAND_TIMEOUT_S
from netem.batch import Batch
from netem.errors import CommandError, LinkError
from netem.initramfs import DONE, READY, TOOLS, find_tool, guest_version, initramfs
from netem.plan import LabNames, mac

BOOT_TIMEOUT_S = 60.0
ALIVE_EVERY_S = 0.2
MEMORY = "256M"  # room for a long link full of packets; only what is used is taken
LAUNCHER = Path(__file__).with_name("guest_exec.py")
# Old guests on processors with AMX save only the SSE registers (see guest_exec.py), so their programs must use no more.
BEYOND_SSE = "AVX AVX2 AVX512F AVX512VL AVX512BW AVX512DQ AVX512CD AVX_Fast_Unaligned_Load AVX2_Usable XSAVE XSAVEC"
SSE_ONLY = "GLIBC_TUNABLES=glibc.cpu.hwcaps=" + ",".join(f"-{name}" for name in BEYOND_SSE.split())
SAVES_ALL_REGISTERS = (6, 13)


def guest_command(arguments: Sequence[str], enter: Sequence[str] = ()) -> list[str]:
    """The command by which this process starts a guest with these arguments, by way of guest_exec.py and, in there, of
    `enter`."""
    words = guest_version().split(".")
    sse_only = (int(words[0]), int(words[1])) < SAVES_ALL_REGISTERS and host_has_amx()
    return [
        *(sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid())),
        *(["--sse-only"] if sse_only else []),
        *enter,
        str(find_tool("linux.uml")),
        *arguments,
        *([SSE_ONLY] if sse_only else []),
        *("quiet", "loglevel=0", "panic=-1"),
    ]


def host_has_amx() -> bool:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return any("amx_tile" in line.split() for line in lines if line.startswith("flags"))


class UmlRouter:
    """One guest. `run` is safe to call from several threads."""

    def __init__(self, names: LabNames, folder: Path) -> None:
        self._lock = threading.Lock()
        self._unread = b""
        self._pipes: list[int] = []
        self._batches: dict[str, Batch] = {}
        self._process = self._start(names, folder)

    def _start(self, names: LabNames, folder: Path) -> subprocess.Popen[bytes]:
        vectors = [
            f"vec{index}:transport=tap,ifname=to_{end},depth=128,gro=0,mac={mac('router', end)}"  # type: ignore[arg-type]
            for index, end in enumerate(("device", "edge"))
        ]
        arguments = [*self.boots_from(folder), f"uml_dir={folder}", "umid=uml"]
        arguments += ["con=null", "con0=fd:0,fd:1"]
        guests_ends = []
        for number, tool in enumerate(batch.TOOLS, 1):
            commands, write_fd = os.pipe()
            read_fd, answers = os.pipe()
            self._pipes += [write_fd, read_fd]
            self._batches[tool] = Batch(tool, write_fd, read_fd, lambda: self._process.poll() is None)
            guests_ends += [commands, answers]
            arguments.append(f"con{number}=fd:{commands},fd:{answers}")
        arguments += vectors
        try:
            return subprocess.Popen(
                guest_command(arguments, enter=["nsenter", f"--net=/run/netns/{names.namespace('router')}", "--"]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=guests_ends,
                start_new_session=True,  # Ctrl-C is for the owner, who ends the guest when the lab is down
                env={**os.environ, "TMPDIR": "/dev/shm"} if Path("/dev/shm").is_dir() else None,
            )
        finally:
            for end in guests_ends:
                os.close(end)

    def boots_from(self, folder: Path) -> list[str]:
        """Its memory and root file system, as arguments of its kernel; `folder` is the lab's own."""
        return [f"mem={MEMORY}", f"initrd={initramfs()}"]

    def wait_until_up(self) -> None:
        """Raises LinkError with the guest's last words when it does not come up."""
        said = self._read_to(READY, BOOT_TIMEOUT_S)
        if said is None:
            raise LinkError(f"the user-mode Linux router did not boot within {BOOT_TIMEOUT_S:g} s:\n{self._tail()}")
        for index, end in enumerate(("device", "edge")):
            self.run(["ip", "link", "set", f"vec{index}", "name", f"to_{end}"])

    def run(self, argv: Sequence[str]) -> str:
        """Run a command in the guest and return what it printed. Raises CommandError when it fails."""
        if Batch.takes(argv):
            return self._batches[argv[0]].run([argv], COMMAND_TIMEOUT_S)
        line = shlex.join([f"/sbin/{argv[0]}" if argv[0] in TOOLS else argv[0], *argv[1:]])
        with self._lock:
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(line.encode() + b"\n")
                self._process.stdin.flush()
            except OSError:
                raise CommandError(argv, "the user-mode Linux router is gone", "router") from None
            said = self._read_to(DONE, COMMAND_TIMEOUT_S)
        if said is None:
            raise CommandError(argv, f"no answer from the user-mode Linux router:\n{self._tail()}", "router")
        output, status = said
        if status != "0":
            raise CommandError(argv, output, "router")
        return output

    def run_at_once(self, argvs: Sequence[Sequence[str]]) -> None:
        """Several commands, handed over together where one tool takes them all. Raises CommandError."""
        if len({argv[0] for argv in argvs}) == 1 and all(Batch.takes(argv) for argv in argvs):
            self._batches[argvs[0][0]].run(argvs, COMMAND_TIMEOUT_S)
        else:
            for argv in argvs:
                self.run(argv)

    @property
    def pid(self) -> int:
        return self._process.pid

    def describe(self) -> dict[str, str]:
        """Its kernel, and how this machine schedules it (real-time, unless that is not allowed)."""
        scheduler = os.sched_getscheduler(self._process.pid)
        return {
            "kernel": self.run(["uname", "-r"]).strip(),
            "scheduling": "real-time" if scheduler == os.SCHED_RR else "ordinary",
        }

    def stop(self) -> None:
        """End the guest at once; it holds nothing worth saving. Idempotent."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was buffered for a dead guest
                    pipe.close()
        while self._pipes:
            os.close(self._pipes.pop())

    def _read_to(self, marker: str, timeout_s: float) -> tuple[str, str] | None:
        """Text before the next `marker`, and the rest of its line; None on timeout or death."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline_s = time.monotonic() + timeout_s
        wanted = marker.encode()
        while True:
            start = self._unread.find(wanted)
            end = self._unread.find(b"\n", start)
            if start >= 0 and end >= 0:
                before, status = self._unread[:start], self._unread[start + len(wanted) : end]
                self._unread = self._unread[end + 1 :]
                return _text(before), _text(status).strip()
            if time.monotonic() > deadline_s:
                return None
            if not select.select([descriptor], [], [], ALIVE_EVERY_S)[0]:
                if self._process.poll() is not None:  # its helpers may outlive it and hold the pipe open
                    return None
                continue
            chunk = os.read(descriptor, 65536)
            if not chunk:
                return None
            self._unread += chunk

    def _tail(self) -> str:
        return "\n".join(_text(self._unread).splitlines()[-12:])


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace").replace("\r", "")
