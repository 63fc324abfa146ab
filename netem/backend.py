"""Which way this machine can build a link, found out by trying, never by a list of loaded modules."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Literal

from netem.apply import execute
from netem.errors import BackendError, CommandError
from netem.initramfs import guest_version, inputs
from netem.rootless import AS_ROOT_OF_OWN, why_not_rootless
from netem.spec import DIRECTIONS, LinkSpec

Backend = Literal["loopback", "netns", "uml"]
SEED_SINCE = (6, 6)  # both of iproute2 and of the kernel
OS_RELEASE = Path("/etc/os-release")
MODULES_BY_DISTRIBUTION = {
    "debian": "apt install linux-image-$(uname -r)",
    "ubuntu": "apt install linux-modules-extra-$(uname -r)",
    "fedora": "dnf install kernel-modules-extra-$(uname -r)",
    "rhel": "dnf install kernel-modules-extra-$(uname -r)",
    "centos": "dnf install kernel-modules-extra-$(uname -r)",
}


def choose_backend(spec: LinkSpec) -> Backend:
    """Raises BackendError when nothing here can build the link, saying what was tried and what mends it."""
    if spec.backend == "loopback":
        if spec.needs_lab:
            raise BackendError(
                "backend loopback cannot shape or cut a link, or pin TCP: on `lo` packets would be impaired twice,"
                " and in units of 64 kB. Use backend auto, netns or uml, or declare nothing"
            )
        return "loopback"
    if spec.backend == "auto" and not spec.needs_lab:
        return "loopback"
    tried = []
    seeded = any(spec.direction(which).seed is not None for which in DIRECTIONS)
    for backend in ("netns", "uml") if spec.backend == "auto" else (spec.backend,):
        problem = why_not(backend, spec.is_shaped)  # type: ignore[arg-type]
        if problem is None and backend == "netns" and any(spec.direction(which).has_bottleneck for which in DIRECTIONS):
            problem = why_no_bottleneck()
        if problem is None and seeded:
            problem = why_no_seed(guest_version() if backend == "uml" else platform.release())
        if problem is None:
            return backend  # type: ignore[return-value]
        tried.append(f"{backend}: {problem}")
    raise BackendError("no way to build this link here\n  " + "\n  ".join(tried))


def why_not(backend: Literal["netns", "uml"], shaped: bool = True) -> str | None:
    """None when the backend works here, else what is in the way and the command that mends it."""
    if os.geteuid() != 0 and (problem := why_not_rootless()):
        return problem
    try:
        execute([*_throw_away(), "true"])
    except CommandError as error:
        return f"namespaces cannot be made here ({error.said}): run outside the container, or privileged"
    if backend == "netns":
        return why_no_netem() if shaped else None
    if platform.machine() not in ("x86_64", "i686"):
        return f"user-mode Linux is for x86, not {platform.machine()}: install a kernel with sch_netem"
    if problem := why_no_tun():
        return problem
    try:
        inputs()
    except BackendError as error:
        return str(error)
    return None


def why_no_tun() -> str | None:
    tun = Path("/dev/net/tun")
    if not tun.exists():
        return f"{tun} is missing: modprobe tun"
    if not os.access(tun, os.R_OK | os.W_OK):
        return f"{tun} is not yours to open: chmod 666 {tun}"
    return None


def _throw_away() -> tuple[str, ...]:
    """What runs a command in a network namespace that ends with it."""
    return ("unshare", "--net") if os.geteuid() == 0 else AS_ROOT_OF_OWN


def why_no_netem() -> str | None:
    return _why_no_discipline("netem", "delay", "1ms")


def why_no_bottleneck() -> str | None:
    """What the rate of a trace takes besides netem."""
    return _why_no_discipline("tbf", "rate", "1mbit", "burst", "2000", "limit", "3000") or _why_no_discipline("plug")


def _why_no_discipline(kind: str, *words: str) -> str | None:
    """Tries it on the loopback of a throw-away namespace."""
    try:
        execute([*_throw_away(), "tc", "qdisc", "add", "dev", "lo", "root", kind, *words])
    except CommandError as error:
        if "not installed" in error.said:
            return f"{error.said}: apt install iproute2"
        first = error.said.splitlines()[0] if error.said else "tc failed"
        return f"this kernel has no sch_{kind} ({first}): {modules_command()}, then modprobe sch_{kind}"
    return None


def why_not_physical() -> str | None:
    """Whether this kernel can shape a real interface now. Loads no module: ifb, when it comes, makes devices."""
    if os.geteuid() != 0:
        return "shaping a real interface takes root: sudo"
    if problem := why_no_netem():
        return problem
    for kind in (("root", "handle", "1:", "prio"), ("ingress",)):
        try:
            execute([*_throw_away(), "tc", "qdisc", "add", "dev", "lo", *kind])
        except CommandError as error:
            return f"this kernel has no {kind[-1]} discipline ({error.said.strip()}): {modules_command()}"
    if not Path("/sys/module/ifb").exists():
        try:
            execute(["modprobe", "--dry-run", "ifb"])
        except CommandError:
            return f"this kernel has no ifb, so what comes in cannot be shaped (--only egress can): {modules_command()}"
    return None


def why_no_seed(kernel: str) -> str | None:
    """Whether netem of this kernel version, told by this machine's tc, hits the same packets again when asked to."""
    try:
        usage = execute(["tc", "qdisc", "add", "dev", "lo", "root", "netem", "help"])
    except CommandError as error:
        usage = error.said
    numbers = re.match(r"(\d+)\.(\d+)", kernel)
    missing = [] if "seed" in usage else ["tc"]
    missing += (
        [] if numbers and (int(numbers[1]), int(numbers[2])) >= SEED_SINCE else [f"Linux {kernel}, where netem runs,"]
    )
    if not missing:
        return None
    return f"{' and '.join(missing)} cannot seed netem: leave seed out, or take iproute2 and Linux 6.6 or newer"


def modules_command() -> str:
    """The command that installs this distribution's extra kernel modules."""
    try:
        release = dict(line.split("=", 1) for line in OS_RELEASE.read_text().splitlines() if "=" in line)
    except OSError:
        release = {}
    likes = [release.get("ID", ""), *release.get("ID_LIKE", "").strip('"').split()]
    known = [MODULES_BY_DISTRIBUTION[like.strip('"')] for like in likes if like.strip('"') in MODULES_BY_DISTRIBUTION]
    return known[0] if known else "install your distribution's extra kernel modules"


def available_congestion() -> list[str]:
    return Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()


def choose_congestion(wished: str | None) -> str:
    """The one asked for; else cubic, the default of nearly every Linux; else this kernel's own default."""
    available = available_congestion()
    if wished is None:
        default = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
        return "cubic" if "cubic" in available else default
    if wished not in available:
        raise BackendError(
            f"tcp.congestion '{wished}' is not in this kernel, which has {', '.join(available)}:"
            f" modprobe tcp_{wished}, or choose one of these"
        )
    return wished
