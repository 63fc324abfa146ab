"""A quota as a kernel really keeps it: cgroup v2 in a user-mode Linux guest, whatever cgroups this machine has."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from guest import Guest, python_line

from netem.backend import why_not

pytestmark = pytest.mark.lab

CGROUP2 = "mount -t cgroup2 none /sys/fs/cgroup && echo +cpu > /sys/fs/cgroup/cgroup.subtree_control"
HELD = """
import json, os, time
from pathlib import Path
from nodes.limits import limited

def share(seconds):
    began, computed = time.monotonic(), time.process_time()
    while time.monotonic() - began < seconds:
        pass
    return (time.process_time() - computed) / (time.monotonic() - began)

found = {"before": share(0.3)}
with limited(cpu_share=0.25) as held:
    found.update(limits=held, during=share(3.0), group=Path("/proc/self/cgroup").read_text())
    found["stat"] = dict(line.split() for line in Path(f"/sys/fs/cgroup/dssd-{os.getpid()}/cpu.stat").open())
found.update(after=share(0.3), left=[str(path) for path in Path("/sys/fs/cgroup").glob("dssd-*")])
print(json.dumps(found))
"""
LEAST = """
from nodes.limits import LEAST_SHARE, LimitError, limited
with limited(cpu_share=LEAST_SHARE) as held:
    print(held["cpu_max"])
try:
    with limited(cpu_share=0.99 * LEAST_SHARE):
        print("held to less")
except LimitError as error:
    print(error)
"""
KILLED = """
import os, signal
from nodes.limits import limited
with limited(cpu_share=0.25):
    os.kill(os.getpid(), signal.SIGKILL)
"""
RUN = {
    "name": "held", "systems": ["dssd"], "engine": "toy", "warmup": 0,
    "workload": {"max_new_tokens": 8, "requests": 1}, "device": {"cpu_share": 0.5},
}  # fmt: skip


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    if problem := why_not("uml", True):
        pytest.skip(f"uml: {problem}")
    with Guest() as guest:
        guest.run(CGROUP2)
        yield guest


def test_a_quarter_of_a_core_is_a_quarter_of_a_core(guest):
    found = json.loads(guest.python(HELD).splitlines()[-1])
    assert found["limits"]["cpu_max"] == "5000 20000" and found["limits"]["cpu_share"] == 0.25
    assert found["during"] <= 0.27, "of a second, all that a loaded host leaves of it"
    assert int(found["stat"]["nr_throttled"]) >= 10 and "/dssd-" in found["group"]
    assert found["before"] > 0.5 and found["after"] > 0.5, "free before, and free again"
    assert found["left"] == []


def test_the_least_share_is_the_kernels(guest):
    held, refused = guest.python(LEAST).splitlines()[-2:]
    assert held == "1000 20000" and "no CPU quota can be set" in refused


def test_the_group_of_a_device_that_was_killed_goes_with_the_next_one(guest):
    status, _ = guest.try_run(python_line(KILLED))
    assert status == 137
    assert guest.run("ls -d /sys/fs/cgroup/dssd-* | wc -l").strip() == "1"
    assert json.loads(guest.python(HELD).splitlines()[-1])["left"] == []


@pytest.mark.slow
def test_a_run_declares_it_and_records_what_held(guest):
    guest.run(f"echo '{json.dumps(RUN)}' > /run/held.yaml")
    guest.run("cd /run && dssd run held.yaml --out /run/results 2>/run/said", timeout_s=240)
    for file, key in (("manifest.json", "device_limits"), ("summary.json", "device_limits"), ("device.json", "limits")):
        limits = json.loads(guest.run(f"cat /run/results/held/latest/{file}"))[key]
        assert (limits["cpu_share"], limits["cpu_max"]) == (0.5, "10000 20000"), file
    page = guest.run("dssd report /run/results/held/latest >/dev/null && cat /run/results/held/latest/report.html")
    assert "0.5 of a core" in page
