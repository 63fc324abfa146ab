"""A device held to a part of the machine: really held, given back, refused where it cannot be. (A quota on a kernel's
own cgroups: test_limits_in_guest.py.)"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
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
    with (
        pytest.raises(LimitError, match=r"does not hand out cpu.*systemd-run.*device\.cpus"),
        limited(cpu_share=0.25, root=cgroups),
    ):
        pass
    (cgroups / "proc/self/mountinfo").write_text("22 1 0:21 / /proc rw - proc proc rw\n")
    with pytest.raises(LimitError, match=r"no cgroup v2 is mounted.*systemd-run"), limited(cpu_share=1.0, root=cgroups):
        pass


@pytest.fixture
def clocks(tmp_path) -> Path:
    """A root as a big.LITTLE board's: a policy for each cluster (Documentation/admin-guide/pm/cpufreq.rst)."""
    for first, cores, highest in ((0, "0 1 2 3", "1800000"), (4, "4 5", "2400000")):
        policy = tmp_path / f"sys/devices/system/cpu/cpufreq/policy{first}"
        policy.mkdir(parents=True)
        for name, text in {
            "related_cpus": cores, "affected_cpus": cores, "cpuinfo_min_freq": "408000", "cpuinfo_max_freq": highest,
            "scaling_min_freq": "600000", "scaling_max_freq": highest, "scaling_governor": "schedutil",
        }.items():  # fmt: skip
            (policy / name).write_text(text + "\n")
    return tmp_path


def cap_of(root: Path, policy: str) -> str:
    return (root / f"sys/devices/system/cpu/cpufreq/{policy}/scaling_max_freq").read_text().strip()


def test_a_clock_is_capped_where_the_device_runs_and_restored(clocks):
    core = min(HERE)
    if core > 3:
        pytest.skip(f"this process begins at core {core}, the board of this test ends its first cluster at 3")
    with limited(cpus=[core], cpu_max_mhz=1200, root=clocks) as held:
        assert (cap_of(clocks, "policy0"), cap_of(clocks, "policy4")) == ("1200000", "2400000")
        assert held["cpu_max_mhz"] == 1200
        assert held["frequency"] == {
            "policy0": {"max_mhz": 1200.0, "before_mhz": 1800.0, "cpus": [0, 1, 2, 3], "governor": "schedutil"}
        }
    assert (cap_of(clocks, "policy0"), cap_of(clocks, "policy4")) == ("1800000", "2400000")


CAPPED = "import sys, time; from pathlib import Path; from nodes.limits import limited\n"
CAPPED += "with limited(cpu_max_mhz=900, root=Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


@pytest.mark.parametrize("whole_group", [False, True])
def test_a_device_that_is_killed_leaves_no_cap_behind(clocks, whole_group):
    device = subprocess.Popen(
        [sys.executable, "-c", CAPPED, str(clocks)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert device.stdout.readline() == "held\n" and cap_of(clocks, "policy0") == "900000"
    (os.killpg if whole_group else os.kill)(device.pid, signal.SIGKILL)
    device.communicate()
    deadline_s = time.monotonic() + 20
    while cap_of(clocks, "policy0") != "1800000" and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert cap_of(clocks, "policy0") == "1800000"


@pytest.mark.parametrize(
    ("mhz", "says"),
    [(300, "between 408 and 1800 MHz"), (5000, "between 408 and 1800 MHz"), (500, r"held above 600 MHz \(scaling_min")],
)
def test_a_cap_that_cannot_be_held_is_refused_and_nothing_is_changed(clocks, mhz, says):
    with (
        pytest.raises(LimitError, match=rf"device\.cpu_max_mhz: policy0 .*{says}"),
        limited(cpu_max_mhz=mhz, root=clocks),
    ):
        pass
    assert cap_of(clocks, "policy0") == "1800000" and os.sched_getaffinity(0) == HERE


def test_a_cap_that_the_kernel_changes_is_refused(clocks, monkeypatch):
    """Drivers with a table of steps round what is written; here the file system stands in for one."""
    table = clocks / "sys/devices/system/cpu/cpufreq/policy0"
    (table / "scaling_available_frequencies").write_text("600000 1200000 1800000\n")
    write = Path.write_text

    def rounded(path, text, *more, **options):
        return write(path, "1200000" if text == "1300000" else text, *more, **options)

    monkeypatch.setattr(Path, "write_text", rounded)
    with pytest.raises(LimitError, match="took 1200000 kHz for 1300000; its steps are 600000 1200000 1800000"):
        with limited(cpu_max_mhz=1300, root=clocks):
            pass
    assert cap_of(clocks, "policy0") == "1800000"


def test_without_permission_or_without_clocks_the_remedy_is_named(clocks, tmp_path_factory, monkeypatch):
    with pytest.raises(LimitError, match=r"lets nobody set its clock .*device\.cpus or device\.cpu_share"):
        with limited(cpu_max_mhz=1000, root=tmp_path_factory.mktemp("none")):
            pass

    def closed(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_text", closed)
    with pytest.raises(LimitError, match="may only be written by root: run the device as root"):
        with limited(cpu_max_mhz=1000, root=clocks):
            pass
    assert cap_of(clocks, "policy0") == "1800000"


def test_this_machines_own_clock_is_capped_or_refused():
    policies = sorted(Path("/sys/devices/system/cpu/cpufreq").glob("policy*"))
    if not policies or not os.access(policies[0] / "scaling_max_freq", os.W_OK):
        with pytest.raises(LimitError, match=r"device\.cpu_max_mhz: "), limited(cpu_max_mhz=1000):
            pass
        return
    before = [(policy / "scaling_max_freq").read_text() for policy in policies]
    mhz = int((policies[0] / "cpuinfo_max_freq").read_text()) / 1000
    with limited(cpu_max_mhz=mhz) as held:
        assert all(policy["max_mhz"] == mhz for policy in held["frequency"].values())
    assert [(policy / "scaling_max_freq").read_text() for policy in policies] == before
