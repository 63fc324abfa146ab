"""Looks into a host's network namespace from outside: interface counters, and the TCP settings in force."""

from __future__ import annotations

import ctypes
import json
import os
import threading
from pathlib import Path
from typing import Any, TextIO

from netem.apply import execute
from netem.errors import CommandError, LinkError
from netem.plan import OFFLOADS

CLONE_NEWNET = 0x40000000
SYSCTLS = (
    "tcp_congestion_control",
    "tcp_slow_start_after_idle",
    "tcp_no_metrics_save",
    "tcp_ecn",
    "tcp_sack",
    "tcp_timestamps",
    "tcp_notsent_lowat",
    "tcp_rmem",
    "tcp_wmem",
)
COUNTERS = {"rx_bytes": 0, "rx_packets": 1, "tx_bytes": 8, "tx_packets": 9}  # columns of /proc/net/dev


def open_counters(namespace: str | None) -> TextIO:
    """/proc/net/dev of a namespace, held open: it goes on showing that namespace to whoever reads it.

    A thread of its own opens it, since only a thread can be in another namespace than its process.
    """
    if namespace is None:
        return Path("/proc/net/dev").open()
    opened: list[TextIO | OSError] = []

    def enter_and_open() -> None:
        try:
            handle = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(handle, CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
                opened.append(Path("/proc/thread-self/net/dev").open())  # noqa: SIM115
            finally:
                os.close(handle)
        except OSError as error:
            opened.append(error)

    thread = threading.Thread(target=enter_and_open)
    thread.start()
    thread.join()
    if isinstance(opened[0], OSError):
        raise LinkError(f"cannot look into namespace {namespace}: {opened[0]}")
    return opened[0]


def parse_counters(counters: TextIO, interface: str) -> dict[str, int]:
    """Raises LinkError when the interface is gone."""
    text = os.pread(counters.fileno(), 65536, 0).decode()
    for line in text.splitlines():
        name, colon, values = line.partition(":")
        if colon and name.strip() == interface:
            columns = values.split()
            return {key: int(columns[column]) for key, column in COUNTERS.items()}
    raise LinkError(f"interface {interface} is gone: was the lab taken down?")


def tcp_in_force(namespace: str | None, interface: str) -> dict[str, Any]:
    """What a connection of this host gets: the route's settings, sysctls, offloads, MTU."""
    enter = [] if namespace is None else ["nsenter", f"--net=/run/netns/{namespace}", "--"]
    listing = execute([*enter, "sysctl", "-e", *(f"net.ipv4.{name}" for name in SYSCTLS)])
    values = dict(line.split(" = ", 1) for line in listing.splitlines() if " = " in line)
    sysctls = {name: " ".join(values[f"net.ipv4.{name}"].split()) for name in SYSCTLS if f"net.ipv4.{name}" in values}
    routes = json.loads(execute([*enter, "ip", "-j", "-details", "route", "show", "dev", interface]) or "[]")
    route: dict[str, Any] = next((entry for entry in routes if "gateway" in entry), {})
    metrics: dict[str, Any] = {key: value for part in route.get("metrics", []) for key, value in part.items()}
    links = json.loads(execute([*enter, "ip", "-j", "link", "show", "dev", interface]))
    return {
        "congestion": metrics.get("congestion") or sysctls.get("tcp_congestion_control"),
        "initcwnd": metrics.get("initcwnd"),
        "slow_start_after_idle": sysctls.get("tcp_slow_start_after_idle") == "1",
        "no_metrics_save": sysctls.get("tcp_no_metrics_save") == "1",
        "ecn": sysctls.get("tcp_ecn") == "1",
        "sack": sysctls.get("tcp_sack") == "1",
        "timestamps": sysctls.get("tcp_timestamps") == "1",
        "notsent_lowat_bytes": sysctls.get("tcp_notsent_lowat"),
        "rmem_bytes": sysctls.get("tcp_rmem"),
        "wmem_bytes": sysctls.get("tcp_wmem"),
        "mtu_bytes": links[0]["mtu"],
        "offloads": _offloads(enter, interface),
        "pinned": namespace is not None,
    }


def _offloads(enter: list[str], interface: str) -> dict[str, bool]:
    long_names = {
        "tso": "tcp-segmentation-offload",
        "gso": "generic-segmentation-offload",
        "gro": "generic-receive-offload",
    }
    try:
        listing = execute([*enter, "ethtool", "-k", interface])
    except CommandError:
        return {}
    state = dict(line.split(": ", 1) for line in listing.splitlines() if ": " in line)
    return {name: state.get(long_names[name], "").startswith("on") for name in OFFLOADS}
