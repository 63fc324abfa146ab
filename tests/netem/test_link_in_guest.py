"""The netns backend where this kernel has no netem: inside a user-mode Linux guest, which has.

The guest is a whole machine with this machine's files (read-only), so the same tests run in it, only slower.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import need

from netem.backend import why_no_netem
from netem.uml import guest_command

PROJECT = Path(__file__).parents[2]
TESTS = (
    "test_link_lab.py",
    "test_link_check.py::test_an_honest_link_passes_within_the_figures",
    "test_link_cleanup.py::test_signals_end_the_lab_completely",
)
INIT = f"""#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs run /run; mkdir -p /run/netns
for module in net/sched/sch_netem drivers/net/veth; do
    busybox insmod /usr/lib/uml/modules/$(uname -r)/kernel/$module.ko
done
ip link set lo up
mount -t tmpfs tmp /tmp
cd {PROJECT}/tests/netem
{sys.executable} -m pytest -p no:cacheprovider -q -k 'not uml' {" ".join(TESTS)}
echo "=tests ended $?"
busybox poweroff -f
"""


@pytest.mark.lab
@pytest.mark.slow
def test_netns_backend_inside_a_guest(tmp_path: Path) -> None:
    if why_no_netem() is None:
        pytest.skip("this kernel has netem: the netns tests have run in it")
    need("uml")
    init = tmp_path / "init"
    init.write_text(INIT)
    init.chmod(0o755)
    arguments = ["mem=1G", "root=/dev/root", "rootfstype=hostfs", "ro", f"init={init}", "con=null", "con0=null,fd:1"]
    done = subprocess.run(
        guest_command([*arguments, f"uml_dir={tmp_path}/uml", "umid=tests"]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
    )
    assert "=tests ended 0" in done.stdout, done.stdout[-6000:]
    assert " passed" in done.stdout or "100%" in done.stdout
