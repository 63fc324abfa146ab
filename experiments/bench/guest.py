"""A whole machine for a measurement: a user-mode Linux guest with this machine's files, read-only, a kernel of its own,
and in it this project's own Python."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from shlex import join

from netem.initramfs import BATCHES, DONE, READY, guest_version, inputs
from netem.uml import UmlRouter, guest_command

PROJECT = Path(__file__).parents[2]
MEMORY = "1G"
MODULES = (
    *(f"net/sched/{name}" for name in ("sch_netem", "sch_tbf", "sch_plug", "sch_prio", "sch_ingress", "cls_u32")),
    *("net/sched/act_mirred", "drivers/net/veth"),
)


def run_in_guest(argv: Sequence[str]) -> str:
    """Run it there to its end; what it said. Raises BackendError where there is no user-mode Linux."""
    inputs()
    with tempfile.TemporaryDirectory(prefix="dssd-guest-") as folder:
        arguments = [*_boots_from(Path(folder), join(argv)), "con=null", "con0=null,fd:1"]
        guest = guest_command([*arguments, f"uml_dir={folder}", "umid=bench"])
        done = subprocess.run(guest, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    return done.stdout


class GuestRouter(UmlRouter):
    """A lab's router that can also run our own code."""

    def boots_from(self, folder: Path) -> list[str]:
        serve = f'echo {READY}\nwhile read -r line; do eval "$line" 2>&1; echo "{DONE} $?"; done'
        return _boots_from(folder, f"{BATCHES}\nstty -echo -onlcr\n{serve}")

    def python(self, code: str) -> str:
        """What that code printed. Raises CommandError."""
        return self.run([sys.executable, "-c", f"exec({code!r})"])  # a console takes one line


def _boots_from(folder: Path, then: str) -> list[str]:
    """The kernel's arguments for a machine that does `then` once it is up."""
    modules = f"/usr/lib/uml/modules/{guest_version()}/kernel"
    init = folder / "init"
    init.write_text(
        f"""#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run TMPDIR=/run LC_ALL=C PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs run /run; mount -t devtmpfs dev /dev
mkdir -p /run/netns
for module in {" ".join(MODULES)}; do busybox insmod {modules}/$module.ko; done
busybox insmod {modules}/drivers/net/ifb.ko numifbs=0
ip link set lo up
cd {PROJECT}
{then}
busybox poweroff -f
"""
    )
    init.chmod(0o755)
    return [f"mem={MEMORY}", "root=/dev/root", "rootfstype=hostfs", "ro", f"init={init}"]
