"""Does the link follow its trace: is each change in force at its time, does what the trace lets through get through?

Volumes are counted as netem counts, whole frames; the sender offers more than the trace ever lets through, so what
arrives between its beginning and its end is what it allowed.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench.records import record
from netem import check
from netem.lab import Lab, exit_on_sigterm, open_lab
from netem.probe import FRAME_OVERHEAD_BYTES, STREAM_BYTES
from netem.spec import DIRECTIONS, Direction, LinkSpec
from netem.traces.files import DELIVERY_BYTES, read_trace, write_csv
from netem.traces.generate import Grid, handover, walk
from netem.traces.player import Player
from netem.traces.trace import Point

LATE_BOUND, VOLUME_BOUND = "<= 20", "<= 3"
FINE_S, LONG_S = 0.05, 15.0
OFFERED = 1.2  # of the trace's highest rate
LEAD_S = 0.5  # so that a queue is there when the trace begins


def measure_traces() -> list[dict[str, Any]]:
    """How late changes are, without and under load, and the volume of a Mahimahi trace each way."""
    with tempfile.TemporaryDirectory(prefix="dssd-bench-") as path, exit_on_sigterm():
        folder = Path(path)
        return [*_fine(folder), *_volumes(folder)]


def _fine(folder: Path) -> list[dict[str, Any]]:
    """Rate, delay and loss of both ways, twenty times a second."""
    points = [
        Point(point.t_s, point.rate_mbps, point.delay_ms, loss_pct=float(i % 3))
        for i, point in enumerate(walk(Grid(LONG_S, FINE_S, 1), delay_ms=10.0))
    ]
    write_csv(folder / "fine.csv", points)
    with open_lab(LinkSpec.model_validate({"trace": {"file": str(folder / "fine.csv"), "loop": False}})) as lab:
        log = _play(lab, folder / "fine.jsonl", LONG_S)
    return _late("trace: a change of rate, delay and loss, late by", log, f"both ways, every {1e3 * FINE_S:g} ms")


def _volumes(folder: Path) -> list[dict[str, Any]]:
    """Both ways at once, each with a Mahimahi trace of its own, gaps in which nothing passes among them."""
    files = {which: folder / which for which in DIRECTIONS}
    deliveries = {which: _mahimahi(files[which], seed) for seed, which in enumerate(DIRECTIONS, 1)}
    ways = {which: {"trace": {"file": str(file), "loop": False}} for which, file in files.items()}
    spec = LinkSpec.model_validate(ways)
    arrived: dict[str, list[int]] = {}
    with open_lab(spec) as lab:
        offered_mbps = {which: OFFERED * max(read_trace(files[which]).column("rate_mbps")) for which in DIRECTIONS}
        threads = [
            threading.Thread(target=lambda w=which: arrived.update({w: _stream(lab, w, offered_mbps[w])}))
            for which in DIRECTIONS
        ]
        for thread in threads:
            thread.start()
        time.sleep(LEAD_S + 0.5)  # the probes' interpreters start
        zero_ns = time.time_ns()
        log = _play(lab, folder / "volume.jsonl", LONG_S)
        for thread in threads:
            thread.join()
    records = _late("trace: a change of rate under load, late by", log, "both ways full, every 100 ms")
    for which in DIRECTIONS:
        got = sum(zero_ns <= at_ns < zero_ns + LONG_S * 1e9 for at_ns in arrived[which])
        got_bytes, want_bytes = got * (STREAM_BYTES + FRAME_OVERHEAD_BYTES), deliveries[which] * DELIVERY_BYTES
        off_pct = 100 * abs(got_bytes / want_bytes - 1)
        note = f"{got_bytes / 1e6:.2f} MB in {LONG_S:g} s where the trace delivers {want_bytes / 1e6:.2f} MB"
        records.append(record(f"trace: volume {which} of a Mahimahi trace, off by", off_pct, "%", VOLUME_BOUND, note))
    return records


def _mahimahi(path: Path, seed: int) -> int:
    """A trace of a moving cell's deliveries; how many there are."""
    points = handover(Grid(LONG_S, 0.01, seed), rate_mbps=18.0, rim_mbps=1.0, cell_s=4.0, gap_s=0.3)
    rng = np.random.default_rng(seed)
    shaken = [(point.rate_mbps or 0.0) * rng.uniform(0.5, 1.5) for point in points]
    due = np.cumsum([rate * 1e6 * 0.01 / 8 / DELIVERY_BYTES for rate in shaken])
    times_ms = np.searchsorted(due, np.arange(1, int(due[-1]) + 1)) * 10
    lines = [*times_ms.tolist(), round(LONG_S * 1e3)]
    path.write_text("\n".join(map(str, lines)) + "\n", encoding="utf-8")
    return len(lines)


def _stream(lab: Lab, which: Direction, rate_mbps: float) -> list[int]:
    """Arrival times, wall clock, of a steady stream that outlasts the trace."""
    sender, receiver = (lab.device, lab.edge) if which == "up" else (lab.edge, lab.device)
    seconds = LONG_S + 2 * LEAD_S + 1.0
    count = round(seconds * rate_mbps * 1e6 / 8 / (STREAM_BYTES + FRAME_OVERHEAD_BYTES))
    with check._answerer(receiver) as (port, finish):
        check._run(sender, ["stream", receiver.address, port, count, rate_mbps], 1e3 * seconds)
        return list(finish()["arrivals_ns"])


def _play(lab: Lab, log: Path, seconds: float) -> list[dict[str, Any]]:
    with Player(lab, log) as player:
        player.follow(time.monotonic_ns())
        time.sleep(seconds)
    player.check()
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def _late(name: str, log: Sequence[dict[str, Any]], how: str) -> list[dict[str, Any]]:
    """From each change's time to the kernel's answer, of 99 in a hundred and of all; one that was skipped counts as
    late as the one that came in its place."""
    late_ms = sorted((line["done_ns"] - line["due_ns"]) / 1e6 for line in log)
    skipped = sum(line["outcome"] == "skipped" for line in log)
    note = f"99 % of {len(late_ms)} changes, {how}; median {late_ms[len(late_ms) // 2]:.2f} ms, {skipped} skipped"
    return [
        record(name, late_ms[int(0.99 * (len(late_ms) - 1))], "ms", LATE_BOUND, note),
        record(f"{name}, the latest", late_ms[-1], "ms"),
    ]
