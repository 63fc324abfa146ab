"""A handful of runs in a sweep's folder: one recorded in this process, the others made from it behind other links."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from report_run import SYSTEMS, toy_run

from experiments.bench.many_runs import behind_link
from experiments.quality import measure_quality
from experiments.schema import Config
from experiments.store import RunFolder

RTTS_MS = (0, 20, 60)
RATES_MBPS = (5, None)


def base_run(path: Path, **setup) -> RunFolder:
    folder = toy_run(path, SYSTEMS, requests=setup.pop("requests", 6), **setup)
    config = Config.model_validate({"name": "toy", "systems": list(SYSTEMS), "engine": "toy"}).resolved()
    (path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    machine = {"host": "abc", "cpu": "<some> processor"}
    folder.write_manifest({"name": "toy", "status": "complete", "started": "2026-01-02T03:04:05", "machine": machine})
    return folder


def sweep_of_runs(root: Path) -> Path:
    """`root/sweep-...` with RTTS_MS x RATES_MBPS runs that say where on the axes they are, and one that failed."""
    base = base_run(root / "base")
    sweep = root / "grid" / "sweep-0123abcd"
    for rtt_ms in RTTS_MS:
        for rate_mbps in RATES_MBPS:
            folder = behind_link(base, sweep / f"run-{rtt_ms}-{rate_mbps}", rtt_ms, rate_mbps)
            axes = {"link.rtt_ms": rtt_ms, "link.rate_mbps": rate_mbps}
            folder.write_manifest({**folder.manifest(), "sweep": {"id": "0123abcd", "point": "p", "axes": axes}})
    (sweep / "sweep.json").write_text("{}")
    behind_link(base, sweep / "failed" / "run-x", 1, 1)
    return sweep


def threshold_runs(root: Path) -> None:
    """Two runs with joules of both nodes and a threshold each, whose answers the target has judged."""
    for i, threshold in enumerate((0.05, 0.6)):
        folder = toy_run(root / f"run{i}", ("edge_ar", "dssd", "u_hlm"), requests=6)
        entry = {"system": "u_hlm", "upload": {"threshold": threshold}}
        config = {"name": "toy", "systems": ["edge_ar", "dssd", entry], "engine": "toy", "seed": i}
        (folder.path / "config.yaml").write_text(yaml.safe_dump(Config.model_validate(config).resolved()))
        measure_quality(folder)


def paper_runs(root: Path) -> None:
    """Toy runs in `root/runs` that claim the DSSD paper's pair, behind three of its links."""
    base = base_run(root / "base", requests=5)
    settings = {"name": "paper", "systems": list(SYSTEMS), "engine": "toy", "draft_length": 8}
    config = Config.model_validate({**settings, "pace": "opt-125m-6.7b@h800"}).resolved()
    (base.path / "config.yaml").write_text(yaml.safe_dump(config))
    for rtt_ms, rate_mbps in ((20, 50), (50, 10), (20, 10)):
        behind_link(base, root / "runs" / f"run-{rtt_ms}-{rate_mbps}", rtt_ms, rate_mbps)


def set_manifest(run: Path, **changes) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, **changes}))
