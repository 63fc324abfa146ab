"""Small UDP probes between two hosts. Run as a script, standard library only, so that it starts in a blink.

    probe.py answer ADDRESS
        prints {"port": …}, answers until its standard input closes
    probe.py ask ADDRESS PORT COUNT INTERVAL_US LONGEST_US
        sends COUNT probes to an answerer and collects its answers, none of which should take longer
    probe.py stream ADDRESS PORT COUNT RATE_MBPS
        sends full-size packets to an answerer, which only counts them

Arrivals are stamped by the kernel, not when this process got to run: on a busy machine that is milliseconds
later. The stamps are wall-clock time (that is what the kernel offers); only differences within one lab are
taken.
"""

from __future__ import annotations

import json
import math
import select
import socket
import struct
import sys
import time

PROBE = struct.Struct("!cIIqqq")  # kind, number, answer's number, asked at, arrived at, answered at (ns)
PROBE_BYTES = 64  # of UDP payload
STREAM_BYTES = 1472  # of UDP payload: a full Ethernet frame
FRAME_OVERHEAD_BYTES = 42  # Ethernet 14, IPv4 20, UDP 8: what netem counts beside the payload
BUFFER_BYTES = 8 << 20
SO_TIMESTAMPNS = 35
SO_RCVBUFFORCE, SO_SNDBUFFORCE = 33, 32
UDP_SEGMENT, MOST_AT_ONCE = 103, 40  # packets, within the 64 kB of a datagram
MUCH_LONGER, MUCH_LATER_S = 2.0, 5.0  # than planned: then no more probes are sent
LAST_WAIT_S = 1.0  # beyond what an answer takes, for what a busy machine holds up; only what is lost costs it
UNHEARD_S = 1.0  # at least, as long as no answer says how long one takes


def open_socket(address: str = "") -> socket.socket:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for forced, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            udp.setsockopt(socket.SOL_SOCKET, forced, BUFFER_BYTES)
        except PermissionError:
            udp.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)
    udp.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    udp.bind((address, 0))
    return udp


def receive(udp: socket.socket) -> tuple[bytes, int, tuple[str, int]]:
    """Next packet, when the kernel got it (ns), and from whom."""
    data, extra, _flags, sender = udp.recvmsg(2048, 64)
    for _level, kind, value in extra:
        if kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = struct.unpack("@qq", value[:16])
            return data, seconds * 1_000_000_000 + nanoseconds, sender
    return data, time.time_ns(), sender


def answer(address: str) -> dict[str, list[int]]:
    """Numbers and arrival times of what came, in order of arrival."""
    udp = open_socket(address)
    print(json.dumps({"port": udp.getsockname()[1]}), flush=True)
    numbers: list[int] = []
    arrivals_ns: list[int] = []
    while True:
        ready, _, _ = select.select([udp, sys.stdin], [], [])
        if udp not in ready:
            return {"numbers": numbers, "arrivals_ns": arrivals_ns}
        data, arrived_ns, sender = receive(udp)
        kind, number, _, asked_ns, _, _ = PROBE.unpack_from(data)
        if kind == b"?":
            reply = PROBE.pack(b"!", number, len(numbers), asked_ns, arrived_ns, time.time_ns())
            udp.sendto(reply.ljust(PROBE_BYTES, b"\0"), sender)
        numbers.append(number)
        arrivals_ns.append(arrived_ns)


def ask(address: str, port: int, count: int, interval_us: int, longest_us: int) -> dict[str, object]:
    """Per answer, in order of arrival: its number, the answer's own number, round trip, way up and way down
    (ns).

    A missing one is waited for as long as one may take since the last probe, or, since the last answer, as much longer
    as the longest takes than the shortest: what holds answers up is then still letting them go.
    """
    udp = open_socket()
    answers: list[tuple[int, int, int, int, int]] = []
    seen: set[int] = set()
    longest_s, shortest_s, heard_s = longest_us / 1e6, math.inf, -math.inf

    def collect(wait_s: float) -> None:
        nonlocal longest_s, shortest_s, heard_s
        while select.select([udp], [], [], max(0.0, wait_s))[0]:
            data, back_ns, _ = receive(udp)
            _, number, answered, asked_ns, arrived_ns, answered_ns = PROBE.unpack_from(data)
            round_trip_ns = (back_ns - asked_ns) - (answered_ns - arrived_ns)
            answers.append((number, answered, round_trip_ns, arrived_ns - asked_ns, back_ns - answered_ns))
            seen.add(number)
            longest_s, shortest_s = max(longest_s, round_trip_ns / 1e9), min(shortest_s, round_trip_ns / 1e9)
            heard_s, wait_s = time.monotonic(), 0.0

    start_s = time.monotonic()
    enough_s = start_s + MUCH_LONGER * count * interval_us / 1e6 + MUCH_LATER_S
    sent = 0
    for number in range(count):
        if time.monotonic() > enough_s:  # this machine does not keep the pace: fewer probes have to do
            break
        due_s = start_s + number * interval_us / 1e6
        while (left_s := due_s - time.monotonic()) > 0:
            collect(left_s)
        collect(0)
        probe = PROBE.pack(b"?", number, 0, time.time_ns(), 0, 0)
        udp.sendto(probe.ljust(PROBE_BYTES, b"\0"), (address, port))
        sent += 1
    sent_s = time.monotonic()
    while len(seen) < sent:
        due_s = max(sent_s + (longest_s if seen else max(UNHEARD_S, longest_s)), heard_s + longest_s - shortest_s)
        if (left_s := due_s + LAST_WAIT_S - time.monotonic()) <= 0:
            break
        collect(left_s)
    return {"sent": sent, "answers": answers}


def stream(address: str, port: int, count: int, rate_mbps: float) -> dict[str, float]:
    """Send at a steady pace; what has become due while this process slept or was held up leaves at once.

    It is handed over together, where the kernel splits it into packets (UDP_SEGMENT, Linux 4.18): each by itself would
    cost a system call, of which a busy machine or a user-mode Linux guest does not make enough.
    """
    udp = open_socket()
    udp.connect((address, port))
    at_once = MOST_AT_ONCE if _kernel_splits(udp) else 1
    interval_s = (STREAM_BYTES + FRAME_OVERHEAD_BYTES) * 8 / (rate_mbps * 1e6)
    start_s = time.monotonic()
    sent = 0
    while sent < count:
        if (left_s := start_s + sent * interval_s - time.monotonic()) > 0:
            time.sleep(max(left_s, 0.0005))
        due = int((time.monotonic() - start_s) / interval_s) + 1
        numbers = range(sent, min(count, max(due, sent + 1), sent + at_once))
        packets = [PROBE.pack(b".", number, 0, 0, 0, 0).ljust(STREAM_BYTES, b"\0") for number in numbers]
        try:
            udp.send(b"".join(packets))
        except OSError:
            if at_once == 1:
                raise
            at_once = 1  # an interface that cannot; split by ourselves from now on
            udp.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
            continue
        sent += len(packets)
    return {"sent": count, "seconds": time.monotonic() - start_s}


def _kernel_splits(udp: socket.socket) -> bool:
    try:
        udp.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, STREAM_BYTES)
    except OSError:
        return False
    return True


def main(argv: list[str]) -> None:
    role, address, *numbers = argv
    if role == "answer":
        result: object = answer(address)
    elif role == "ask":
        result = ask(address, *(int(number) for number in numbers))
    else:
        port, count, rate_mbps = numbers
        result = stream(address, int(port), int(count), float(rate_mbps))
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
