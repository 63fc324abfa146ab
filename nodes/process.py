"""The two node processes: models, probes, sockets and signals around DeviceNode and EdgeNode.

    python -m nodes.process edge   --spec run.json --out DIR --bind tcp://127.0.0.1:0    --keys DIR
    python -m nodes.process device --spec run.json --out DIR --connect tcp://HOST:PORT   --keys DIR

Progress goes to stdout as one JSON event a line (ready, begin, request, done, failed); everything else to the log on
stderr. With `--prompts-on-stdin` the device takes its requests from there (dialogue.py), not from the spec.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import logging
import os
import platform
import select
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from nodes.alignment import Alignment
from nodes.busy import BusyTime
from nodes.channel import EdgeError
from nodes.composition import CompositionError, System
from nodes.device import DeviceNode
from nodes.dialogue import Dialogue
from nodes.edge import EdgeNode, compare
from nodes.engine import Engine, EngineError, torchrun
from nodes.engine.make import follow_engine, make_engine
from nodes.engine.paced import PacedEngine
from nodes.identity import source_hash
from nodes.limits import LimitError, limited
from nodes.policies import PolicyError
from nodes.policies.stop import make_stop
from nodes.probes import EnergySource, ProbeError, parse_probe, probe_names
from nodes.probes.sampler_process import SamplerProcess
from nodes.records import RecordWriter
from nodes.runspec import NodeSpec, ProbeSpec, RunSpec, read_runspec
from nodes.tcp_trace import TcpTrace
from transport.clock import clock_identity
from transport.control import ControlClient, ControlServer
from transport.keys import KeysError, load_device_keys, load_edge_keys
from transport.link import LinkError
from transport.zmq_link import LinkTiming, ZmqDeviceLink, ZmqEdgeLink

log = logging.getLogger("dssd")
EXPECTED = (EdgeError, EngineError, LinkError, KeysError, ProbeError, PolicyError, CompositionError, LimitError)
HEADER_ROOM_BYTES = 1 << 16
PROMPT_ROOM_BYTES = 8 << 20  # a long prompt rides in the header
SWITCH_INTERVAL_S = 5e-4  # a socket's thread should not wait 5 ms for the compute loop to let go of the interpreter
PR_SET_PDEATHSIG = 1
LEASH_S = 30.0  # of silence on stdin after which whoever started this node over a network is taken for gone
STOP_WITHIN_S = 8.0
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def run_edge(
    spec: RunSpec, out: Path, bind: str, keys: Path | None, stopping: threading.Event, control: str | None = None
) -> None:
    """Serve until `stopping`. Announces `ready` with the endpoint once a device may connect."""
    with ExitStack() as stack:
        sampler = stack.enter_context(SamplerProcess("edge"))
        engine = make_engine(spec.edge.engine, "target")
        for system in spec.systems:
            system.require_width(engine.vocab_size)
        drafter = make_engine(spec.edge.draft_engine, "draft") if spec.edge.draft_engine else None
        engines = {"target": engine} | ({"draft": drafter} if drafter else {})
        energy = _sample(sampler, spec.edge, engines, out, spec.shared_machine)
        secrets = load_edge_keys(keys) if keys else None
        link = ZmqEdgeLink(
            bind,
            keys=secrets,
            timing=link_timing(spec, engine.vocab_size),
            max_message_bytes=largest_message_bytes(spec, engine.vocab_size) + PROMPT_ROOM_BYTES,
        )
        stack.callback(link.close)
        stack.enter_context(TcpTrace("edge", out, lambda: [("", info) for info in link.tcp_info()]))
        beside = control or f"{bind.rpartition(':')[0]}:0"
        line = stack.enter_context(ControlServer(beside, keys=secrets, timing=link_timing(spec, engine.vocab_size)))
        about = {
            "control_port": int(line.endpoint.rpartition(":")[2]),
            "clock": clock_identity(),
            "energy_status": energy.status,
            "source": source_hash(),
            "told": spec.edge.engine,
        }
        node = EdgeNode(spec, engine, link, drafter, about)
        _announce("ready", endpoint=link.endpoint, control=line.endpoint, pid=os.getpid())
        node.serve(stopping.is_set)
        counters = {"counters": dict(node.counters), "link": dict(link.counters)}
        _write(out / "edge.json", {"engine": engine.describe(), **counters})


def run_device(
    spec: RunSpec,
    out: Path,
    connect: str,
    keys: Path | None,
    interface: str | None,
    control: str | None = None,
    control_exempt: bool = False,
    from_stdin: bool = False,
) -> None:
    """Run the spec's requests, or those that come `from_stdin`, against the edge at `connect`; its records go to
    `out`. `control`: the edge's control line, where it is not beside the link; `control_exempt`: on the same path, but
    not shaped. Raises LinkError for an `interface` that this machine does not have."""
    if interface is not None and interface not in (known := psutil.net_io_counters(pernic=True)):
        raise LinkError(f"no interface {interface} to count bytes at; there are: {', '.join(sorted(known))}")
    with ExitStack() as stack:
        sampler = stack.enter_context(SamplerProcess("device"))  # before the limits: they are not for it
        limits = stack.enter_context(limited(spec.device.cpus, spec.device.cpu_share, spec.device.cpu_max_mhz))
        engine = make_engine(spec.device.engine, "draft")
        for system in spec.systems:
            system.require_width(engine.vocab_size)
        energy = _sample(sampler, spec.device, {"draft": engine}, out, spec.shared_machine, interface)
        writer = RecordWriter(out)
        stack.callback(writer.close)
        secrets = load_device_keys(keys) if keys else None
        node_id = uuid.uuid4().hex

        def make_link(system: System) -> ZmqDeviceLink:
            return ZmqDeviceLink(
                connect,
                keys=secrets,
                identity=f"{node_id}/{system.name}".encode(),
                timing=link_timing(spec, engine.vocab_size),
                max_message_bytes=largest_message_bytes(spec, engine.vocab_size),
            )

        def call(address: str) -> ControlClient:
            identity = f"{node_id}/control".encode()
            return ControlClient(address, keys=secrets, identity=identity, timing=link_timing(spec, engine.vocab_size))

        node = DeviceNode(spec, engine, make_link, writer, interface)
        stack.callback(node.close)
        stack.enter_context(TcpTrace("device", out, node.tcp_info))
        node.agree()
        require_same_edge(spec, node.edge()[0])
        clocks = Alignment(connect, control, spec.shaped and not control_exempt, call)
        clocks.measure(*node.edge())
        statuses = {energy.status, node.edge()[0].get("energy_status")}
        rest_s = spec.baseline_s if "measured" in statuses and not from_stdin else 0.0
        baseline = [_rest(rest_s)]
        if from_stdin:
            Dialogue(node, _lines(), _announce).run()
        else:
            _run_jobs(node)
        baseline.append(_rest(rest_s))
        clocks.measure(*node.edge())
        _write(
            out / "device.json",
            {
                "engine": engine.describe(),
                "channels": node.counters(),
                "limits": limits,
                "clock": clocks.record(),
                "baseline": baseline if rest_s else [],
            },
        )
        _announce("done")


def require_same_edge(spec: RunSpec, welcome: dict[str, Any]) -> None:
    """The edge runs this node's code and loaded the target of this node's configuration; the handshake itself compares
    what changes tokens and frames. Raises EdgeError with both values."""
    if not welcome:  # no system here needs an edge
        return
    here, there = source_hash(), welcome.get("source")
    if here != there:
        raise EdgeError(
            f"device and edge run different code: source {here} here, {there or 'an older release'} at the edge. "
            "Remedy: install the same version on both (`git rev-parse HEAD`), or let `dssd run --hosts` deploy it"
        )
    differences = compare({"edge": {"engine": spec.edge.engine}}, {"edge": {"engine": welcome.get("told")}})
    if differences:
        raise EdgeError(
            f"the edge loaded another target than this configuration names: {'; '.join(differences)}. "
            "Remedy: give both nodes the same configuration"
        )


def largest_message_bytes(spec: RunSpec, vocab_size: int) -> int:
    """The most a method sends at once: every row of the longest draft, 4 bytes an entry and an index."""
    longest = max(make_stop(system.stop).max_length for system in spec.systems)
    return longest * 8 * vocab_size + HEADER_ROOM_BYTES


def link_timing(spec: RunSpec, vocab_size: int) -> LinkTiming:
    timing = spec.timing
    return LinkTiming(timing.rtt_ms, timing.rate_mbps, timing.loss_pct, largest_message_bytes(spec, vocab_size))


def _run_jobs(node: DeviceNode) -> None:
    node.run(
        lambda record, done, total: _announce(
            "request",
            done=done,
            total=total,
            system=record.system,
            request_id=record.request_id,
            warmup=record.warmup,
            tokens=record.output_tokens,
            e2e_ms=round(record.e2e_ms, 3),
        ),
        lambda job: _announce(
            "begin",
            system=job.system.name,
            request_id=job.request_id,
            warmup=job.warmup,
            t_ns=time.monotonic_ns(),
        ),
    )


def _lines() -> Iterator[str]:
    """Of stdin, whose reader's lock nobody may hold when the interpreter ends: so without a buffer."""
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        for line in stdin:
            yield line.decode()


def _rest(seconds: float) -> list[int]:
    """Nothing happens on either node: what they draw now is their baseline. Returns when, in monotonic ns."""
    began_ns = time.monotonic_ns()
    time.sleep(seconds)
    return [began_ns, time.monotonic_ns()]


def _sample(
    sampler: SamplerProcess,
    spec: NodeSpec,
    engines: Mapping[str, Engine],
    out: Path,
    shared: bool,
    interface: str | None = None,
) -> EnergySource:
    """All probes this machine has, or those that are named; the node's own process is what they watch. The first of the
    engines is the node's own.

    Raises ProbeError where one that is named, or a radio that is declared, cannot be read here.
    """
    engine = next(iter(engines.values()))
    pids = {sampler.node: os.getpid()}
    for rank in engine.describe().get("ranks", [])[1:]:  # those on this machine that hold a share of the target
        if rank["host"] == platform.node():
            pids[f"{sampler.node}_rank{rank['rank']}"] = rank["pid"]
    probes: dict[str, dict[str, Any]] = dict(map(parse_probe, spec.probes.probes or probe_names()))
    required = set(probes if spec.probes.probes else ())
    if spec.probes.radio:
        probes.setdefault("radio_model", {})
        required.add("radio_model")
    busy: dict[str, BusyTime] = {}
    declared = {"idle_w": spec.probes.idle_w, "full_w": spec.probes.full_w}
    given: dict[str, dict[str, Any]] = {
        "psutil_trace": {"pids": pids},
        "psutil_estimate": {**declared, "pids": pids if shared else {}},
        "radio_model": {"interface": interface or "", **spec.probes.radio},
    }
    if isinstance(engine, PacedEngine):
        busy = {name: one.busy for name, one in engines.items() if isinstance(one, PacedEngine)}
        given["paced_model"] = {
            "idle_w": engine.pace.idle_w if spec.probes.idle_w is None else spec.probes.idle_w,
            "added_w": {name: _added_w(one, spec.probes) for name, one in engines.items()},
        }
    for name, options in probes.items():
        if twice := options.keys() & given.get(name, {}).keys():
            what = "is the run's own to say (watts and a radio: under energy)"
            raise ProbeError(f"probe {name}: {', '.join(sorted(twice))} {what}: leave it out")
        options |= given.get(name, {})
    interval_ms = spec.probes.interval_ms
    return sampler.start(out, probes, interval_ms, required=required, paced=bool(busy), shared=shared, busy=busy)


def _added_w(engine: Engine, declared: ProbeSpec) -> float | None:
    """What a node draws more than at rest while `engine` computes: the watts declared for the node, else those of the
    machine that the engine's own pace stands for. None where there are none, as of an engine without a pace.
    """
    if not isinstance(engine, PacedEngine):
        return None
    idle_w = engine.pace.idle_w if declared.idle_w is None else declared.idle_w
    active_w = engine.pace.active_w if declared.full_w is None else declared.full_w
    return None if idle_w is None or active_w is None else active_w - idle_w


def _announce(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def _write(path: Path, content: dict[str, Any]) -> None:
    """All of it or nothing, on a full disk too."""
    temporary = path.with_name(f".{path.name}")
    try:
        temporary.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _die_with_parent(parent: int) -> None:
    """A launcher that is killed takes its nodes along, even by SIGKILL, and even if it is gone before this."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if parent and os.getppid() != parent:
        sys.exit("whoever started this node is gone")


def _die_with_stdin(pid_file: Path) -> None:
    """The end of stdin, or LEASH_S without a byte on it, ends this node as SIGTERM does: its launcher, which may be on
    another machine, is gone or cannot be heard of."""
    pid_file.write_text(f"{os.getpid()}\n")

    def hold() -> None:
        while select.select([0], [], [], LEASH_S)[0] and os.read(0, 64):
            continue
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_WITHIN_S)
        os._exit(1)

    threading.Thread(target=hold, name="leash", daemon=True).start()


def _be_one_of_several(rank: int | None, spec: RunSpec, argv: list[str]) -> None:
    """The target is held by several processes: start them all, or be one of those that only compute."""
    engine = spec.edge.engine
    if rank is None:
        again = [word for word in argv if not word.startswith(("--die-with-parent", "--die-with-stdin"))]
        device = str(engine.get("device", "auto"))
        torchrun.start(torchrun.processes(engine), "nodes.process", [*again, "--die-with-parent"], device)
        return
    torchrun.obey_rank_0()
    follow_engine(engine)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m nodes.process", description=__doc__.split("\n\n")[0])
    parser.add_argument("node", choices=["edge", "device"])
    parser.add_argument("--spec", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bind", default="tcp://127.0.0.1:0")
    parser.add_argument("--connect")
    parser.add_argument("--keys", type=Path, help="directory of CURVE keys; without it the link is plain")
    parser.add_argument("--control", help="where the control line listens, or is; by default beside the link")
    parser.add_argument("--control-exempt", action="store_true", help="device: the control line's port is not shaped")
    parser.add_argument("--interface", help="device: count this interface's bytes")
    parser.add_argument("--prompts-on-stdin", action="store_true", help="device: a prompt a line, in JSON")
    parser.add_argument("--die-with-parent", type=int, nargs="?", const=0, metavar="PID", help="checked where given")
    parser.add_argument("--die-with-stdin", action="store_true", help="stdin's end, or its silence, ends the node")
    args = parser.parse_args(argv)
    if args.die_with_parent is not None:
        _die_with_parent(args.die_with_parent)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()
        if args.node == "device":
            raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        spec = read_runspec(args.spec)
        args.out.mkdir(parents=True, exist_ok=True)
        if args.die_with_stdin:
            _die_with_stdin(args.out / f"{args.node}.pid")
        if args.node == "edge" and (rank := torchrun.rank(spec.edge.engine)) != 0:
            _be_one_of_several(rank, spec, sys.argv[1:] if argv is None else argv)
        elif args.node == "edge":
            run_edge(spec, args.out, args.bind, args.keys, stopping, args.control)
        else:
            line = (args.control, args.control_exempt)
            run_device(spec, args.out, args.connect, args.keys, args.interface, *line, args.prompts_on_stdin)
    except EXPECTED as error:
        log.error("%s", error)
        _announce("failed", error=str(error))
        return 1
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        _announce("failed", error=f"no room left in {args.out}: what was recorded until then is there; make room")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
