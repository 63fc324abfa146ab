"""Both nodes as real processes over real sockets: what a user starts, and what may happen to it."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import yaml

from experiments.launch import Outcome, RunError, run_nodes
from experiments.schema import load_config
from experiments.store import RunFolder, create_run
from netem.journal import leftovers
from nodes.probes.radio_model import declared_radio
from nodes.probes.sampler import read_samples

DSSD = [sys.executable, "-m", "experiments.cli"]
EXACT = ["edge_ar", "colocated_sd", "dsd", "dsd_sparse", "dssd", "dssd_sampled", "coupled", "token_match"]
EXACT += ["dssd_lookahead"]


def configure(folder: Path, **keys) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"engine": "toy", "workload": {"prompts": ["t1 t2"]}, **keys}))
    return path


def dssd(*words, cwd, timeout_s=120):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "HF_HUB_OFFLINE": "1"}
    return subprocess.run([*DSSD, *map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True,
                          timeout=timeout_s)  # fmt: skip


def tokens_by_system(folder: RunFolder) -> dict[str, list[list[int]]]:
    tokens: dict[str, list[list[int]]] = {}
    for record in folder.requests().records:
        tokens.setdefault(record.system, []).append(record.tokens)
    return tokens


def run_in(tmp_path: Path, config_path: Path, progress=lambda stage, fields: None) -> tuple[RunFolder, Outcome]:
    config = load_config(config_path)
    folder, outcome = create_run(tmp_path / "results", config.resolved(), "test"), Outcome()
    run_nodes(config, folder.path, progress, outcome)
    return folder, outcome


def node_processes(folder: Path) -> list[psutil.Process]:
    """Nodes that run for something under `folder`: this machine may have others."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "nodes.process" in words and any(word.startswith(str(folder)) for word in words):
            found.append(process)
    return found


def kill_edges(folder: Path) -> None:
    for process in node_processes(folder):
        if "edge" in process.info["cmdline"]:
            process.send_signal(signal.SIGKILL)


def test_run_answers_with_a_summary_and_leaves_its_files(tmp_path):
    config = configure(tmp_path, systems=["device_ar", *EXACT], workload={"prompts": ["t1"], "max_new_tokens": 8})
    done = dssd("run", config, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert {record["system"]: record["exact"] for record in summary["systems"]} == {
        "device_ar": False, **dict.fromkeys(EXACT, True)
    }  # fmt: skip
    folder = tmp_path / "results" / "mine" / "latest"
    for name in ["config.yaml", "manifest.json", "rounds.jsonl", "requests.jsonl", "summary.json", "report.html"]:
        assert (folder / name).stat().st_size > 0, name
    assert json.loads((folder / "manifest.json").read_text())["status"] == "complete"
    for record in RunFolder(folder).rounds().records:  # the parts of a round are all of it
        parts = record.draft_ms + record.encode_ms + record.roundtrip_ms + record.resolve_ms
        assert parts == pytest.approx((record.end_ns - record.start_ns) / 1e6, abs=1e-6)
        assert record.roundtrip_ms == pytest.approx(record.network_ms + record.edge_ms, abs=1e-6)
    assert not node_processes(tmp_path)


class Plug(http.server.BaseHTTPRequestHandler):
    """A Shelly whose switch 3 draws 42.5 W."""

    def do_GET(self):
        self.send_response(200 if self.path == "/rpc/Switch.GetStatus?id=3" else 404)
        self.end_headers()
        self.wfile.write(json.dumps({"apower": 42.5, "aenergy": {"total": 1234.5}}).encode())

    def log_message(self, *args):
        pass


def test_a_nodes_probes_take_their_options(tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Plug) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        node = {"probes": [f"plug:url=http://127.0.0.1:{server.server_port},switch=3", "psutil_trace"]}
        folder, _ = run_in(tmp_path, configure(tmp_path, systems=["dssd"], device=node, edge=node))
        server.shutdown()
    for name in ("device", "edge"):
        assert folder.trace_header(name)["probes"][:2] == ["plug", "psutil_trace"]
        samples = [s for s in read_samples(folder.path / f"power.{name}.jsonl") if s.probe == "plug"]
        assert {s.value for s in samples if s.unit == "w"} == {42.5}


def test_an_edge_killed_in_mid_request_changes_no_token(tmp_path):
    slow = {"forward_ms": 4.0}  # so that the kill falls into a request
    workload = {"prompts": ["t1 t2", "t3"], "max_new_tokens": 30}
    calm, _ = run_in(tmp_path, configure(tmp_path, systems=EXACT, workload=workload, warmup=0))
    config = configure(tmp_path, systems=EXACT, workload=workload, pace=slow, edge={"restarts": 3}, warmup=0)
    killed = []

    def kill_now_and_then(stage, fields):
        if stage == "request" and fields["done"] in (2, 6, 10):
            killed.append(fields["done"])
            threading.Timer(0.05, kill_edges, [tmp_path]).start()

    rough, outcome = run_in(tmp_path, config, kill_now_and_then)
    assert len(outcome.events) == len(killed) == 3
    calm_tokens = tokens_by_system(calm)
    for system, tokens in tokens_by_system(rough).items():
        assert tokens == calm_tokens[system], system
    assert sum(record.resumed for record in rough.requests().records) >= 1


def test_an_edge_that_keeps_dying_ends_the_run_and_keeps_its_records(tmp_path):
    config = configure(tmp_path, systems=["edge_ar"], pace={"forward_ms": 3.0}, edge={"restarts": 0}, warmup=0,
                       workload={"prompts": ["t1", "t2", "t3"], "max_new_tokens": 30})  # fmt: skip

    def kill(stage, fields):
        if stage == "request":
            kill_edges(tmp_path)

    with pytest.raises(RunError, match="edge died"):
        run_in(tmp_path, config, kill)
    folder = RunFolder(tmp_path / "results" / "mine" / "latest")
    assert folder.requests().records[0].output_tokens == 30
    assert not node_processes(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_and_leaves_nothing(tmp_path, number):
    config = configure(tmp_path, systems=["edge_ar"], pace={"forward_ms": 20.0},
                       workload={"prompts": ["t1"], "requests": 50, "max_new_tokens": 50})  # fmt: skip
    run = subprocess.Popen([*DSSD, "run", str(config)], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
                           env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)})  # fmt: skip
    requests = tmp_path / "results" / "mine" / "latest" / "requests.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (requests.exists() and requests.stat().st_size):
        time.sleep(0.05)
    run.send_signal(number)
    run.communicate(timeout=30)
    assert run.returncode == 128 + number
    assert not node_processes(tmp_path)
    assert requests.stat().st_size > 0
    manifest = json.loads((requests.parent / "manifest.json").read_text())
    assert manifest["status"] == "interrupted"


BAD = [
    ({"systemz": ["dssd"]}, "systemz", "systems"),
    ({"systems": ["dssdd"]}, "dssdd", "dssd"),
    ({"link": {"rate_mbps": 0}}, "rate_mbps", "above 0"),
    ({"link": {"backend": "loopback", "rtt_ms": 10}}, "loopback", ""),
    ({"engine": None, "models": {"draft": "hf:/nowhere", "target": "hf:/nowhere"}}, "/nowhere", ""),
    ({"engine": None, "pace": "h9000"}, "h9000", "opt-125m"),
    ({"sampling": {"temperature": -1}}, "temperature", ""),
    ({"engine": None, "device": {"engine": "toy"}, "edge": {"engine": {"engine": "toy", "vocab_size": 64}}}, "64", ""),
]


@pytest.mark.parametrize(("keys", "names", "remedy"), BAD, ids=[str(bad[0]) for bad in BAD])
def test_a_bad_configuration_is_refused_by_name(tmp_path, keys, names, remedy):
    given = {key: value for key, value in {"engine": "toy", "systems": ["dssd"], **keys}.items() if value is not None}
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(given))
    done = dssd("run", path, cwd=tmp_path)
    assert done.returncode != 0
    assert names in done.stderr and remedy in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert not node_processes(tmp_path) and not leftovers()


VERBS = {"edge": "serve", "device": "run"}


def by_hand(node, config, folder, *words):
    return subprocess.Popen([*DSSD, node, VERBS[node], str(config), "--out", str(folder / node), *words], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder)  # fmt: skip


@pytest.fixture
def edge_by_hand(tmp_path):
    """An edge started as in a terminal of its own; yields (config, endpoint, its process)."""
    config = configure(tmp_path, systems=["dssd"])
    assert dssd("keys", tmp_path / "keys", cwd=tmp_path).returncode == 0
    edge = by_hand("edge", config, tmp_path, "--bind", "tcp://127.0.0.1:0", "--keys", str(tmp_path / "keys"))
    try:
        yield config, json.loads(edge.stdout.readline())["endpoint"], edge
    finally:
        if edge.poll() is None:
            edge.terminate()
            edge.communicate(timeout=20)


def test_two_nodes_by_hand_leave_a_run_that_is_summed_up_once_their_files_are_together(edge_by_hand, tmp_path):
    config, endpoint, edge = edge_by_hand
    words = ["--connect", endpoint, "--keys", str(tmp_path / "keys")]
    device = by_hand("device", config, tmp_path, *words)
    _, said = device.communicate(timeout=60)
    assert device.returncode == 0, said
    edge.terminate()
    edge.communicate(timeout=20)
    run = RunFolder(tmp_path / "device")
    assert run.manifest()["status"] == "complete" and run.summary()["models"].keys() == {"device"}
    for path in (tmp_path / "edge").glob("*edge*"):
        shutil.copy(path, run.path)
    assert dssd("report", run.path, cwd=tmp_path).returncode == 0
    summary = run.summary()
    assert summary["models"].keys() == {"device", "edge"} and summary["systems"][0]["requests"] == 1
    assert {sample.node for sample in run.tcp()} == {"device", "edge"} == {sample.node for sample in run.samples()}
    assert {line["node"] for line in map(json.loads, (run.path / "power.jsonl").open())} == {"device", "edge"}


@pytest.mark.parametrize("node", ["device", "edge"])
def test_a_node_by_hand_never_mixes_its_records_with_others(tmp_path, node):
    used = tmp_path / node
    used.mkdir()
    (used / ("requests.jsonl" if node == "device" else "power.edge.jsonl")).write_text("{}\n")
    refused = by_hand(node, configure(tmp_path, systems=["dssd"]), tmp_path, "--plain")
    _, said = refused.communicate(timeout=60)
    assert refused.returncode == 1 and "has records already" in said and "Traceback" not in said, said
    assert len(list(used.iterdir())) == 1


def test_drafting_at_the_edge_is_paid_for(tmp_path):
    """By the watts that the draft model's own pace adds to its machine at rest, beside the target's."""
    paces = {"device": {"forward_ms": 4, "idle_w": 1, "active_w": 301},
             "edge": {"forward_ms": 8, "idle_w": 100, "active_w": 180}}  # fmt: skip
    config = configure(tmp_path, systems=["colocated_sd"], warmup=0, draft_length=8,
                       **{node: {"pace": pace} for node, pace in paces.items()})  # fmt: skip
    folder, _ = run_in(tmp_path, config)
    trace = [sample for sample in folder.samples() if (sample.node, sample.probe) == ("edge", "paced_model")]
    drawn = {channel: [s for s in trace if s.channel == channel] for channel in ("node", "target.busy", "draft.busy")}
    grew = {channel: found[-1].value - found[0].value for channel, found in drawn.items()}
    elapsed_s = (drawn["node"][-1].t_ns - drawn["node"][0].t_ns) / 1e9
    rounds = folder.rounds().records
    least_s, most_s = sum(0.004 * r.n_drafted for r in rounds), sum(r.edge_draft_ms for r in rounds) / 1e3
    assert 0.9 * least_s <= grew["draft.busy"] <= 1.1 * most_s
    joules = 100 * elapsed_s + 80 * grew["target.busy"] + 300 * grew["draft.busy"]
    assert grew["node"] == pytest.approx(joules, rel=0.03)


RADIO = "energy.radio={technology: 5g, unit_w: 0.004, tx_mbps: 50, rx_mbps: 400}"


def test_a_declared_radio_pays_for_the_bytes_of_the_interface_that_is_named(edge_by_hand, tmp_path):
    config, endpoint, _ = edge_by_hand
    words = ["--connect", endpoint, "--keys", str(tmp_path / "keys"), "--interface", "lo", "--set", RADIO]
    device = by_hand("device", config, tmp_path, *words)
    _, said = device.communicate(timeout=60)
    assert device.returncode == 0, said
    trace = read_samples(tmp_path / "device" / "power.device.jsonl")
    joules = [sample.value for sample in trace if (sample.probe, sample.channel) == ("radio_model", "radio")]
    requests = [json.loads(line) for line in (tmp_path / "device" / "requests.jsonl").open()]
    radio = declared_radio("5g", unit_w=0.004, tx_mbps=50, rx_mbps=400)
    up, down = (sum(request[f"link_{way}_bytes"] for request in requests) for way in ("up", "down"))
    assert joules == sorted(joules) and up > 0 < down
    assert joules[-1] - joules[0] > up * radio.tx_j_per_byte + down * radio.rx_j_per_byte


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "device.probes=[rpi]"], "probe rpi was asked for and is unsupported"),
        (["--set", "device.probes=['psutil_estimate:idle_w=5']"], "probe psutil_estimate: idle_w is the run's own"),
        (["--set", RADIO], "no interface is named"),
        (["--interface", "nope0"], "no interface nope0"),
        (["--set", "energy.radio={technology: 5g}"], "energy.radio: 5g lacks unit_w"),
    ],
)
def test_what_is_asked_for_and_cannot_be_read_ends_the_device_by_name(edge_by_hand, tmp_path, words, said):
    config, endpoint, _ = edge_by_hand
    device = by_hand("device", config, tmp_path, "--connect", endpoint, "--keys", str(tmp_path / "keys"), *words)
    _, complaint = device.communicate(timeout=60)
    assert device.returncode != 0 and said in complaint and "Traceback" not in complaint, complaint


def test_a_stranger_is_refused_by_name(edge_by_hand, tmp_path):
    config, endpoint, _ = edge_by_hand
    assert dssd("keys", tmp_path / "other", cwd=tmp_path).returncode == 0
    (tmp_path / "other" / "edge.pub").write_text((tmp_path / "keys" / "edge.pub").read_text())
    device = by_hand("device", config, tmp_path, "--connect", endpoint, "--keys", str(tmp_path / "other"))
    _, said = device.communicate(timeout=60)
    assert device.returncode != 0 and "device.key" in said, said
    assert "Traceback" not in said


def test_a_port_in_use_is_named(edge_by_hand, tmp_path):
    config, endpoint, _ = edge_by_hand
    (tmp_path / "second").mkdir()
    second = by_hand("edge", config, tmp_path / "second", "--bind", endpoint, "--keys", str(tmp_path / "keys"))
    _, said = second.communicate(timeout=60)
    assert second.returncode != 0 and endpoint in said and "Traceback" not in said


def test_a_device_with_another_configuration_is_refused_with_both_values(edge_by_hand, tmp_path):
    config, endpoint, _ = edge_by_hand
    other = ["--set", "sampling.top_k=7", "--set", "systems=[{system: dssd, stop: {length: 6}}]"]
    device = by_hand("device", config, tmp_path, "--connect", endpoint, "--keys", str(tmp_path / "keys"), *other)
    _, said = device.communicate(timeout=60)
    assert device.returncode != 0
    assert "sampling.top_k: device 7, edge 0" in said and "length" in said, said


def test_a_device_whose_configuration_names_another_target_is_refused_with_both_values(edge_by_hand, tmp_path):
    config, endpoint, _ = edge_by_hand
    other = [word for key in ("engine=null", "device.engine=toy", "edge.engine={engine: toy, acceptance: 0.5}")
             for word in ("--set", key)]  # fmt: skip
    device = by_hand("device", config, tmp_path, "--connect", endpoint, "--keys", str(tmp_path / "keys"), *other)
    _, said = device.communicate(timeout=60)
    assert device.returncode != 0 and "Traceback" not in said
    assert "edge.engine.acceptance: device 0.5, edge None" in said and "same configuration" in said, said


def test_a_device_with_other_code_is_refused_with_both_hashes(edge_by_hand, tmp_path):
    config, endpoint, _ = edge_by_hand
    copy = tmp_path / "copy"
    root = Path(__file__).parent.parent
    for folder in ("nodes", "transport", "netem", "experiments"):
        shutil.copytree(root / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "bundled"))
    with (copy / "nodes" / "device.py").open("a") as file:
        file.write("# a change\n")
    words = ["device", "run", str(config), "--connect", endpoint, "--keys", str(tmp_path / "keys")]
    done = subprocess.run([*DSSD, *words], cwd=copy, capture_output=True, text=True, timeout=60,
                          env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"})  # fmt: skip
    assert done.returncode != 0 and "different code" in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_an_edge_that_is_told_nothing_serves_every_published_system(tmp_path):
    toy = {"engine": "toy", "vocab_size": 512}  # some published systems keep hundreds of tokens of a row
    edge = subprocess.Popen([*DSSD, "edge", "serve", "--bind", "tcp://127.0.0.1:0", "--plain",
                             "--set", f"engine={json.dumps(toy)}"],
                            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)  # fmt: skip
    try:
        endpoint = json.loads(edge.stdout.readline())["endpoint"]
        config = configure(tmp_path, engine=toy, systems=["edge_ar", "hlm"],
                           workload={"prompts": ["t1"], "max_new_tokens": 4})  # fmt: skip
        device = by_hand("device", config, tmp_path, "--connect", endpoint, "--plain")
        _, said = device.communicate(timeout=60)
        assert device.returncode == 0, said
    finally:
        edge.terminate()
        edge.communicate(timeout=20)
