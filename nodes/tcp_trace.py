"""What the kernel says of each TCP connection while the run goes on: one JSON line a sample, in `tcp.<node>.jsonl`.

TCP_INFO is asked of the node's own sockets, by their descriptors, so it works without root, in any namespace and on two
machines. A connection of which nothing changed is not written again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from transport.tcp_info import TcpInfo

INTERVAL_S = 0.05
FLUSH_S = 0.5

Connections = Callable[[], Iterable[tuple[str, TcpInfo]]]  # the system of each, as far as the node knows it


class TcpSample(Struct):
    """One connection at one instant of its node's monotonic clock. Counts are since the connection was made."""

    t_ns: int
    node: str
    system: str  # "" at the edge: it knows its connections by their ports
    local_port: int
    remote_port: int
    rtt_us: int  # smoothed, as this end's TCP sees it
    rtt_var_us: int
    cwnd_segments: int
    ssthresh_segments: int
    segment_bytes: int
    unacked_segments: int
    retransmits: int
    bytes_acked: int  # sent by this end and acknowledged
    bytes_received: int
    congestion: str = ""  # the algorithm in force


class TcpTrace:
    """Samples from a thread of its own until it is left; raises OSError on leaving if the trace could not be written
    whole."""

    def __init__(self, node: str, out: Path, connections: Connections, interval_s: float = INTERVAL_S) -> None:
        self.path = out / f"tcp.{node}.jsonl"
        self._node, self._connections, self._interval_s = node, connections, interval_s
        self._last: dict[tuple[int, int], TcpSample] = {}
        self._pending: list[TcpSample] = []
        self._encoder = msgspec.json.Encoder()
        self._stopping = threading.Event()
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name=f"tcp {node}", daemon=True)

    def __enter__(self) -> TcpTrace:
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        os.close(self._fd)
        if self._trouble:
            raise OSError(f"{self.path} is incomplete: {self._trouble}")

    def _run(self) -> None:
        flush_s = time.monotonic() + FLUSH_S
        while not self._stopping.wait(self._interval_s):
            self._sample()
            if time.monotonic() >= flush_s:
                self._flush()
                flush_s = time.monotonic() + FLUSH_S
        self._sample()
        self._flush()

    def _sample(self) -> None:
        for system, info in self._connections():
            now = self._as_sample(time.monotonic_ns(), system, info)
            before = self._last.get((info.local_port, info.remote_port))
            if before is None or msgspec.structs.replace(before, t_ns=now.t_ns) != now:
                self._last[info.local_port, info.remote_port] = now
                self._pending.append(now)

    def _as_sample(self, t_ns: int, system: str, info: TcpInfo) -> TcpSample:
        return TcpSample(
            t_ns=t_ns,
            node=self._node,
            system=system,
            local_port=info.local_port,
            remote_port=info.remote_port,
            rtt_us=info.rtt_us,
            rtt_var_us=info.rtt_var_us,
            cwnd_segments=info.cwnd_segments,
            ssthresh_segments=info.ssthresh_segments,
            segment_bytes=info.segment_bytes,
            unacked_segments=info.unacked_segments,
            retransmits=info.retransmits_total,
            bytes_acked=info.bytes_acked,
            bytes_received=info.bytes_received,
            congestion=info.congestion,
        )

    def _flush(self) -> None:
        data, self._pending = self._encoder.encode_lines(self._pending), []
        try:
            os.write(self._fd, data)
        except OSError as error:  # a full disk costs the trace, not the run
            self._trouble = str(error)
