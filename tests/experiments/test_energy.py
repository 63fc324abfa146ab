"""Joules by node, phase, system and request: whatever the trace, the parts are the whole."""

from __future__ import annotations

import csv
import json
import time

import pytest
import yaml
from handmade import MS, a_request, a_round, watts
from report_run import WATTS, rewrite, toy_run

from experiments.energy import UNRESOLVED, energy_rows, known_requests, told_apart, wasted
from experiments.energy_files import COLUMNS, emissions_row, run_energy, write_energy
from experiments.energy_table import energy_lines, energy_table
from experiments.joules import energy_of
from experiments.report.energy import j_per_token_by_phase
from experiments.store import RunFolder
from experiments.summary import summarise_run
from nodes.probes.energy import counters
from nodes.probes.sampler_process import SamplerProcess

SYSTEMS = ("device_ar", "edge_ar", "colocated_sd", "dssd", "dssd_lookahead")
REQUEST = a_request(e2e_ms=200.0)
ROUNDS = [a_round(1), a_round(2, start_ms=100)]  # two rounds of 100 ms


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> RunFolder:
    return toy_run(tmp_path_factory.mktemp("run"), SYSTEMS)


def rows_of(device_w=5.0, edge_w=80.0, requests=(REQUEST,), rounds=ROUNDS, idle_w=None, until_ms=1000):
    counted = counters([*watts("device", device_w, until_ms=until_ms), *watts("edge", edge_w, until_ms=until_ms)])
    return energy_rows(requests, rounds, counted, True, idle_w or {})


def joules(rows, node, phase):
    return sum(row["joules"] for row in rows if (row["node"], row["phase"]) == (node, phase))


def test_a_steady_draw_is_shared_by_time():
    rows = rows_of()
    per_round_ms = {
        "device": {"draft": 20, "encode": 1, "wait": 75, "resolve": 4},
        "edge": {"queue": 5, "verify": 40, "sample": 5, "idle": 50},
    }
    for node, w in (("device", 5.0), ("edge", 80.0)):
        for phase, ms in per_round_ms[node].items():
            between = w * 0.8 if phase == "idle" else 0.0  # from the request's end to the trace's
            assert joules(rows, node, phase) == pytest.approx(2 * w * ms / 1e3 + between), phase


def test_above_idle_is_what_is_left():
    rows = rows_of(idle_w={"device": 5.0, "edge": 20.0})
    for row in rows:
        left = 0.0 if row["node"] == "device" else row["joules"] * 60 / 80
        assert row["joules_above_idle"] == pytest.approx(left, abs=1e-9)
    assert all(row["joules_above_idle"] is None for row in rows_of())


def test_short_phases_are_made_one_and_the_sum_stays():
    rows = rows_of()  # 10 ms between samples: 2 ms of encoding and 8 of resolving are less
    shown = told_apart(rows, ("system",))
    assert {row["phase"] for row in shown if row["node"] == "device"} == {"draft", "wait", "idle", UNRESOLVED}
    assert joules(shown, "device", UNRESOLVED) == pytest.approx(2 * 5.0 * (1 + 4) / 1e3)
    assert sum(row["joules"] for row in shown) == pytest.approx(sum(row["joules"] for row in rows))


def test_rejected_drafts_have_their_joules():
    lost = wasted(rows_of(), ROUNDS)  # 2 of 4 drafted tokens are turned down in each round
    assert lost["rejected_drafts_j"] == pytest.approx(5.0 * 2 * 0.020 / 2)
    assert lost["discarded_lookahead_j"] == lost["unverified_tokens_j"] == 0.0


def test_drafting_at_the_edge_is_told_from_verifying():
    """20 of the 40 ms in forwards are the edge's own draft model's: as many joules, half of them for nothing."""
    rounds = [a_round(n, start_ms=100 * (n - 1), draft_ms=0.0, edge_draft_ms=20.0) for n in (1, 2)]
    rows = rows_of(rounds=rounds)
    assert joules(rows, "edge", "draft") == pytest.approx(joules(rows, "edge", "verify")) == pytest.approx(80 * 0.040)
    assert sum(row["joules"] for row in rows if row["node"] == "edge") == pytest.approx(80.0)
    lost = wasted(rows, rounds, "edge")
    assert lost["rejected_drafts_j"] == pytest.approx(80.0 * 2 * 0.020 / 2)
    assert wasted(rows, rounds) == dict.fromkeys(lost, 0.0), "the device drafted nothing"


def test_a_wrong_guess_costs_all_of_its_drafting_and_a_right_one_what_was_turned_down():
    for hit, discarded, ahead_rejected in ((False, 0.012, 0.0), (True, 0.0, 0.012 * 2 / 4)):
        rounds = [a_round(1, lookahead_ms=12.0, lookahead_hit=hit), a_round(2, start_ms=100)]
        rows = rows_of(rounds=rounds)
        assert joules(rows, "device", "lookahead") == pytest.approx(5.0 * 0.012)
        assert joules(rows, "device", "wait") == pytest.approx(5.0 * (0.150 - 0.012))
        lost = wasted(rows, rounds)
        assert lost["discarded_lookahead_j"] == pytest.approx(5.0 * discarded)
        assert lost["rejected_drafts_j"] == pytest.approx(5.0 * (0.020 + ahead_rejected))


def test_tokens_that_nobody_verified_have_their_joules():
    silent = {"sent_ns": 0, "received_ns": 0, "edge_arrived_ns": 0, "roundtrip_ms": 0.0, "network_ms": 0.0,
              "edge_ms": 0.0, "queue_ms": 0.0, "verify_ms": 0.0, "encode_ms": 0.0}  # fmt: skip
    rounds = [a_round(1, end_ns=24 * MS, n_unverified=4, **silent)]
    lost = wasted(rows_of(requests=[a_request(e2e_ms=24.0)], rounds=rounds), rounds)
    assert lost["unverified_tokens_j"] == pytest.approx(5.0 * 0.020)
    assert lost["rejected_drafts_j"] == 0.0


@pytest.mark.parametrize("lost", [(), ("device", 1050, 3000), ("edge", 450, 3000), ("device", 505, 595)])
def test_what_a_trace_lost_takes_its_requests_along(lost):
    """Ten requests alike under a steady draw: whatever is lost of a trace, the figure's joules per token, the rows' of
    the known requests, and the summary's are the draw's."""
    requests = [a_request(request=f"r{n}", start_ms=200 * n) for n in range(10)]
    rounds = {r.request_id: [a_round(m, request=r.request_id, start_ms=200 * n + 100 * m) for m in (0, 1)]
              for n, r in enumerate(requests)}  # fmt: skip
    samples = [*watts("device", 5.0, until_ms=2000), *watts("edge", 80.0, until_ms=2000)]
    node, *span_ms = lost or ("", 0, 0)
    counted = counters(s for s in samples if s.node != node or not span_ms[0] < s.t_ns / MS < span_ms[1])
    known = known_requests(requests, rounds, counted, True)
    assert bool(lost) == (len(known) < 10) and len(known) >= 2
    everything = [record for mine in rounds.values() for record in mine]
    rows = [r for r in energy_rows(requests, everything, counted, True, {}) if r["request_id"] in known]
    shown = j_per_token_by_phase(requests, rounds, counted, True)["dssd"]
    summary = energy_of(requests, counted, {}, 0.0)
    for node, w in (("device", 5.0), ("edge", 80.0)):
        each = w * 0.2 / 6
        assert sum(j for (of_node, _), j in shown.items() if of_node == node) == pytest.approx(each), node
        assert sum(r["joules"] for r in rows if r["node"] == node) / len(known) / 6 == pytest.approx(each), node
        assert getattr(summary, f"{node}_per_token") == pytest.approx(each), node


def test_a_run_sums_to_what_was_counted(folder):
    energy = run_energy(folder)
    for node in WATTS:
        found = energy.block["nodes"][node]
        assert found["joules"] == pytest.approx(found["counted_joules"], rel=1e-9)
        for by in ("system", "request"):
            shown = sum(row["joules"] for row in energy_table(energy, by) if row["node"] == node)
            assert shown == pytest.approx(found["counted_joules"], rel=0.005)
        assert found["joules"] / found["seconds"] == pytest.approx(WATTS[node])


def test_what_nothing_counted_is_no_ones_and_is_told(tmp_path):
    """A counter that starts again in a request: that request, the whole node and the emissions have no joules."""
    folder = toy_run(tmp_path, ["dssd"])
    torn, *whole = [request for request in folder.requests().records if not request.warmup]
    cut_ns = (torn.start_ns + torn.end_ns) // 2
    before_j = max(s.value for s in folder.samples() if s.node == "edge" and s.unit == "j" and s.t_ns < cut_ns)

    def start_again(record):
        if record.get("p") == 0 and record["t"] > cut_ns:
            record["v"][0] -= before_j

    rewrite(folder.path / "power.edge.jsonl", start_again)
    energy = run_energy(folder)
    edge, device = energy.block["nodes"]["edge"], energy.block["nodes"]["device"]
    assert edge["joules"] is None and edge["counted_joules"] is None and device["joules"] > 0
    assert "was not counted" in edge["reason"] and any("was not counted" in line for line in energy_lines(energy))
    assert emissions_row(folder, energy)["energy_consumed"] == ""
    [block] = energy.block["systems"]
    assert block["requests"] == len(whole)
    assert block["total"]["j_per_token"] == pytest.approx(
        summarise_run(folder)["systems"][0]["energy_j_per_token"], rel=0.005
    )
    assert [row["joules"] for row in energy.rows if row["phase"] == "gap"] == [0.0]


def test_a_footer_cut_short_is_none(tmp_path):
    """Wherever the disk was full: what the sampler took is not known, the joules are."""
    folder = toy_run(tmp_path, ["dssd"])
    trace = folder.path / "power.edge.jsonl"
    late = {"median": 0.1, "p99": 0.2, "max": 0.3}
    footer = {"clock": {"monotonic_ns": 9}, "cpu_s": 0.1, "ticks": 9, "missed": 0, "errors": 0, "late_ms": late}
    rewrite(trace, lambda record: record.get("header", {}).get("clock", {}).update(monotonic_ns=0))
    lines, cut = trace.read_text(), json.dumps({"footer": footer}, separators=(",", ":"))
    for length in (0, 9, len(cut) // 2, len(cut) - 1):
        trace.write_text(lines + cut[:length])
        node = run_energy(folder).block["nodes"]["edge"]
        assert node["sampler"] is None and node["joules"] > 0
    trace.write_text(lines + cut)
    assert run_energy(folder).block["nodes"]["edge"]["sampler"]["ticks"] == 9


def test_systems_agree_with_the_summary(folder):
    block = {system["system"]: system for system in run_energy(folder).block["systems"]}
    for figures in summarise_run(folder)["systems"]:
        mine = block[figures["system"]]
        assert mine["total"]["j_per_token"] == pytest.approx(figures["energy_j_per_token"], rel=0.005)
        assert mine["total"]["status"] == figures["energy_status"] == "modelled"
        assert mine["total"]["j_per_request"] * 3 == pytest.approx(mine["total"]["joules"])
        assert sum(row["joules"] for row in mine["phases"]) == pytest.approx(mine["total"]["joules"], rel=0.005)
        assert mine["radio"]["joules"] is None
    assert block["device_ar"]["unverified_tokens_j"] > 0
    drafted = {row["node"]: row["joules"] for row in block["colocated_sd"]["phases"] if row["phase"] == "draft"}
    assert drafted["edge"] > block["colocated_sd"]["rejected_drafts_j"] > 0, "its own drafting, not verifying"
    assert block["edge_ar"]["total"]["j_per_accepted_token"] is None, "nothing was drafted"


def test_a_node_without_a_source_has_no_joules(tmp_path):
    energy = run_energy(toy_run(tmp_path, ["dssd"], power=False))
    assert energy.rows == [] and energy.block["systems"][0]["total"]["joules"] is None
    assert all("no <usable>" in found["reason"] for found in energy.block["nodes"].values())
    assert any("no <usable>" in line for line in energy_lines(energy))


def test_clocks_that_were_not_compared_leave_the_edge_without_phases(tmp_path):
    folder = toy_run(tmp_path, ["dssd"], boots=("one", "another"))
    energy = run_energy(folder)
    assert {row["node"] for row in energy.rows} == {"device"}
    assert not energy.block["clocks_compared"] and any("not compared" in line for line in energy_lines(energy))


def test_watts_at_rest_are_measured_where_the_run_rested(tmp_path):
    folder = toy_run(tmp_path, ["dssd"])
    for node in WATTS:
        lines = (tmp_path / f"power.{node}.jsonl").read_text().replace("modelled", "measured")
        (tmp_path / f"power.{node}.jsonl").write_text(lines)
    start_ns = folder.requests().records[0].start_ns
    end_ns = folder.requests().records[-1].end_ns
    windows = [[start_ns - 4 * MS, start_ns], [end_ns, end_ns + 4 * MS]]
    (tmp_path / "device.json").write_text(json.dumps({"baseline": windows}))
    nodes = run_energy(folder).block["nodes"]
    for node, w in WATTS.items():
        baseline = nodes[node]["baseline"]
        assert baseline["source"] == "measured"
        assert [baseline[key] for key in ("idle_w", "before_w", "after_w")] == [pytest.approx(w, rel=1e-6)] * 3
        assert nodes[node]["joules_above_idle"] == pytest.approx(0.0, abs=1e-6)


def test_what_the_samplers_took_is_told(tmp_path):
    folder = toy_run(tmp_path, ["dssd"])
    assert run_energy(folder).block["nodes"]["edge"]["sampler"] is None, "this trace was written by hand"
    (tmp_path / "power.edge.jsonl").unlink()
    with SamplerProcess("edge") as sampler:
        sampler.start(tmp_path, {"psutil_trace": {}}, 10.0)
        time.sleep(0.5)
        footer = sampler.stop()
    energy = run_energy(folder)
    found = energy.block["nodes"]["edge"]["sampler"]
    assert found["ticks"] == footer["ticks"] and found["interval_ms"] == 10.0
    assert 0 < found["cpu_pct"] < 100 and found["late_ms"]["max"] >= found["late_ms"]["median"]
    assert any("edge's sampler: " in line and "% of a core" in line for line in energy_lines(energy))


def test_files(folder):
    energy = run_energy(folder)
    assert {"energy.csv", "emissions.csv", "power.csv"} <= set(write_energy(folder, energy))
    with (folder.path / "power.csv").open() as file:
        samples = list(csv.DictReader(file))
    assert len(samples) == sum(1 for _ in folder.samples()) > 100
    assert [samples[0][name] for name in ("node", "unit", "total")] == ["device", "j", "True"]
    with (folder.path / "energy.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    total = sum(float(row["joules"]) for row in rows)
    assert total == pytest.approx(sum(found["joules"] for found in energy.block["nodes"].values()), rel=0.005)
    with (folder.path / "emissions.csv").open() as file:
        [row] = csv.DictReader(file)
    assert float(row["energy_consumed"]) * 3.6e6 == pytest.approx(total, rel=0.005)
    assert row["emissions"] == row["cpu_energy"] == "", "no carbon intensity is invented, no part either"


def test_a_declared_carbon_intensity_is_used(tmp_path):
    folder = toy_run(tmp_path, ["dssd"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"name": "toy", "energy": {"carbon_kg_per_kwh": 0.5}}))
    row = emissions_row(folder, run_energy(folder))
    assert row["emissions"] == pytest.approx(row["energy_consumed"] * 0.5)


def test_a_hole_in_a_trace_is_nobodys(tmp_path):
    folder = toy_run(tmp_path, ["dssd"])
    request = folder.requests().records[1]
    kept = []
    for line in (tmp_path / "power.device.jsonl").read_text().splitlines():
        record = json.loads(line)
        if "t" not in record or abs(record["t"] - request.start_ns) > 4 * MS:
            kept.append(line)
    (tmp_path / "power.device.jsonl").write_text("\n".join(kept) + "\n")
    energy = run_energy(folder)
    found = energy.block["nodes"]["device"]
    assert found["joules"] == pytest.approx(found["counted_joules"], rel=1e-9)
    assert any(row["phase"] == "gap" for row in energy.rows)
    assert energy.block["systems"][0]["requests"] < 3, "requests whose joules are not known do not count"
    rewrite(tmp_path / "requests.jsonl", lambda record: record.update(error="lost"))
    assert run_energy(folder).block["systems"][0]["requests"] == 0
