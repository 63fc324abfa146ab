"""A run whose edge had another clock comes out as the same run on one clock, within the error it states."""

from __future__ import annotations

import json

import pytest
from far_clock import ELSEWHERE, HANDSHAKE, HOUR_NS, FarEdge
from handmade import MS, a_request, a_round
from report_run import WATTS, rewrite, toy_run

from experiments.clocks import describe_clock, edge_clock, round_on_device_clock, sample_on_device_clock
from experiments.energy import energy_rows
from experiments.energy_files import run_energy
from experiments.store import RunFolder
from experiments.summary import summarise_run
from nodes.alignment import Alignment
from nodes.probes.energy import counters
from nodes.probes.sampler import Sample

SYSTEMS = ("edge_ar", "dssd", "dssd_lookahead")


def test_hours_and_200_ppm_change_nothing(tmp_path):
    folder = toy_run(tmp_path, SYSTEMS)
    here, joules = summarise_run(folder), run_energy(folder).block["nodes"]
    far = FarEdge(offset_ns=-7 * HOUR_NS, drift_ppm=200.0)
    move_edge(folder, far)
    there = summarise_run(folder)
    assert here["clock"]["error_ms"] == 0 and here["clock"]["same"]
    clock = there["clock"]
    assert not clock["same"] and clock["path"] == "shaped"
    assert clock["drift_ppm"] is None or clock["drift_ppm"] == pytest.approx(200, abs=60)
    assert 0 < clock["error_ms"] < 2.5
    for one, other in zip(here["systems"], there["systems"]):
        for part, ms in one["parts_ms"].items():
            assert other["parts_ms"][part] == pytest.approx(ms, abs=clock["error_ms"] + 1e-3), part
    moved = run_energy(folder).block["nodes"]
    for node in WATTS:
        assert moved[node]["joules"] == pytest.approx(joules[node]["joules"], rel=0.005)


def test_clocks_that_were_not_compared_are_not_subtracted(tmp_path):
    folder = toy_run(tmp_path, SYSTEMS, boots=("one", "another"))
    (tmp_path / "device.json").write_text(json.dumps({"clock": {"same": False, "offset": None, "path": "none"}}))
    assert edge_clock(folder.path) is None
    summary = summarise_run(folder)
    assert summary["clock"]["compared"] is False and summary["clock"]["error_ms"] is None
    for figures in summary["systems"]:
        assert "network_up" not in figures["parts_ms"] and "network" in figures["parts_ms"]
        assert figures["energy_edge_j_per_token"] is None


@pytest.mark.parametrize("lost", [(), ("edge",), ("device", "edge")])
@pytest.mark.parametrize("clock", [None, {}, {"problem": "no answer"}])
@pytest.mark.parametrize("shared", [True, False])
def test_nothing_but_one_machine_stands_for_a_comparison(shared, clock, lost, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"shared_machine": shared}))
    if clock is not None:
        record = {"same": False, "path": "unshaped", "offset": None, "problem": "", **clock}
        (tmp_path / "device.json").write_text(json.dumps({"clock": record}))
    for node in {"device", "edge"} - set(lost):
        header = {"node": node, "clock": {"boot_id": "one" if shared or node == "device" else "another"}}
        (tmp_path / f"power.{node}.jsonl").write_text(json.dumps({"header": header}) + "\n")
    one_clock = shared and not (clock or {}).get("problem")
    said = describe_clock(tmp_path, [MS])
    assert (said["compared"], said["same"]) == (one_clock, one_clock)
    assert said["error_ms"] == (0 if one_clock else None)


def move_edge(folder: RunFolder, far: FarEdge) -> None:
    """Rewrite what the edge stamped as `far` would have, with the comparison that the device would have made."""
    requests = folder.requests().records
    alignment = Alignment("tcp://edge:5555", None, True, far.call)
    far.now_ns = requests[0].start_ns - 100_000_000
    alignment.measure(ELSEWHERE, HANDSHAKE)
    far.now_ns = requests[-1].end_ns
    alignment.measure(ELSEWHERE, HANDSHAKE)
    (folder.path / "device.json").write_text(json.dumps({"clock": alignment.record()}))

    def stamped(record, key):
        if record.get(key):
            record[key] = far.at(record[key])

    rewrite(folder.path / "rounds.jsonl", lambda record: stamped(record, "edge_arrived_ns"))
    rewrite(folder.path / "power.edge.jsonl", lambda record: stamped(record, "t"))


def test_a_far_edges_power_lands_in_the_phases_that_drew_it(tmp_path):
    """80 W while it verifies and 10 W otherwise, stamped hours away by a clock that is 200 ppm fast."""
    far = FarEdge(offset_ns=9 * HOUR_NS, drift_ppm=200.0)
    alignment = Alignment("tcp://edge:5555", None, False, far.call)
    begin_ms = 1_000_000  # on the device's clock; the comparisons lie before and after
    far.now_ns = (begin_ms - 15_000) * MS
    alignment.measure(ELSEWHERE, HANDSHAKE)
    far.now_ns = (begin_ms + 15_000) * MS
    alignment.measure(ELSEWHERE, HANDSHAKE)
    (tmp_path / "device.json").write_text(json.dumps({"clock": alignment.record()}))
    clock = edge_clock(tmp_path)

    there = [a_round(n, start_ms=begin_ms + 100 * n) for n in range(20)]
    verifying = [(r.edge_arrived_ns + 5 * MS, r.edge_arrived_ns + 45 * MS) for r in there]
    samples, joules = [], 0.0
    for t_ns in range((begin_ms - 50) * MS, (begin_ms + 2_050) * MS, MS):
        samples.append(Sample(far.at(t_ns), "edge", "meter", "node", joules, "j", "measured", True))
        joules += (80.0 if any(a <= t_ns < b for a, b in verifying) else 10.0) / 1e3
    for record in there:
        record.edge_arrived_ns = far.at(record.edge_arrived_ns)

    rounds = [round_on_device_clock(record, clock) for record in there]
    counted = counters(sample_on_device_clock(sample, clock) for sample in samples)
    request = a_request(e2e_ms=2_000.0, start_ms=begin_ms)
    rows = {row["phase"]: row for row in energy_rows([request], rounds, counted, True, {}) if row["system"]}
    assert rows["verify"]["joules"] == pytest.approx(80 * 20 * 0.040, rel=0.02)
    for phase in ("queue", "sample"):
        assert rows[phase]["joules"] / rows[phase]["seconds"] == pytest.approx(10.0, rel=0.5), phase
    assert sum(row["joules"] for row in rows.values()) == pytest.approx(20 * (80 * 0.040 + 10 * 0.060), rel=0.005)
