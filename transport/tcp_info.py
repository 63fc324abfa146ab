"""What the kernel knows of a TCP connection: its round trip, its congestion window, what it had to resend."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

TCP_INFO_BYTES = 136  # up to tcpi_bytes_received; longer answers are cut, shorter ones refused
NAME_BYTES = 16  # of a congestion control
FIELDS = struct.Struct("=8B24I4Q")


@dataclass(frozen=True)
class TcpInfo:
    """One sample of Linux's TCP_INFO, with the ports by which the two ends can tell connections apart."""

    local_port: int
    remote_port: int
    remote_address: str
    rtt_us: int
    rtt_var_us: int
    rto_us: int
    cwnd_segments: int
    ssthresh_segments: int
    segment_bytes: int
    unacked_segments: int
    retransmits_total: int
    bytes_acked: int
    bytes_received: int
    congestion: str  # the algorithm in force


def sample(fd: int) -> TcpInfo | None:
    """TCP_INFO of a descriptor that somebody else owns; None if it is no connected TCP socket (any more).

    The descriptor is borrowed, not duplicated: a duplicate would keep a connection open that its owner
    closed.
    """
    try:
        borrowed = socket.socket(fileno=fd)
    except OSError:
        return None
    try:
        local, remote = borrowed.getsockname(), borrowed.getpeername()
        raw = borrowed.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
        values = FIELDS.unpack(raw)
        congestion = borrowed.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, NAME_BYTES)
    except (OSError, struct.error):
        return None
    finally:
        borrowed.detach()
    ints = values[8:32]
    return TcpInfo(
        local_port=local[1],
        remote_port=remote[1],
        remote_address=remote[0],
        rtt_us=ints[15],
        rtt_var_us=ints[16],
        rto_us=ints[0],
        cwnd_segments=ints[18],
        ssthresh_segments=ints[17],
        segment_bytes=ints[2],
        unacked_segments=ints[4],
        retransmits_total=ints[23],
        bytes_acked=values[34],
        bytes_received=values[35],
        congestion=congestion.rstrip(b"\0").decode(),
    )
