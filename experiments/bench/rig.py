"""Two nodes for a measurement: the edge in a process of its own, the device here, a real CURVE link on loopback.

The device is driven request by request, so that what it is compared with can take turns with it.
"""

from __future__ import annotations

import queue
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from experiments.launch import READY_WITHIN_S, Node, RunError, Seat
from experiments.schema import Config
from nodes.device import DeviceNode, Job
from nodes.engine import Engine
from nodes.engine.make import make_engine
from nodes.process import SWITCH_INTERVAL_S, largest_message_bytes, link_timing
from nodes.records import RecordWriter, RequestRecord, RoundRecord
from transport.keys import load_device_keys, make_keys
from transport.zmq_link import ZmqDeviceLink


class Rig:
    """`config` as in an experiment's YAML; `wrap` goes around the device's engine. Use as a context manager; raises
    RunError if the edge does not start."""

    def __init__(self, config: dict[str, Any], wrap: Callable[[Engine], Any] = lambda engine: engine) -> None:
        probes = {"probes": ["psutil_trace"]}  # what every machine has: sensors differ in what a read costs
        self.spec = Config.model_validate({"name": "bench", "warmup": 0, "edge": probes, **config}).to_runspec()
        self.engine: Engine = wrap(make_engine(self.spec.device.engine, "draft"))
        self._stack = ExitStack()

    def __enter__(self) -> Rig:
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def serve(self, system: str, prompt: int, repeat: int = 0) -> RequestRecord:
        """One request by one of the systems, of the prompt with that number."""
        found = self.spec.system(system)
        assert found is not None, f"the rig was not built for {system}"
        return self._device.serve(Job(found, self.spec.prompts[prompt % len(self.spec.prompts)], repeat, False))

    def rounds(self, system: str) -> list[RoundRecord]:
        """All rounds of that system so far."""
        self._writer.flush()
        with (self._folder / "rounds.jsonl").open("rb") as lines:
            records = [msgspec.json.decode(line, type=RoundRecord) for line in lines]
        return [record for record in records if record.system == system]

    def _open(self) -> None:
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="dssd-bench-")))
        keys = self._folder / "keys"
        make_keys(keys)
        endpoint = self._start_edge(keys)
        self._writer = RecordWriter(self._folder)
        self._stack.callback(self._writer.close)
        interval_s = sys.getswitchinterval()  # as in a node's own process
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._stack.callback(sys.setswitchinterval, interval_s)

        def connect(system: Any) -> ZmqDeviceLink:
            return ZmqDeviceLink(
                endpoint,
                keys=load_device_keys(keys),
                identity=system.name.encode(),
                timing=link_timing(self.spec, self.engine.vocab_size),
                max_message_bytes=largest_message_bytes(self.spec, self.engine.vocab_size),
            )

        self._device = DeviceNode(self.spec, self.engine, connect, self._writer)
        self._stack.callback(self._device.close)

    def _start_edge(self, keys: Path) -> str:
        events: queue.Queue[tuple[Node, dict[str, Any]]] = queue.Queue()
        run = self._folder / "run.json"
        run.write_bytes(msgspec.json.encode(self.spec))
        arguments = ["--spec", str(run), "--out", str(self._folder), "--keys", str(keys)]
        node = Node(Seat("edge", sys.executable, arguments, list), [], self._folder, events)
        self._stack.callback(node.stop)
        deadline = time.monotonic() + READY_WITHIN_S
        while True:
            try:
                _, event = events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise RunError(f"the edge was not ready within {READY_WITHIN_S:.0f} s {node.complaint()}") from None
            if event["event"] == "ready":
                return str(event["endpoint"])
            if event["event"] in ("failed", "exit"):
                raise RunError(f"the edge did not start {node.complaint()}")
