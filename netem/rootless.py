"""The same lab without root: the whole program moves into namespaces of its own, where it is root.

    if needs_own_namespaces(spec):
        enter_own_namespaces()        # before any thread is started

User, network, mount and process namespaces. In there everything works as for root, user-mode Linux router included,
except real-time priority. When the program ends, however it ends, the kernel ends every process in them and with the
last one everything that was made: there is nothing to clean up.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from netem.apply import execute
from netem.errors import BackendError, CommandError
from netem.spec import LinkSpec

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x10000000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG = 1
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AS_ROOT_OF_OWN = ("unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork")


def needs_own_namespaces(spec: LinkSpec) -> bool:
    """Whether building this link takes rights that this process has not."""
    builds = spec.backend in ("netns", "uml") or spec.needs_lab
    return builds and os.geteuid() != 0


def why_not_rootless() -> str | None:
    """None where an ordinary user may make namespaces, else what is in the way and the command that mends it."""
    try:
        execute([*AS_ROOT_OF_OWN, "true"])
    except CommandError as error:
        said = error.said.splitlines()[0] if error.said else "refused"
        return f"an ordinary user may not make namespaces here ({said}): {_permission()}, or run with sudo"
    return None


def enter_own_namespaces() -> None:
    """Go on as root of namespaces of one's own.

    Returns in a child process; the one that called waits for it, passes on SIGINT, SIGTERM and SIGHUP, and ends as
    it ends. Raises BackendError, before anything has changed, where that is not allowed.
    """
    if problem := why_not_rootless():
        raise BackendError(problem)
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise BackendError(f"cannot enter namespaces of our own ({reason}): do it before a thread is started")
    for file, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        Path(f"/proc/self/{file}").write_text(text)
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    child = os.fork()
    if child:
        _wait_for(child)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    if os.getppid() not in (0, parent):  # 0: the parent is outside of our process namespace
        os._exit(1)
    execute(["mount", "-t", "proc", "proc", "/proc"])  # of our own processes; the mount namespace is private
    execute(["mount", "-t", "tmpfs", "run", "/run"])  # `ip netns` and our journal write there
    execute(["ip", "link", "set", "lo", "up"])  # a sweep's points without a link run on it


def _wait_for(child: int) -> None:
    """Pass signals on until the child ends, then end with its status. Does not return."""

    def pass_on(number: int, _frame: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, number)

    for number in FORWARDED:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))


def _permission() -> str:
    for name in ("kernel/apparmor_restrict_unprivileged_userns", "kernel/unprivileged_userns_clone"):
        if (path := Path("/proc/sys") / name).exists():
            wanted = "0" if "apparmor" in name else "1"
            if path.read_text().strip() != wanted:
                return f"sysctl -w {name.replace('/', '.')}={wanted}"
    return "sysctl -w user.max_user_namespaces=10000"
