"""Whatever ends a lab's owner, nothing of the lab is left: no namespace, process, interface, journal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pytest
from conftest import need

from netem import uml
from netem.apply import execute
from netem.errors import LinkError
from netem.journal import Journal, clean_leftovers, journals, leftovers, started_ticks
from netem.lab import open_lab
from netem.physical import interface
from netem.plan import LabNames
from netem.spec import LinkSpec

OWNER = """
import subprocess, sys, time
from netem.lab import exit_on_sigterm, open_lab
from netem.spec import LinkSpec
with exit_on_sigterm(), open_lab(LinkSpec(backend=sys.argv[1]), name=sys.argv[2]) as lab:
    guests = [subprocess.Popen(host.wrap(["sleep", "300"])) for host in (lab.device, lab.edge)]
    time.sleep(0.2)
    print("up", *(guest.pid for guest in guests), lab._router.pid if lab._router else "", flush=True)
    time.sleep(300)
"""


def what_is_there(lab_id: str, pids: list[int]) -> list[str]:
    """Everything of one lab that can be seen from outside; zombies do not count, init collects them."""
    found = [str(path) for path in Path("/run/netns").glob(f"dssd-{lab_id}-*")]
    found += [f"journal {journal.lab_id}" for journal in journals() if journal.lab_id == lab_id]
    found += [f"pid {pid}" for pid in pids if started_ticks(pid) != -1]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and started_ticks(int(entry.name)) != -1:
            try:
                command = (entry / "cmdline").read_text()
            except OSError:
                continue
            if "linux.uml" in command and f"/{lab_id}" in command:
                found.append(f"guest {entry.name}")
    return found


def interfaces() -> set[str]:
    links = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=True).stdout)
    return {link["ifname"] for link in links}


def start_owner(backend: str, lab_id: str) -> tuple[subprocess.Popen[str], list[int]]:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, backend, lab_id], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    said = owner.stdout.readline().split()
    assert said and said[0] == "up", "the owner could not open its lab"
    return owner, [int(word) for word in said[1:]]


@pytest.fixture(params=["netns", "uml"])
def backend(request: pytest.FixtureRequest) -> str:
    need(request.param, shaped=False)
    return request.param


@pytest.mark.lab
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_signals_end_the_lab_completely(backend: str, number: signal.Signals) -> None:
    lab_id = f"sig{number.value}-{backend}"
    before = interfaces()
    owner, pids = start_owner(backend, lab_id)
    assert what_is_there(lab_id, pids) != []
    owner.send_signal(number)
    time.sleep(0.01)
    owner.send_signal(number)  # an impatient second one must not stop the teardown
    assert owner.wait(timeout=30) != 0
    assert what_is_there(lab_id, pids) == []
    assert interfaces() == before


@pytest.mark.lab
def test_after_a_sigkill_the_leftovers_are_found_and_cleaned_and_the_living_spared(backend: str) -> None:
    lab_id = f"killed-{backend}"
    owner, pids = start_owner(backend, lab_id)
    other, other_pids = start_owner("netns", f"living-{backend}")
    try:
        owner.kill()
        owner.wait()
        assert [journal.lab_id for journal in leftovers()] == [lab_id]
        assert clean_leftovers() == [lab_id]
        assert what_is_there(lab_id, pids) == []
        assert all(started_ticks(pid) != -1 for pid in other_pids)
        assert clean_leftovers() == []
    finally:
        other.terminate()
        other.wait(timeout=30)


@pytest.mark.lab
def test_the_next_lab_cleans_up_after_a_killed_one() -> None:
    need("netns", shaped=False)
    owner, pids = start_owner("netns", "killed-before")
    owner.kill()
    owner.wait()
    with open_lab(LinkSpec(backend="netns"), name="killed-before"):
        assert all(started_ticks(pid) == -1 for pid in pids)
    assert what_is_there("killed-before", pids) == []


@pytest.mark.lab
@pytest.mark.parametrize("place", ["device", "router", "edge"])
def test_somebody_elses_lab_of_that_name_is_refused_and_lives_on(place: Literal["device", "router", "edge"]) -> None:
    need("netns", shaped=False)
    theirs = LabNames("ho-theirs").namespace(place)
    execute(["ip", "netns", "add", theirs])
    try:
        with subprocess.Popen(["nsenter", f"--net=/run/netns/{theirs}", "--", "sleep", "60"]) as process:
            taken = pytest.raises(LinkError, match=f"'ho-theirs' is up already .see /run/netns/{theirs}")
            with taken, open_lab(LinkSpec(backend="netns"), name="ho-theirs"):
                pass
            assert process.poll() is None and what_is_there("ho-theirs", []) == [f"/run/netns/{theirs}"]
            process.kill()
    finally:
        execute(["ip", "netns", "del", theirs])


@pytest.mark.lab
def test_a_guest_that_died_is_said_and_torn_down_all_the_same() -> None:
    need("uml", shaped=False)
    with open_lab(LinkSpec(backend="uml"), name="dead-guest") as lab:
        assert lab._router is not None
        os.kill(lab._router.pid, signal.SIGKILL)
        with pytest.raises(LinkError, match="user-mode Linux router"):
            lab.change(LinkSpec(backend="uml", rtt_ms=3))
        lab.close()
        assert what_is_there("dead-guest", []) == []
    lab.close()


def test_a_guest_whose_owner_died_before_it_could_be_bound_to_it_does_not_start() -> None:
    need("uml", shaped=False)
    argv = uml.guest_command(["--version"])
    assert subprocess.run(argv, capture_output=True, check=False).returncode == 0
    gone = subprocess.Popen(["true"])
    gone.wait()
    orphaned = [str(gone.pid) if word == str(os.getpid()) else word for word in argv]
    done = subprocess.run(orphaned, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "is gone" in done.stderr and done.stdout == ""


@pytest.mark.lab
def test_an_exception_inside_ends_the_lab(backend: str) -> None:
    with pytest.raises(ZeroDivisionError), open_lab(LinkSpec(backend=backend), name=f"raised-{backend}"):
        1 / 0  # noqa: B018
    assert what_is_there(f"raised-{backend}", []) == []


def test_a_recycled_pid_is_not_the_owner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DSSD_STATE_DIR", str(tmp_path))
    journal = Journal("old", namespaces=[], undo=[])
    journal.write()
    assert journal.owner_lives() and leftovers() == []
    path = journal.folder / "journal.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "started_ticks": 1}))
    assert [found.lab_id for found in leftovers()] == ["old"]
    assert clean_leftovers() == ["old"] and not journal.folder.exists()


def test_nobody_dead_owns_a_lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DSSD_STATE_DIR", str(tmp_path))
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    journal = Journal("orphan", namespaces=[], undo=[])
    journal.write()
    with pytest.raises(LinkError, match=rf"process {gone.pid}, .* has ended"):
        journal.hand_over(gone.pid)
    assert leftovers() == [] and [found.pid for found in journals()] == [os.getpid()]
    assert not Journal("orphan", [], [], pid=gone.pid, started_ticks=-1, boot_id=journal.boot_id).owner_lives()


@pytest.mark.parametrize("is_up", [True, False])
def test_closing_leaves_the_undoing_to_the_guard(is_up: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Once told it does so whatever becomes of who told it. Who is still setting up does it once more."""
    monkeypatch.setenv("DSSD_STATE_DIR", str(tmp_path / "labs"))
    journal = Journal("@guarded", namespaces=[], undo=[["touch", str(tmp_path / "once more")]])
    journal.write()
    texts = {"state.json": "{}", "deadline": "never", "undo.sh": f"touch '{tmp_path}/undone'"}
    for name, text in {**texts, "guard.sh": Path(interface.__file__).with_name("guard.sh").read_text()}.items():
        (journal.folder / name).write_text(text)
    guard = interface._start_guard(journal.folder)
    if is_up:
        journal.hand_over(guard)
    assert journal.close() == []
    assert (tmp_path / "undone").exists() and (tmp_path / "once more").exists() != is_up
    assert not journal.folder.exists() and started_ticks(guard) == -1


def test_what_cannot_be_undone_is_said_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DSSD_STATE_DIR", str(tmp_path))
    journal = Journal("stuck", namespaces=[], undo=[["false"]])
    journal.write()
    journal.pid, journal.started_ticks = 1, -5
    assert "command failed: false" in journal.close()[0]
    assert journal.folder.exists()


def test_a_journal_that_is_no_journal_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DSSD_STATE_DIR", str(tmp_path))
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "journal.json").write_text("{not json")
    assert journals() == [] and clean_leftovers() == []


NOHUP = """
import os, signal
from netem.lab import exit_on_sigterm
with exit_on_sigterm():
    os.kill(os.getpid(), signal.SIGHUP)
    print("goes on", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_program_under_nohup_outlives_its_terminal() -> None:
    done = subprocess.run(
        ["nohup", sys.executable, "-c", NOHUP], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "goes on\n"), done.stderr
    alone = subprocess.run(
        [sys.executable, "-c", NOHUP], capture_output=True, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )  # fmt: skip
    assert (alone.returncode, alone.stdout) == (128 + signal.SIGHUP, "")
