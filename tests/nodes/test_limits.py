"""A device held to a part of the machine: really held, given back, refused where it cannot be."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from nodes.limits import LimitError, limited

HERE = os.sched_getaffinity(0)


@pytest.fixture
def cgroups(tmp_path) -> Path:
    """A root as a desktop's: one cgroup v2 tree, of which the session's slice hands out cpu."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/user.slice/app.slice/term.scope\n")
    (tmp_path / "proc/self/mountinfo").write_text(
        "22 1 0:21 / /proc rw - proc proc rw\n31 22 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
    )
    slices = {"user.slice/app.slice/term.scope": "", "user.slice/app.slice": "cpu memory", "user.slice": "cpu"}
    for name, controllers in {**slices, "": "cpu"}.items():
        folder = tmp_path / "sys/fs/cgroup" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup.subtree_control").write_text(controllers + "\n")
        (folder / "cgroup.procs").write_text("")
    return tmp_path


def test_cores_are_held_and_given_back():
    core = min(HERE)
    started, seen = threading.Event(), []
    done = threading.Event()

    def already_there():
        started.set()
        done.wait(10)
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=already_there)
    thread.start()
    started.wait(10)
    with limited(cpus=[core]) as held:
        assert held["cpus"] == [core] == sorted(os.sched_getaffinity(0))
        done.set()
        thread.join()
    assert seen == [{core}], "threads that were there are held too"
    assert os.sched_getaffinity(0) == HERE


def test_a_core_that_is_not_there_is_refused():
    with pytest.raises(LimitError, match=r"no core 4096; it has: \d"), limited(cpus=[4096]):
        pass
    assert os.sched_getaffinity(0) == HERE


def test_a_quota_is_set_beside_the_session(cgroups):
    group = cgroups / f"sys/fs/cgroup/user.slice/app.slice/dssd-{os.getpid()}"
    with limited(cpu_share=0.25, root=cgroups) as held:
        assert held["cpu_max"] == "5000 20000"
        assert (group / "cgroup.procs").read_text() == str(os.getpid())
    home = cgroups / "sys/fs/cgroup/user.slice/app.slice/term.scope/cgroup.procs"
    assert home.read_text() == str(os.getpid()), "it went back to where it was"


def test_groups_of_killed_processes_are_swept_away(cgroups):
    stale = cgroups / "sys/fs/cgroup/user.slice/app.slice/dssd-1"
    stale.mkdir()
    with limited(cpu_share=1.5, root=cgroups):
        assert not stale.exists()


def test_without_a_controller_the_remedy_is_named(cgroups):
    for control in cgroups.rglob("cgroup.subtree_control"):
        control.write_text("memory\n")
    with pytest.raises(LimitError, match=r"does not hand out cpu.*systemd-run.*device\.cpus"), limited(
        cpu_share=0.25, root=cgroups
    ):
        pass
    (cgroups / "proc/self/mountinfo").write_text("22 1 0:21 / /proc rw - proc proc rw\n")
    with pytest.raises(LimitError, match=r"no cgroup v2 is mounted.*systemd-run"), limited(cpu_share=1.0, root=cgroups):
        pass
