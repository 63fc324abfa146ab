"""Killed at a random moment, does anything stay behind? A lab's owner, and a program that shapes a real interface.

After every SIGKILL either what `dssd doctor --clean` does is done once or the next lab is opened, by turns; then
everything is counted that was not there before. The interface is one of this machine's in a namespace of its own where
this kernel has netem, else one of a user-mode Linux guest, in which this file runs as a program:
`python -m experiments.bench.kills KILLS`. Where it was shaped before the kill came, its guard is killed as well.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.bench.guest import run_in_guest
from experiments.bench.records import record
from netem.apply import execute
from netem.backend import why_no_netem
from netem.journal import GUARD_PID, clean_leftovers, journals, state_dir
from netem.lab import open_lab
from netem.physical import Shaping, restore, shape
from netem.physical.found import snapshot
from netem.spec import LinkSpec

SPEC = LinkSpec(rtt_ms=20)
INTERFACE, PEER = "shaped0", "198.18.0.2"
PAST_THE_END = 1.5  # moments are drawn up to this share of the time that it takes to be up
GONE_WITHIN_S = 10.0  # a guard looks once a second whether its folder is still there
ANSWER = "=kills "


def measure_kills(labs: int = 30, interfaces: int = 20) -> list[dict[str, Any]]:
    records = []
    for name, kills, found in (("lab", labs, kill_labs(labs)), ("interface", interfaces, _interfaces(interfaces))):
        note = f"{kills} SIGKILLs, {found['half_way']} of them before it was up; then cleaned once, or by the next one"
        if found["left"]:
            note += f"; left: {', '.join(found['left'][:3])}"
        records.append(record(f"link: a killed {name} leaves behind", len(found["left"]), "things", "<= 0", note))
    return records


# Labs -----------------------------------------------------------------------------------------------------------------

OWNER = f"""
import subprocess, sys, time
from netem.lab import exit_on_sigterm, open_lab
from netem.spec import LinkSpec
print("begins", flush=True)
with exit_on_sigterm(), open_lab(LinkSpec(rtt_ms={SPEC.base_rtt_ms}), name=sys.argv[1]) as lab:
    for host in (lab.device, lab.edge):
        subprocess.Popen(host.wrap(["sleep", "300"]), stdout=subprocess.DEVNULL)
    print("up", flush=True)
    time.sleep(300)
"""


def kill_labs(kills: int, seed: int = 0) -> dict[str, Any]:
    """`{left: what stayed behind, half_way: how many were killed before the lab was up}`."""
    chance, left, half_way = random.Random(seed), [], 0
    with _own_state():
        began_s = time.monotonic()
        with open_lab(SPEC, name="bench-kills"):
            takes_s = time.monotonic() - began_s
        before = _lab_traces("bench-kills-")
        for number in range(kills):
            name = f"bench-kills-{number}"
            owner = subprocess.Popen([sys.executable, "-c", OWNER, name], stdout=subprocess.PIPE, text=True)
            assert owner.stdout is not None
            owner.stdout.readline()
            time.sleep(chance.uniform(0, PAST_THE_END * takes_s))
            owner.kill()
            half_way += owner.communicate()[0] == ""
            _clean(number)
            left += _lasting(lambda: [trace for trace in _lab_traces(name) if trace not in before])  # noqa: B023
    return {"left": left, "half_way": half_way}


def _clean(turn: int) -> None:
    if turn % 2:
        with open_lab(LinkSpec(backend="netns")):
            return
    clean_leftovers()


def _lab_traces(name: str) -> list[str]:
    """Namespaces, folders, interfaces, and processes that name a lab."""
    found = [str(path) for path in Path("/run/netns").glob(f"dssd-{name}*")] if Path("/run/netns").exists() else []
    found += [str(path) for path in state_dir().glob(f"*{name}*")] + [journal.lab_id for journal in journals()]
    found += [link["ifname"] for link in json.loads(execute(["ip", "-j", "link", "show"]))]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"{name}" in command:
            found.append(f"process {process.name}: {command[:60]}")
    return found


# Interfaces -----------------------------------------------------------------------------------------------------------


def _interfaces(kills: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "experiments.bench.kills", str(kills)]
    if why_no_netem() is None:
        said = subprocess.run(["unshare", "--net", *command], capture_output=True, text=True, check=True).stdout
    else:
        said = run_in_guest(command)
    answers = [line.partition(ANSWER)[2] for line in said.splitlines() if ANSWER in line]
    if not answers:
        raise RuntimeError(f"killing programs that shape an interface came to no end:\n{said[-2000:]}")
    return dict(json.loads(answers[0]))


def kill_shapings(kills: int, seed: int = 0) -> dict[str, Any]:
    """The same for an interface that is made here, for the purpose. `seconds` is what shaping one takes."""
    chance, left, half_way = random.Random(seed), [], 0
    execute(["ip", "link", "add", INTERFACE, "type", "veth", "peer", "name", "other0"])
    for name in (INTERFACE, "other0"):
        execute(["ip", "link", "set", name, "up"])
    wish = Shaping(INTERFACE, PEER, SPEC)
    with _own_state():
        began_s = time.monotonic()
        shape(wish)
        takes_s = time.monotonic() - began_s
        restore(INTERFACE)
        before = _interface_traces()
        for _ in range(kills):
            child = _fork(lambda: shape(wish))
            time.sleep(chance.uniform(0, PAST_THE_END * takes_s))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            if (state_dir() / f"@{INTERFACE}" / "state.json").exists():
                os.kill(int((state_dir() / f"@{INTERFACE}" / GUARD_PID).read_text()), signal.SIGKILL)
            else:
                half_way += 1
            clean_leftovers()
            left += _lasting(lambda: sorted(set(before) ^ set(_interface_traces())))
    execute(["ip", "link", "del", INTERFACE])
    return {"left": left, "half_way": half_way, "seconds": round(takes_s, 3)}


def _interface_traces() -> list[str]:
    found = [f"{part} {value}" for part, value in snapshot(INTERFACE).items()]
    found += [link["ifname"] for link in json.loads(execute(["ip", "-j", "link", "show"]))]
    found += [str(path) for path in state_dir().iterdir()]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if b"guard.sh" in command:
            found.append(f"process {process.name}")
    return found


def _lasting(traces: Callable[[], list[str]]) -> list[str]:
    """What is still there when all that ends by itself has had the time to."""
    until_s = time.monotonic() + GONE_WITHIN_S
    while (found := traces()) and time.monotonic() < until_s:
        time.sleep(0.1)
    return found


def _fork(act: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        try:
            act()
        finally:
            os._exit(0)
    return child


@contextmanager
def _own_state() -> Iterator[None]:
    """Journals of our own: nobody else's lab is cleaned, and nobody cleans ours."""
    before = os.environ.get("DSSD_STATE_DIR")
    with tempfile.TemporaryDirectory(prefix="dssd-kills-") as folder:
        os.environ["DSSD_STATE_DIR"] = folder
        try:
            yield
        finally:
            os.environ.pop("DSSD_STATE_DIR")
            if before is not None:
                os.environ["DSSD_STATE_DIR"] = before


if __name__ == "__main__":
    print(ANSWER + json.dumps(kill_shapings(int(sys.argv[1]))), flush=True)
