"""How long the page over two hundred runs takes: from folders on the disk, as `dssd report` finds them, to the file."""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from experiments.bench.many_runs import config_of, make_runs
from experiments.bench.records import record
from experiments.collection import collect
from experiments.report.many import write_many_report
from experiments.run import record_run
from experiments.schema import config_id
from experiments.store import create_run

RUNS, BOUND = 200, "<= 20"


def measure(runs: int = RUNS, draft_lengths: tuple[int, ...] = (2, 4)) -> list[dict[str, Any]]:
    """Two runs are recorded, the others made from them by putting other links in the way; only reading and writing the
    page is timed."""
    with tempfile.TemporaryDirectory(prefix="dssd-bench-") as root:
        bases = []
        for draft_length in draft_lengths:
            config = config_of(draft_length, requests=3)
            resolved = config.resolved()
            bases.append(create_run(Path(root, "bases"), resolved, config_id(resolved)))
            with redirect_stderr(StringIO() if not sys.stderr.isatty() else sys.stderr):
                record_run(config, bases[-1])
        make_runs(Path(root, "runs"), runs, bases)
        path = Path(root, "report.html")
        began_s = time.perf_counter()
        found = collect([Path(root, "runs")])
        read_s = time.perf_counter() - began_s
        write_many_report(found, path)
        whole_s = time.perf_counter() - began_s
        size_mb = path.stat().st_size / 1e6
        note = f"{len(found.runs)} runs, {len(found.rows)} rows, {size_mb:.1f} MB; {read_s:.2f} s of it reading"
        summed_s = time.perf_counter()
        collect([base.path for base in bases])  # not summed up yet: their summaries are made from their records
        summed_s = time.perf_counter() - summed_s
    return [
        record(f"report: the page over {runs} runs", whole_s, "s", BOUND, note),
        record("report: a run without a summary, read from its records", summed_s / len(bases), "s"),
    ]
