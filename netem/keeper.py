"""A lab that outlives the command that made it: held by a process of its own until it is told to end.

up(LinkSpec(rtt_ms=40), "demo")      # returns how it looks; `nsenter --net=/run/netns/dssd-demo-device -- …` enters
with attached("demo") as lab: ...    # check it, cut it, change it, from any other process
down("demo")
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from netem.errors import CommandError, LinkError
from netem.journal import Journal, journals
from netem.lab import Lab, exit_on_sigterm, open_lab
from netem.spec import LinkSpec

DOWN_TIMEOUT_S = 30.0
SOCKET, STATE = "control", "lab.json"


def up(spec: LinkSpec, name: str) -> dict[str, Any]:
    """Build a lab that stays. Raises LinkError with whatever the keeper could not do."""
    if spec.changes_while_it_runs:
        raise LinkError("a lab that is kept keeps its shape; link.trace and link.outages are played by `dssd run`")
    root = str(Path(__file__).parent.parent)
    keeper = subprocess.Popen(
        [sys.executable, "-m", "netem.keeper", name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])},
    )
    assert keeper.stdin is not None and keeper.stdout is not None
    try:
        keeper.stdin.write(spec.model_dump_json())
        keeper.stdin.close()
        said = json.loads(keeper.stdout.readline() or '{"error": "the keeper of the lab died"}')
    except BaseException:
        keeper.terminate()  # it takes its lab down on the way out
        raise
    if "error" in said:
        raise LinkError(said["error"])
    return dict(said)


def down(name: str) -> None:
    """End a kept lab. Raises LinkError when there is none of that name, or when it belongs to a running program."""
    journal = _journal(name)
    if journal.owner_lives():
        if not (journal.folder / STATE).exists():
            raise LinkError(f"lab '{name}' belongs to the running process {journal.pid}: end that")
        with suppress(ProcessLookupError):
            os.kill(journal.pid, signal.SIGTERM)
        deadline_s = time.monotonic() + DOWN_TIMEOUT_S
        while journal.folder.exists() and journal.owner_lives() and time.monotonic() < deadline_s:
            time.sleep(0.02)
    if journal.folder.exists() and (problems := journal.close()):
        raise LinkError(f"lab '{name}' was not removed completely:\n  " + "\n  ".join(problems))


@contextmanager
def attached(name: str) -> Iterator[Lab]:
    """A kept lab, from another process. Leaving it does not end the lab."""
    folder = _journal(name).folder
    try:
        state = json.loads((folder / STATE).read_text())
    except OSError:
        raise LinkError(f"lab '{name}' is not one that `up` made") from None
    lab = Lab(name, state["backend"], LinkSpec(**state["declared"]))
    lab.attach(_RemoteRouter(folder / SOCKET))
    lab.router, lab.tcp = state["router"], state["tcp"]
    try:
        yield lab
        _write_state(folder, lab)
    finally:
        lab.detach()


def kept_labs() -> list[str]:
    """Names of the labs that `up` made and that are still held."""
    return [journal.lab_id for journal in journals() if (journal.folder / STATE).exists() and journal.owner_lives()]


class _RemoteRouter:
    """Commands for the router of a lab that another process holds."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def run(self, argv: Sequence[str]) -> str:
        with socket.socket(socket.AF_UNIX) as line:
            try:
                line.connect(str(self._path))
            except OSError as error:
                raise LinkError(f"the keeper of the lab does not answer ({error.strerror})") from None
            with line.makefile("rw") as file:
                file.write(json.dumps(list(argv)) + "\n")
                file.flush()
                said = json.loads(file.readline() or '{"error": "the keeper of the lab died"}')
        if "error" in said:
            raise CommandError(argv, said["error"], "router")
        return str(said["output"])


def _keep(name: str, spec: LinkSpec) -> None:
    """The keeper's life: open the lab, say so, serve router commands, until SIGTERM."""
    with exit_on_sigterm(), open_lab(spec, name) as lab:
        if lab.backend == "loopback":
            raise LinkError(
                "nothing is declared, so there is no link to keep: shape it, or choose backend netns or uml"
            )
        folder = _journal(name).folder
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(folder / SOCKET))
            server.listen()
            _write_state(folder, lab)
            print(json.dumps(lab.describe()), flush=True)
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
            os.dup2(sys.stdout.fileno(), 1)  # whoever waits for the end of our output need not wait for the lab's
            while True:
                line, _ = server.accept()
                threading.Thread(target=_serve, args=(line, lab), daemon=True).start()


def _serve(line: socket.socket, lab: Lab) -> None:
    with line, line.makefile("rw") as file:
        for request in file:
            try:
                answer = {"output": lab.on_router(json.loads(request))}
            except CommandError as error:
                answer = {"error": error.said}
            file.write(json.dumps(answer) + "\n")
            file.flush()


def _write_state(folder: Path, lab: Lab) -> None:
    draft = folder / f"{STATE}.new"
    draft.write_text(json.dumps(lab.describe(), indent=1))
    draft.rename(folder / STATE)


def _journal(name: str) -> Journal:
    known = journals()
    for journal in known:
        if journal.lab_id == name:
            return journal
    names = ", ".join(journal.lab_id for journal in known)
    raise LinkError(f"no lab named '{name}'" + (f": there are {names}" if names else ", and no other"))


def main() -> None:
    try:
        _keep(sys.argv[1], LinkSpec.model_validate_json(sys.stdin.read()))
    except (LinkError, OSError, ValueError) as error:
        print(json.dumps({"error": str(error)}), flush=True)


if __name__ == "__main__":
    main()
