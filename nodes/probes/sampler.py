"""Reads the probes of a node at a steady rate and writes what they said, as it happens, as lines of JSON:

    {"header": {node, interval_ms, clock, findings, energy_source, probes: [name, ...],
                columns: [[channel, unit, status, total, renewed_ms], ...] of each probe}}
    {"p": index of the probe, "t": t_ns, "d": ns the read took, "v": one value per column, null if not read}
    {"gap": {"t_ns", "missed": ticks}}   {"error": {"t_ns", "probe", "what"}}   {"footer": {clock, cost ...}}

One line per read instead of one per value keeps the cost down; `read_samples` gives them back in long format.
`t_ns` is CLOCK_MONOTONIC halfway through the read. The sampler writes its own CPU time and lateness as one
more probe. By itself: python -m nodes.probes.sampler --node edge --out DIR --pid 123 --probe rapl
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from nodes.probes import (
    EnergySource,
    Finding,
    Probe,
    ProbeError,
    Reading,
    choose_energy_source,
    make_probe,
    parse_probe,
    try_probe,
)

ENCODER = msgspec.json.Encoder(enc_hook=float)  # a probe of another package may give numpy's numbers
NAP_S = 0.1  # the longest sleep that does not notice that it is time to stop
OWN_COLUMNS = [
    [channel, unit, "measured", False, 0.0]
    for channel, unit in (("cpu", "s"), ("ticks", "count"), ("missed", "count"), ("late_max", "ms"))
]


class Sample(NamedTuple):
    """One value of one channel at one instant. `total`: it counts towards the node's energy; `renewed_ms`: of joules
    integrated from watts, how often the sensor renews these (0: they are counted).
    """

    t_ns: int
    node: str
    probe: str
    channel: str
    value: float
    unit: str
    status: str
    total: bool
    renewed_ms: float = 0.0


def clock_pair() -> dict[str, Any]:
    """The monotonic and the wall clock at one instant, and the boot they belong to."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    before_ns, wall_ns, after_ns = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
    return {
        "monotonic_ns": (before_ns + after_ns) // 2,
        "wall_ns": wall_ns,
        "error_ns": after_ns - before_ns,
        "boot_id": boot.read_text().strip() if boot.exists() else "",
    }


Read = tuple[int, int, int, list[Reading]]  # a probe's index, ns before and after, what it said


class Sampler:
    """Tries the probes, then samples those that work in a thread from `start` to `stop`; also a context
    manager.

    `out` is the file to append to, or a folder that gets `power.<node>.jsonl`. Blocking probes get a thread
    each, so that a slow plug does not delay a fast counter. Whatever a tick missed is recorded and never made
    up.
    """

    def __init__(
        self,
        probes: Sequence[Probe],
        node: str,
        out: Path,
        interval_ms: float = 20.0,
        *,
        flush_s: float = 0.25,
        paced: bool = False,
        shared: bool = False,
        energy_source: EnergySource | None = None,
    ) -> None:
        self.node, self.interval_ms, self.flush_s = node, interval_ms, flush_s
        self.path = out / f"power.{node}.jsonl" if out.is_dir() else out
        self.findings: list[Finding] = [try_probe(probe) for probe in probes]
        self.energy_source = energy_source or choose_energy_source(self.findings, paced=paced, shared=shared)
        self.probes = list(probes)
        self.columns = [{c.name: i for i, c in enumerate(f.channels)} for f in self.findings]
        self.ticks = self.missed = self.errors = 0
        self.late_ms: list[float] = []
        self.cpu_s: dict[int, float] = {}  # of each lane, by its number
        self.write_error = ""  # what ended a lane
        self.footer: dict[str, Any] = {}
        self._records: deque[dict[str, Any] | Read] = deque()  # its ends are atomic: lanes need no lock
        self._unwritten = b""
        self._stopping = threading.Event()
        self._lanes: list[threading.Thread] = []

    def start(self) -> Sampler:
        """Write the header and begin. Raises OSError if the file cannot be written."""
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            os.write(self._fd, b"\n")  # an earlier sampler was killed within a line
        self._records.append({"header": self.header()})
        self._flush()
        live = [i for i, finding in enumerate(self.findings) if finding.usable]
        lanes = [[i for i in live if not self.probes[i].blocking]]
        lanes += [[i] for i in live if self.probes[i].blocking]
        for number, lane in enumerate(lanes):
            name = f"sampler-{number}"
            thread = threading.Thread(target=self._run, args=(number, lane), name=name, daemon=True)
            self._lanes.append(thread)
            thread.start()
        return self

    def header(self) -> dict[str, Any]:
        """What a reader needs to understand the lines that follow."""
        source = self.energy_source
        columns = [
            [[c.name, c.unit, c.status, c.total and f.probe in source.probes, c.renewed_ms] for c in f.channels]
            for f in self.findings
        ]
        return {
            "node": self.node,
            "interval_ms": self.interval_ms,
            "clock": clock_pair(),
            "pid": os.getpid(),
            "probes": [*(f.probe for f in self.findings), "sampler"],
            "columns": [*columns, OWN_COLUMNS],
            "energy_source": asdict(source),
            "findings": [asdict(f) for f in self.findings],
        }

    def stop(self) -> dict[str, Any]:
        """Read everything once more, write what is left and the footer, close the probes; returns the footer.

        Raises OSError if a part of the trace could not be written.
        """
        self._stopping.set()
        for thread in self._lanes:
            thread.join(timeout=10.0)
        self.footer = {"clock": clock_pair(), **self.cost()}
        self._records.append({"footer": self.footer})
        try:
            self._flush()
        except OSError as error:
            raise OSError(error.errno, f"{self.path} is incomplete: {error.strerror}") from None
        finally:
            os.close(self._fd)
            for probe in self.probes:
                probe.close()
        if self.write_error:
            raise OSError(f"{self.path} is incomplete: {self.write_error}")
        return self.footer

    def cost(self) -> dict[str, Any]:
        """The sampler's own CPU seconds and how late its ticks were."""
        late = sorted(self.late_ms)
        return {
            "cpu_s": sum(self.cpu_s.values()),
            "ticks": self.ticks,
            "missed": self.missed,
            "errors": self.errors,
            "late_ms": {
                "median": statistics.median(late),
                "p99": late[int(0.99 * (len(late) - 1))],
                "max": late[-1],
            }
            if late
            else {},
        }

    def __enter__(self) -> Sampler:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _run(self, number: int, lane: list[int]) -> None:
        try:
            self._sample(number, lane)
        except Exception as error:  # a lane that dies takes its probes' trace along: never silently
            self.write_error = f"sampling ended early: {error!r}"

    def _sample(self, number: int, lane: list[int]) -> None:
        """One lane: its probes at the interval, each no more often than it wants, and no waking up when none
        wants to be read. Lane 0 keeps the file and the count.
        """
        most_often_ms = min((self.probes[index].every_ms for index in lane), default=0.0)
        interval_ns = int(max(self.interval_ms, most_often_ms) * 1e6)
        due_ns = time.monotonic_ns()
        next_flush_ns = due_ns
        probe_due_ns = dict.fromkeys(lane, due_ns)
        failing: set[int] = set()
        last = False
        while True:
            now_ns = time.monotonic_ns()
            late_ns = now_ns - due_ns
            for index in lane:
                if last or now_ns >= probe_due_ns[index]:
                    self._read(index, failing)
                    probe_due_ns[index] += max(interval_ns, int(self.probes[index].every_ms * 1e6))
                    probe_due_ns[index] = max(probe_due_ns[index], now_ns)  # never catch up in a burst
            if number:
                self.cpu_s[number] = time.thread_time()
            else:
                self.ticks += 1
                self.late_ms.append(max(0.0, late_ns / 1e6))
                if now_ns >= next_flush_ns or last:
                    next_flush_ns = now_ns + int(self.flush_s * 1e9)
                    self.cpu_s[number] = time.thread_time()
                    self._own_line(now_ns)
                    with suppress(OSError):  # the disk may have room again by the next flush, or by the last
                        self._flush()
            if last:
                return
            due_ns += interval_ns
            behind = (time.monotonic_ns() - due_ns) // interval_ns
            if behind > 0:  # whole ticks went by: they are lost, and we say so
                due_ns += behind * interval_ns
                if number == 0:
                    self.missed += behind
                    self._records.append({"gap": {"t_ns": due_ns, "missed": behind}})
            last = self._sleep_until(due_ns)

    def _sleep_until(self, due_ns: int) -> bool:
        """True when it is time to stop. A plain sleep where it is short: waiting on an Event costs twice the CPU."""
        left_s = (due_ns - time.monotonic_ns()) / 1e9
        if left_s > NAP_S:
            self._stopping.wait(left_s)
        elif left_s > 0:
            time.sleep(left_s)
        return self._stopping.is_set()

    def _read(self, index: int, failing: set[int]) -> None:
        before_ns = time.monotonic_ns()
        try:
            readings = self.probes[index].read()
        except Exception as error:  # a sensor pulled out must not end the trace of the others
            self.errors += 1
            if index not in failing:
                failing.add(index)
                what = {"t_ns": before_ns, "probe": self.probes[index].name, "what": repr(error)}
                self._records.append({"error": what})
            return
        self._records.append((index, before_ns, time.monotonic_ns(), readings))
        if failing:
            failing.discard(index)

    def _own_line(self, now_ns: int) -> None:
        since = self.late_ms[-max(1, int(self.flush_s * 1e3 / self.interval_ms)) :]
        values = [sum(self.cpu_s.values()), self.ticks, self.missed, max(since)]
        self._records.append({"p": len(self.probes), "t": now_ns, "d": 0, "v": values})

    def _flush(self) -> None:
        """All that can wait waits until here: in one go, with warm caches, it costs a third of what it would tick by
        tick. Raises OSError where the disk does not take all of it: the rest, which may begin within a line, waits on.
        """
        records = [self._records.popleft() for _ in range(len(self._records))]
        self._unwritten += ENCODER.encode_lines([r if isinstance(r, dict) else self._line(*r) for r in records])
        while self._unwritten:
            self._unwritten = self._unwritten[os.write(self._fd, self._unwritten) :]

    def _line(self, index: int, before_ns: int, after_ns: int, readings: list[Reading]) -> dict[str, Any]:
        """What is no number, and what the trial did not see, has no place in the trace."""
        columns = self.columns[index]
        values: list[float | None] = [None] * len(columns)
        try:
            for channel, value, _, _ in readings:
                if channel in columns and math.isfinite(value):
                    values[columns[channel]] = value
        except (TypeError, ValueError) as error:  # what another package's probe calls a reading
            self.errors += 1
            return {"error": {"t_ns": before_ns, "probe": self.probes[index].name, "what": repr(error)}}
        return {"p": index, "t": (before_ns + after_ns) // 2, "d": after_ns - before_ns, "v": values}


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The file's lines. One cut short by a kill is left out, at the end or before a restarted sampler's
    header.

    Raises ProbeError, naming the line, for one that is broken elsewhere.
    """
    broken = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                broken = broken or number
                continue
            if broken and "header" not in record:
                break
            broken = 0
            yield record
        else:
            return
    raise ProbeError(f"{path}: line {broken} is no record, and it is not where a kill would have left it")


def read_samples(path: Path) -> Iterator[Sample]:
    """The file in long format, in the order written. Raises ProbeError for a file that is not a trace."""
    header: dict[str, Any] | None = None
    for record in read_records(path):
        if "header" in record:
            header = record["header"]
        elif header is None:
            raise ProbeError(f"{path} does not begin with a sampler's header")
        elif "v" in record:
            node, probe, t_ns = header["node"], header["probes"][record["p"]], record["t"]
            for (channel, *about), value in zip(header["columns"][record["p"]], record["v"]):
                if value is not None:
                    yield Sample(t_ns, node, probe, channel, value, *about)


def main(argv: Sequence[str] | None = None) -> None:
    """A sampler as a process: until SIGTERM or SIGINT, or until every traced process has ended."""
    parser = argparse.ArgumentParser(prog="python -m nodes.probes.sampler", description=main.__doc__)
    parser.add_argument("--node", required=True, help="whose trace this is")
    parser.add_argument("--out", required=True, type=Path, help="file to append to, or a folder")
    parser.add_argument("--pid", type=int, action="append", default=[], help="a process to trace; repeatable")
    parser.add_argument("--interval-ms", type=float, default=20.0)
    parser.add_argument(
        "--probe",
        action="append",
        default=[],
        metavar="NAME:OPTION=VALUE,...",
        help="a probe to read besides psutil_trace; repeatable",
    )
    parser.add_argument("--shared", action="store_true", help="another node runs on this machine too")
    args = parser.parse_args(argv)
    try:
        specs = dict(parse_probe(spec) for spec in args.probe)
        trace = {"pids": args.pid, **({"net_pid": args.pid[0]} if args.pid else {})}
        specs["psutil_trace"] = {**trace, **specs.get("psutil_trace", {})}
        probes = [make_probe(name, **options) for name, options in specs.items()]
    except ProbeError as error:
        parser.error(str(error))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with Sampler(probes, args.node, args.out, args.interval_ms, shared=args.shared):
        while not stop.wait(0.5) and (not args.pid or any(map(_alive, args.pid))):
            pass


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    main()
