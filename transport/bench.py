"""What the transport costs, measured against a bare CURVE ping-pong of the same frames, side by side in one run.

Two real processes on loopback: this one asks, a child answers. Blocks of the two kinds alternate, so that
whatever else the machine does hits both; the ratio is the median over neighbouring blocks.
`python -m transport.bench` prints the records.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import zmq

from transport.codecs import codec_names, make_codec
from transport.keys import DeviceKeys, EdgeKeys, lab_keys
from transport.messages import Encoded, Floats, Header, Kind, Proposal, ReplyHeader, Verdict
from transport.wire import pack, unpack_body, unpack_header
from transport.zmq_link import ZmqDeviceLink, ZmqEdgeLink

BLOCK = 50  # exchanges before the other kind has its turn
CODEC_BOUND_MS = {"dense_fp32": 0.5, "sparse": 0.5, "dense_fp16": 1.0, "topk": 1.0}


class BenchUp(Proposal):
    probs: Floats


class BenchDown(Verdict):
    target: Encoded | None = None


def measure(exchanges: int = 2000, vocab_size: int = 151_936) -> list[dict[str, Any]]:
    """Records {name, value, bound, unit, ok, note}: round trips as ratios, codecs and wire as times."""
    return [
        _round_trip("round trip, small", exchanges, row_bytes=0, bound=2.0),
        _round_trip("round trip, 600 kB row down", max(4 * BLOCK, exchanges // 10), row_bytes=600_000, bound=2.0),
        _wire(),
        *(_codec(name, vocab_size, nonzeros) for name in codec_names() for nonzeros in (vocab_size, 10)),
    ]


def _round_trip(name: str, exchanges: int, row_bytes: int, bound: float) -> dict[str, Any]:
    edge_keys, device_keys = lab_keys()
    kinds: dict[str, Callable[[], None]] = {}
    children = []
    closers: list[Callable[[], None]] = []
    try:
        for kind in ("link", "bare"):
            child = subprocess.Popen(
                [sys.executable, "-m", "transport.bench", kind, str(row_bytes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            children.append(child)
            assert child.stdin and child.stdout
            child.stdin.write(b"%s %s %s\n" % (edge_keys.public, edge_keys.secret, device_keys.public))
            child.stdin.flush()
            address = child.stdout.readline().decode().strip()
            kinds[kind], close = (_link_client if kind == "link" else _bare_client)(address, device_keys)
            closers.append(close)
        medians_us: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(1 + -(-exchanges // BLOCK)):
            for kind, exchange in kinds.items():
                medians_us[kind].append(_median_ms(exchange, BLOCK) * 1000)
    finally:
        for close in closers:
            close()
        for child in children:
            child.kill()
            child.communicate()
    link_us, bare_us = medians_us["link"][1:], medians_us["bare"][1:]  # the first block was warm-up
    ratio = statistics.median(link / bare for link, bare in zip(link_us, bare_us))
    p50_us = (
        f"{statistics.median(link_us):.0f} us with wire format and threads, {statistics.median(bare_us):.0f} us bare"
    )
    return _record(name, ratio, bound, "x", f"p50 {p50_us}; CURVE in both")


def _messages(row_bytes: int) -> tuple[list[bytes], list[bytes]]:
    """One round's frames, up and down."""
    up = BenchUp(tokens=list(range(40_000, 40_005)), probs=np.full(5, 0.5, np.float32))
    down = BenchDown(n_accepted=3, tail=[], target=Encoded(bytes(row_bytes)) if row_bytes else None)
    header = Header(Kind.ROUND, session=2**62, round=7, base=300, carry=[11, 12])
    reply = ReplyHeader(Kind.REPLY, 2**62, 7, arrived_ns=time.monotonic_ns(), residence_us=70, batch=1)
    return pack(header, up), pack(reply, down)


def _link_client(address: str, keys: DeviceKeys) -> tuple[Callable[[], None], Callable[[], None]]:
    link = ZmqDeviceLink(address, keys=keys, identity=b"bench")
    up = BenchUp(tokens=list(range(40_000, 40_005)), probs=np.full(5, 0.5, np.float32))

    def exchange() -> None:
        link.send(pack(Header(Kind.ROUND, session=2**62, round=7, base=300, carry=[11, 12]), up))
        arrival = link.receive(10)
        assert arrival is not None
        unpack_header(arrival.frames, ReplyHeader)
        unpack_body(arrival.frames, BenchDown)

    return exchange, link.close


def _bare_client(address: str, keys: DeviceKeys) -> tuple[Callable[[], None], Callable[[], None]]:
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.curve_serverkey = keys.edge_public
    dealer.curve_publickey, dealer.curve_secretkey = keys.public, keys.secret
    dealer.connect(address)
    up, _ = _messages(0)

    def exchange() -> None:
        dealer.send_multipart(up)
        dealer.recv_multipart()

    return exchange, lambda: context.destroy(linger=0)


def _serve(kind: str, row_bytes: int) -> None:
    public, secret, device_public = sys.stdin.buffer.readline().split()
    _, down = _messages(row_bytes)
    if kind == "bare":
        router = zmq.Context().socket(zmq.ROUTER)
        router.curve_server = True
        router.curve_publickey, router.curve_secretkey = public, secret
        router.bind("tcp://127.0.0.1:*")
        print(router.getsockopt_string(zmq.LAST_ENDPOINT), flush=True)
        while True:
            router.send_multipart([router.recv_multipart()[0], *down])
    link = ZmqEdgeLink("tcp://127.0.0.1:*", keys=EdgeKeys(public, secret, frozenset([device_public])))
    print(link.endpoint, flush=True)
    body = BenchDown(n_accepted=3, tail=[], target=Encoded(bytes(row_bytes)) if row_bytes else None)
    while True:
        arrival = link.receive()
        assert arrival is not None
        header = unpack_header(arrival.frames, Header)
        unpack_body(arrival.frames, BenchUp)
        reply = ReplyHeader(Kind.REPLY, header.session, header.round, arrived_ns=arrival.arrived_ns, batch=1)
        link.send(arrival.peer, pack(reply, body))


def _wire() -> dict[str, Any]:
    up = BenchUp(tokens=list(range(40_000, 40_005)), probs=np.full(5, 0.5, np.float32))
    header = Header(Kind.ROUND, session=2**62, round=7, base=300, carry=[11, 12])

    def there_and_back() -> None:
        frames = pack(header, up)
        unpack_header(frames, Header)
        unpack_body(frames, BenchUp)

    note = f"a round of 5 tokens with probabilities, {sum(map(len, pack(header, up)))} bytes"
    return _record("wire: pack and unpack", _median_ms(there_and_back, 2000) * 1000, 50.0, "us", note)


def _codec(name: str, vocab_size: int, nonzeros: int) -> dict[str, Any]:
    chance = np.random.default_rng(0)
    row = np.zeros(vocab_size, np.float32)
    weights = np.exp(2 * chance.standard_normal(nonzeros))
    row[chance.choice(vocab_size, nonzeros, replace=False)] = weights / weights.sum()
    codec = make_codec(name, vocab_size)
    encoded = codec.encode(row)
    value_ms = _median_ms(lambda: codec.decode(codec.encode(row)), 100)
    note = f"encode and decode, {nonzeros} of {vocab_size} entries nonzero, {encoded.nbytes} bytes"
    return _record(f"codec {name}", value_ms, CODEC_BOUND_MS.get(name, 1.0), "ms", note)


def _median_ms(action: Callable[[], Any], repeats: int) -> float:
    times_ns = []
    for _ in range(repeats):
        start_ns = time.perf_counter_ns()
        action()
        times_ns.append(time.perf_counter_ns() - start_ns)
    return statistics.median(times_ns) / 1e6


def _record(name: str, value: float, bound: float, unit: str, note: str) -> dict[str, Any]:
    return {
        "name": name,
        "value": round(value, 3),
        "bound": bound,
        "unit": unit,
        "ok": value <= bound,
        "note": note,
    }


if __name__ == "__main__":
    if len(sys.argv) == 3:
        _serve(sys.argv[1], int(sys.argv[2]))
    else:
        for record in measure():
            print(json.dumps(record))
