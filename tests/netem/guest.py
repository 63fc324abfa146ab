"""A whole machine for the tests: a user-mode Linux guest with this machine's files (read-only), a kernel of its own and
one network interface, which hangs on a cable in a namespace outside.

    with Guest() as guest:
        guest.run("ip -br link")                       # what it printed; raises where it failed
        guest.outside(["ping", "-c1", guest.ADDRESS])   # from the other end of the cable
"""

from __future__ import annotations

import os
import secrets
import select
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from netem.apply import execute
from netem.uml import guest_command

PROJECT = Path(__file__).parents[2]
MODULES = (
    *("net/sched/sch_netem", "net/sched/sch_prio", "net/sched/sch_ingress", "net/sched/cls_u32"),
    *(
        "net/sched/act_mirred",
        "net/sched/sch_fq_codel",
        "net/sched/sch_fq",
        "lib/crc-ccitt",
        "net/ipv6/ipv6",
        "drivers/net/veth",
    ),
)
READY, DONE = "=guest-ready", "=guest-done"
INIT = f"""#!/bin/sh
export PATH={Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin HOME=/run TMPDIR=/run LC_ALL=C
export PYTHONPATH={PROJECT} PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs run /run; mount -t devtmpfs dev /dev
mkdir -p /run/netns /run/dssd /dev/pts; mount -t devpts pts /dev/pts
for module in {" ".join(MODULES)}; do busybox insmod /usr/lib/uml/modules/$(uname -r)/kernel/$module.ko; done
busybox insmod /usr/lib/uml/modules/$(uname -r)/kernel/drivers/net/ifb.ko numifbs=0
ip link set lo up
cd {PROJECT}
stty -echo -onlcr
echo {READY}
while read -r line; do eval "$line" </dev/null 2>&1; echo "{DONE} $?"; done
busybox poweroff -f
"""


class GuestError(RuntimeError):
    """A command in the guest failed, or the guest did; the message is all it said."""


class Guest:
    ADDRESS, PEER, OTHER = "10.55.0.1", "10.55.0.2", "10.55.0.3"  # the guest's, and two of the machine outside
    INTERFACE = "vec0"

    def __enter__(self) -> Guest:
        self._unread = b""
        self._namespace = f"dssd-guest-{secrets.token_hex(3)}"
        self._folder = Path(tempfile.mkdtemp(prefix="dssd-guest-"))
        init = self._folder / "init"
        init.write_text(INIT)
        init.chmod(0o755)
        execute(["ip", "netns", "add", self._namespace])
        self.outside(["ip", "tuntap", "add", "dev", "cable", "mode", "tap"])
        for address in (self.PEER, self.OTHER):
            self.outside(["ip", "address", "add", f"{address}/24", "dev", "cable"])
        self.outside(["ip", "link", "set", "lo", "up"])
        self.outside(["ip", "link", "set", "cable", "up"])
        arguments = [
            "mem=1G",
            "root=/dev/root",
            "rootfstype=hostfs",
            "ro",
            f"init={init}",
            "con=null",
            "con0=fd:0,fd:1",
        ]
        arguments += ["vec0:transport=tap,ifname=cable,depth=128,gro=0", f"uml_dir={self._folder}", "umid=guest"]
        self._process = subprocess.Popen(
            guest_command(arguments, enter=["nsenter", f"--net=/run/netns/{self._namespace}", "--"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "TMPDIR": "/dev/shm"},
        )
        try:
            self._read_to(READY, 60)
            self.run(f"ip address add {self.ADDRESS}/24 dev {self.INTERFACE}; ip link set {self.INTERFACE} up")
            self.ping_ms(self.PEER, 1), self.ping_ms(self.OTHER, 1)  # both ends learn where the other is
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        execute(["ip", "netns", "del", self._namespace])
        shutil.rmtree(self._folder)

    def run(self, line: str, timeout_s: float = 60.0) -> str:
        """A line of shell in the guest, and what it printed. Raises GuestError when it fails."""
        status, said = self.try_run(line, timeout_s)
        if status != 0:
            raise GuestError(f"{line}: {status}\n{said}")
        return said

    def try_run(self, line: str, timeout_s: float = 60.0) -> tuple[int, str]:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        said, status = self._read_to(DONE, timeout_s)
        return int(status), said

    def python(self, code: str) -> str:
        """Our own code, in the guest."""
        return self.run(python_line(code))

    def state(self) -> dict[str, str]:
        """Of the guest's network and of our traces in it: what has to be the same after as before."""
        questions = {
            "qdiscs": "tc -j qdisc show",
            "filters": f"tc filter show dev {self.INTERFACE}; tc filter show dev {self.INTERFACE} ingress",
            "links": "ip -j -d link show",
            "features": f"ethtool -k {self.INTERFACE} | sed 's/ .requested.*//'",
            "default": "cat /proc/sys/net/core/default_qdisc",
            "namespaces": "ip netns list",
            "journals": "ls -A /run/dssd /run/dssd-link-* 2>/dev/null || true",
            "guards": "grep -l guard.sh /proc/[0-9]*/cmdline 2>/dev/null || true",
        }
        said = self.run("; echo =; ".join(questions.values())).split("=\n")
        return dict(zip(questions, said))

    def wait_for_state(self, wanted: dict[str, str], timeout_s: float = 40.0) -> float:
        """Seconds until the guest looks like that; its state is compared once more when they are over."""
        began_s = time.monotonic()
        while time.monotonic() - began_s < timeout_s:
            if self.state() == wanted:
                return time.monotonic() - began_s
            time.sleep(0.2)
        assert self.state() == wanted
        return timeout_s

    def outside(self, argv: Sequence[str]) -> str:
        """A command on the machine at the other end of the cable."""
        return execute(self.enter_outside(argv))

    def enter_outside(self, argv: Sequence[str]) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self._namespace}", "--", *argv]

    def ping_ms(self, source: str = PEER, count: int = 15) -> float:
        """Median round trip of a ping from outside; 5,000 where none comes back."""
        said = self.outside([sys.executable, "-I", "-c", PING, source, self.ADDRESS, str(count)])
        return statistics.median(float(word) for word in said.split())

    def knock_ms(self, port: int, source: str = PEER, to: str = ADDRESS, count: int = 5) -> float:
        """Median time for a TCP connection to be opened or refused, which takes one round trip."""
        said = self.outside([sys.executable, "-I", "-c", KNOCK, source, to, str(port), str(count)])
        return statistics.median(float(word) for word in said.split())

    def knock_inside_ms(self, namespace: str, source: str, to: str) -> float:
        """The same from a namespace in the guest."""
        knock = python_line(KNOCK, source, to, "9", "5")
        said = self.run(f"nsenter --net=/run/netns/{namespace} {knock}")
        return statistics.median(float(word) for word in said.split())

    def _read_to(self, marker: str, timeout_s: float) -> tuple[str, str]:
        assert self._process.stdout is not None
        descriptor, deadline_s = self._process.stdout.fileno(), time.monotonic() + timeout_s
        wanted = marker.encode()
        while True:
            start = self._unread.find(wanted)
            end = self._unread.find(b"\n", start)
            if start >= 0 and end >= 0:
                said, status = self._unread[:start], self._unread[start + len(wanted) : end]
                self._unread = self._unread[end + 1 :]
                return said.decode(errors="replace"), status.decode()
            left_s = deadline_s - time.monotonic()
            chunk = b""
            if left_s > 0 and select.select([descriptor], [], [], left_s)[0]:
                chunk = os.read(descriptor, 65536)
            if not chunk:
                why = "said nothing more" if left_s > 0 else f"did not answer within {timeout_s:g} s"
                raise GuestError(f"the guest {why}:\n{self._unread.decode(errors='replace')}")
            self._unread += chunk


def python_line(code: str, *arguments: str) -> str:
    """Python as one line of shell, which is what the guest's console takes."""
    return shlex.join([sys.executable, "-c", f"exec({code!r})", *arguments])


KNOCK = """
import socket, sys, time
source, address, port, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
for _ in range(count):
    with socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET) as door:
        door.bind((source, 0))
        door.settimeout(5)
        began = time.monotonic()
        try:
            door.connect((address, port))
        except ConnectionRefusedError:
            pass
        print((time.monotonic() - began) * 1e3)
"""
PING = """
import socket, struct, sys, time
source, address, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as line:
    line.bind((source, 0))
    line.connect((address, 0))
    for number in range(count):
        body = struct.pack("!HH", 0xD55D, number)
        total = 0x0800 + 0xD55D + number
        check = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        began = time.monotonic()
        line.send(struct.pack("!BBH", 8, 0, check) + body)
        while (left := began + 5 - time.monotonic()) > 0:
            line.settimeout(left)
            try:
                packet = line.recv(2048)
            except TimeoutError:
                break
            if packet[20] == 0 and packet[24:28] == body:
                break
        print((time.monotonic() - began) * 1e3)
"""
