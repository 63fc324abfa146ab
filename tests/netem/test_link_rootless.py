"""The lab in namespaces of the program's own. Root of this machine has no more rights in there than anybody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import need

from netem import rootless
from netem.journal import started_ticks
from netem.spec import LinkSpec

PROGRAM = """
import os, subprocess, sys, time
from netem.rootless import enter_own_namespaces
enter_own_namespaces()
from netem.check import check_link
from netem.lab import exit_on_sigterm, open_lab
from netem.spec import LinkSpec
link = {"rtt_ms": 30} if sys.argv[1] == "uml" else {}
with exit_on_sigterm(), open_lab(LinkSpec(backend=sys.argv[1], **link)) as lab:
    report = check_link(lab).require()
    marker = subprocess.Popen(lab.edge.wrap(["sleep", sys.argv[3]]))
    print(os.getpid(), lab.backend, report.observed["rtt_ms"]["median"], flush=True)
    if sys.argv[2] == "stay":
        time.sleep(300)
sys.exit(7)
"""


def start(backend: str, mode: str, marker: str) -> subprocess.Popen[str]:
    need(backend, shaped=False)
    if (problem := rootless.why_not_rootless()) is not None:
        pytest.skip(problem)
    argv = [sys.executable, "-c", PROGRAM, backend, mode, marker]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def running(marker: str) -> list[int]:
    """Processes of this program: they carry the marker in their command line. Zombies do not count."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_text().split("\0")
            except OSError:
                continue
            if marker in words and started_ticks(int(entry.name)) != -1:
                found.append(int(entry.name))
    return found


@pytest.mark.lab
@pytest.mark.parametrize("backend", [pytest.param("netns", marks=pytest.mark.slow), "uml"])
def test_a_lab_is_built_checked_and_gone(backend: str) -> None:
    program = start(backend, "end", f"3{time.monotonic_ns() % 10**8}")
    output, _ = program.communicate(timeout=90)
    pid, built, median_ms = output.split()
    assert (pid, built) == ("1", backend)
    assert float(median_ms) == pytest.approx(30 if backend == "uml" else 0, abs=1.0)
    assert program.returncode == 7, "the exit status is the program's own"


@pytest.mark.lab
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_however_it_ends_nothing_is_left(number: signal.Signals) -> None:
    marker = f"3{time.monotonic_ns() % 10**8}"
    program = start("netns", "stay", marker)
    assert program.stdout is not None and program.stdout.readline()
    assert len(running(marker)) >= 2
    program.send_signal(number)
    assert program.wait(timeout=30) == (143 if number == signal.SIGTERM else -9)
    deadline_s = time.monotonic() + 10
    while running(marker) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert running(marker) == []


def test_who_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rootless.os, "geteuid", lambda: 1000)
    assert rootless.needs_own_namespaces(LinkSpec(rtt_ms=1))
    assert rootless.needs_own_namespaces(LinkSpec(tcp={"initcwnd": 4}))
    assert not rootless.needs_own_namespaces(LinkSpec())
    monkeypatch.setattr(rootless.os, "geteuid", lambda: 0)
    assert not rootless.needs_own_namespaces(LinkSpec(rtt_ms=1))
