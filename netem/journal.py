"""What a lab has made, on disk before it is made: what a SIGKILL or a crash leaves can still be undone.

One folder per lab under the state directory, with `journal.json` and the lab's scratch files. Only what a
journal names is ever undone, and only when the process that wrote it is gone: nothing is found by the
pattern of its name.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from netem.apply import execute
from netem.errors import CommandError, LinkError

NETWORKS = Path("/run/netns")  # where `ip netns` keeps them by name
KILL_WAIT_S = 5.0
GUARD_WAIT_S = 30.0  # its undo is half a dozen commands
GUARD_PID = "guard.pid"  # of the process that watches over a shaped interface from inside its folder
GONE = (
    "No such file or directory",
    "Cannot find",
    "Invalid handle",
    "No such device",
)  # undone, or somebody else's now


def state_dir() -> Path:
    """$DSSD_STATE_DIR; else /run/dssd for root, $XDG_RUNTIME_DIR/dssd or a folder in /tmp for a user."""
    if chosen := os.environ.get("DSSD_STATE_DIR"):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/run/dssd")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "dssd" if runtime else Path(f"/tmp/dssd-{os.getuid()}")


@contextmanager
def undisturbed() -> Iterator[None]:
    """A second Ctrl-C waits until the teardown is done (each of its commands has a time limit)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


@dataclass
class Journal:
    """One lab: its namespaces, and who owns it (pid, when that process started, in which boot)."""

    lab_id: str
    namespaces: list[str]
    undo: list[list[str]]
    backend: str = ""
    pid: int = field(default_factory=os.getpid)
    started_ticks: int = -1
    boot_id: str = ""
    network: str = ""  # the namespace `undo` has to run in, '' where any will do

    @property
    def folder(self) -> Path:
        return state_dir() / self.lab_id

    def write(self) -> None:
        """Raises LinkError when a lab of that name is there already, whoever made it: a journal owns what it names."""
        self.started_ticks, self.boot_id = started_ticks(self.pid), boot_id()
        draft = state_dir() / f".{self.lab_id}-{self.pid}"  # a whole folder at once: a lab is there or it is not
        try:
            if taken := [path for path in (self.folder, *map(NETWORKS.joinpath, self.namespaces)) if path.exists()]:
                raise LinkError(
                    f"a lab named '{self.lab_id}' is up already (see {taken[0]}): choose another name, or have it taken"
                    " down by what made it"
                )
            draft.mkdir(parents=True, exist_ok=True)
            write_whole(draft / "journal.json", json.dumps(asdict(self), indent=1))
            draft.rename(self.folder)
            _to_disk(self.folder.parent)
        except PermissionError as error:
            raise LinkError(f"cannot write {draft} ({error.strerror}): run as root or set DSSD_STATE_DIR") from None
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            raise LinkError(
                f"a lab named '{self.lab_id}' is up already (see {self.folder}): choose another name"
            ) from None

    def hand_over(self, pid: int) -> None:
        """From now on process `pid` owns the lab. Raises LinkError when it is not there to do so."""
        if (started := started_ticks(pid)) == -1:
            raise LinkError(f"process {pid}, which has to watch over {self.lab_id}, has ended: try again")
        self.pid, self.started_ticks = pid, started
        write_whole(self.folder / "journal.json", json.dumps(asdict(self), indent=1))

    def owner_lives(self) -> bool:
        return self.boot_id == boot_id() and self.started_ticks == started_ticks(self.pid) != -1

    @undisturbed()
    def close(self) -> list[str]:
        """Kill what runs in the lab's namespaces, delete them, forget the lab; returns what went wrong."""
        problems = []
        if self.boot_id in ("", boot_id()):
            if self.network and self.network != network_namespace():
                return [f"made in another network namespace ({self.network}): undo it from there"]
            let_guard_undo(self.folder)
            if not self.folder.exists() and self.pid != os.getpid():
                return []  # who was still setting up undoes once more: commands of its own may have come in between
            for name in self.namespaces:
                problems += kill_members(name)
            for argv in self.undo:
                problems += _undo(argv)
        if not problems:
            shutil.rmtree(self.folder, ignore_errors=True)
        return problems


def kill_members(namespace: str) -> list[str]:
    """End every process of this network namespace; a pid file descriptor makes sure it is that process."""
    path = NETWORKS / namespace
    deadline_s = time.monotonic() + KILL_WAIT_S
    while members := _members(path):
        if time.monotonic() > deadline_s:
            return [f"processes {members} in namespace {namespace} did not end"]
        for pid in members:
            try:
                handle = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                if pid in _members(path, [pid]):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            except ProcessLookupError:
                pass
            finally:
                os.close(handle)
        time.sleep(0.01)
    return []


def journals() -> list[Journal]:
    """All journals of the state directory; an unreadable one is skipped."""
    found = []
    for path in sorted(state_dir().glob("[!.]*/journal.json")):
        try:
            found.append(Journal(**json.loads(path.read_text())))
        except (OSError, ValueError, TypeError):
            continue
    return found


def leftovers() -> list[Journal]:
    """Labs whose owner is dead."""
    return [journal for journal in journals() if not journal.owner_lives()]


def clean_leftovers() -> list[str]:
    """Undo every lab whose owner is dead; living labs are not touched. Returns the names of those undone.

    Raises LinkError naming what could not be undone.
    """
    cleaned, problems = [], []
    for journal in leftovers():
        trouble = journal.close()
        problems += [f"{journal.lab_id}: {text}" for text in trouble]
        cleaned += [] if trouble else [journal.lab_id]
    if problems:
        raise LinkError("could not undo all leftovers:\n  " + "\n  ".join(problems))
    return cleaned


def let_guard_undo(folder: Path) -> None:
    """Have the process that watches over a shaped interface undo it and end, which it does whatever becomes of us; kill
    it where it hangs. Only if it works in that folder."""
    try:
        pid = int((folder / GUARD_PID).read_text())
        handle = os.pidfd_open(pid)
    except (OSError, ValueError):
        return
    try:
        if Path(f"/proc/{pid}/cwd").readlink() == folder.resolve():
            signal.pidfd_send_signal(handle, signal.SIGTERM)
            if not select.select([handle], [], [], GUARD_WAIT_S)[0]:
                os.killpg(pid, signal.SIGKILL)
                select.select([handle], [], [], KILL_WAIT_S)
    except OSError:
        return
    finally:
        os.close(handle)


def write_whole(path: Path, text: str) -> None:
    """The file is there with all of its text, on disk, or as it was."""
    draft = path.with_name(f"{path.name}.new")
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    _to_disk(path.parent)


def _to_disk(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def network_namespace() -> str:
    return str(Path("/proc/self/ns/net").readlink())


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def started_ticks(pid: int) -> int:
    """When the process started, in ticks since boot: with the pid it names one process for good. -1: none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return -1
    fields = stat.rpartition(")")[2].split()
    return -1 if fields[0] in "ZX" else int(fields[19])


def _members(namespace: Path, among: Sequence[int] | None = None) -> list[int]:
    try:
        wanted = namespace.stat().st_ino
    except OSError:
        return []
    found = []
    for pid in (
        among if among is not None else [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    ):
        try:
            inside = Path(f"/proc/{pid}/ns/net").stat().st_ino == wanted
            if inside and started_ticks(pid) != -1:
                found.append(pid)
        except OSError:
            continue
    return found


def _undo(argv: list[str]) -> list[str]:
    try:
        execute(argv)
    except CommandError as error:
        gone = any(words in error.said for words in GONE)
        return [] if gone else [str(error)]
    return []
