"""The least that an exchange can cost: CURVE DEALER and ROUTER in two processes that do nothing but pass frames on.

`python -m experiments.bench.pingpong` is the answering process: its keys and the sizes of its answer's frames come in
on stdin as one JSON line, its address goes out on stdout.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence

import zmq

from experiments.launch import RunError


class PingPong:
    """`exchange()` takes the time of one round trip of `up` and `down`, each a list of frame sizes in bytes."""

    def __init__(self, up: Sequence[int], down: Sequence[int]) -> None:
        self._frames = [bytes(size) for size in up]
        edge_public, edge_secret = zmq.curve_keypair()
        self._child = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._child.stdin and self._child.stdout
        self._child.stdin.write(json.dumps([edge_public.decode(), edge_secret.decode(), list(down)]) + "\n")
        self._child.stdin.flush()
        address = self._child.stdout.readline().strip()
        if not address:
            raise RunError("the answering process of the bare exchange did not start")
        self._context = zmq.Context()
        self._dealer = self._context.socket(zmq.DEALER)
        self._dealer.curve_serverkey = edge_public
        self._dealer.curve_publickey, self._dealer.curve_secretkey = zmq.curve_keypair()
        self._dealer.connect(address)

    def __enter__(self) -> PingPong:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)
        self._child.kill()
        self._child.communicate()

    def exchange(self) -> float:
        """Milliseconds there and back."""
        began_s = time.perf_counter()
        self._dealer.send_multipart(self._frames)
        self._dealer.recv_multipart()
        return (time.perf_counter() - began_s) * 1e3


def _answer() -> None:
    public, secret, down = json.loads(sys.stdin.readline())
    frames = [bytes(size) for size in down]
    router = zmq.Context().socket(zmq.ROUTER)
    router.curve_server = True
    router.curve_publickey, router.curve_secretkey = public.encode(), secret.encode()
    router.bind("tcp://127.0.0.1:*")
    print(router.getsockopt_string(zmq.LAST_ENDPOINT), flush=True)
    while True:
        router.send_multipart([router.recv_multipart()[0], *frames])


if __name__ == "__main__":
    _answer()
