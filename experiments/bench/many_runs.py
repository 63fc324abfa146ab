"""A folder of many runs for measuring and testing what reads them: some recorded here, on toy engines, and the others
made from their records by putting a slower link in the way. Every run is an ordinary folder with distinct records, and
its `manifest.json` says that its link was put in by arithmetic.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import yaml

from experiments.predict.formulas import transfer_ms
from experiments.schema import Config
from experiments.store import RunFolder
from experiments.summary import summarise_run
from nodes.records import RequestRecord, RoundRecord

MS = 1_000_000
SYSTEMS: list[Any] = [
    "device_ar", "edge_ar", "colocated_sd", "dsd", "dsd_sparse", "dssd", "dssd_sampled", "coupled",
    *({"system": "u_hlm", "as": f"u_hlm_{u}", "upload": {"threshold": u}} for u in (0.05, 0.3, 0.8)),
]  # fmt: skip
RTTS_MS = (0, 5, 10, 20, 30, 40, 50, 75, 100, 150)
RATES_MBPS = (1, 5, 10, 50, 100, None)
COPIED = ("run.json", "device.json", "edge.json", "quality.json")


def config_of(draft_length: int, requests: int = 6, **more: Any) -> Config:
    """What is recorded: the toy pair, in a target's time that makes links matter."""
    return Config.model_validate(
        {
            "name": "many",
            "systems": SYSTEMS,
            "draft_length": draft_length,
            "engine": {"engine": "toy", "vocab_size": 512, "acceptance": 0.7},
            "device": {"pace": {"forward_ms": 1.0}},
            "edge": {"pace": {"forward_ms": 8.0}},
            "workload": {"prompts": [f"t{i} t{i + 1}" for i in range(requests)], "max_new_tokens": 16},
            "energy": {"baseline_s": 0, "device": {"idle_w": 2, "full_w": 7}, "edge": {"idle_w": 20, "full_w": 65}},
            **more,
        }
    )


def make_runs(root: Path, n: int, bases: Sequence[RunFolder]) -> list[RunFolder]:
    """`n` complete runs in `root`, each of another link or draft length; `bases` are recorded runs, one a draft
    length."""
    places = product(RTTS_MS, RATES_MBPS, bases)
    made = []
    for i, (rtt_ms, rate_mbps, base) in zip(range(n), _again(list(places))):
        made.append(behind_link(base, root / f"run-{i:03d}", rtt_ms, rate_mbps, seed=i // (len(bases) * 60)))
    return made


def behind_link(base: RunFolder, path: Path, rtt_ms: float, rate_mbps: float | None, seed: int = 0) -> RunFolder:
    """The run that `base` would have been behind such a link, both ways alike: every exchange takes a round trip and
    its bytes' time longer, and all that follows is later. Tokens stay."""
    path.mkdir(parents=True)
    config = base.config()
    way = {"delay_ms": rtt_ms / 2, "rate_mbps": rate_mbps}
    for name in ("up", "down"):
        config["link"][name] = {**config["link"][name], **way}
    config["seed"] = seed
    (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    for name in COPIED:
        if (base.path / name).is_file():
            (path / name).write_bytes((base.path / name).read_bytes())
    seen = {"median": rtt_ms + 0.3, "min": rtt_ms, "p95": rtt_ms + 0.6, "probes": 0}
    link = {
        "backend": "arithmetic",
        "declared": {**config["link"]},
        "applied": {"up": way, "down": way},
        "observed": {"rtt_ms": seen},
        "problems": [],
        "skipped": ["everything: no packet went over such a link"],
    }
    (path / "link.json").write_text(json.dumps(link), encoding="utf-8")
    manifest = {**base.manifest(), "run_id": path.name, "seed": seed, "link": link, "derived_from": base.run_id}
    folder = RunFolder(path)
    folder.write_manifest(manifest)
    _write_records(base, path, rtt_ms, rate_mbps)
    folder.write_summary(summarise_run(folder))
    return folder


def _write_records(base: RunFolder, path: Path, rtt_ms: float, rate_mbps: float | None) -> None:
    rounds: dict[str, list[RoundRecord]] = {}
    for record in base.rounds().records:
        rounds.setdefault(record.request_id, []).append(record)
    later_ms = 0.0
    with (path / "rounds.jsonl").open("wb") as round_lines, (path / "requests.jsonl").open("wb") as request_lines:
        for request in base.requests().records:
            began_ms = later_ms
            settled_ms: list[float] = []  # how much later each token was
            for record in rounds.get(request.request_id, []):
                up_ms, down_ms = _added_ms(record, rtt_ms, rate_mbps)
                _put_off(record, later_ms, up_ms, down_ms)
                later_ms += up_ms + down_ms
                settled_ms += [later_ms - began_ms] * record.n_emitted
                round_lines.write(msgspec.json.encode(record) + b"\n")
            _put_off_request(request, began_ms, later_ms, settled_ms)
            request_lines.write(msgspec.json.encode(request) + b"\n")


def _added_ms(record: RoundRecord, rtt_ms: float, rate_mbps: float | None) -> tuple[float, float]:
    """Up and down; of a stream's later replies only their bytes' time, since the first waited for the round trip."""
    down_ms = transfer_ms(record.down_wire_bytes, rate_mbps) if record.received_ns else 0.0
    if not record.sent_ns:
        return 0.0, down_ms
    return rtt_ms / 2 + transfer_ms(record.up_wire_bytes, rate_mbps), rtt_ms / 2 + down_ms


def _put_off(record: RoundRecord, later_ms: float, up_ms: float, down_ms: float) -> None:
    added_ms = up_ms + down_ms
    record.network_ms += added_ms
    record.roundtrip_ms += added_ms
    for name, ms in (
        ("start_ns", later_ms), ("sent_ns", later_ms), ("edge_arrived_ns", later_ms + up_ms),
        ("received_ns", later_ms + added_ms), ("end_ns", later_ms + added_ms),
    ):  # fmt: skip
        if getattr(record, name):
            setattr(record, name, getattr(record, name) + round(ms * MS))


def _put_off_request(request: RequestRecord, began_ms: float, ended_ms: float, settled_ms: Sequence[float]) -> None:
    request.start_ns += round(began_ms * MS)
    request.end_ns += round(ended_ms * MS)
    request.e2e_ms += ended_ms - began_ms
    request.token_ms = [at + later for at, later in zip(request.token_ms, settled_ms)]
    if request.token_ms:
        request.ttft_ms = request.token_ms[0]
        several = len(request.token_ms) - 1
        request.tpot_ms = (request.token_ms[-1] - request.token_ms[0]) / several if several else None


def _again(places: Sequence[Any]) -> Iterator[Any]:
    while True:
        yield from places
