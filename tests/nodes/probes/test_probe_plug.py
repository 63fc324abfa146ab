"""Plug meters, answered by a real HTTP server that speaks as they do."""

import http.server
import itertools
import json
import math
import threading

import pytest

from nodes.probes import make_probe
from nodes.probes.sampler import Sampler, read_samples

SHELLY = {
    "id": 0,
    "source": "init",
    "output": True,
    "apower": 42.5,
    "voltage": 230.1,
    "current": 0.21,
    "aenergy": {"total": 1234.567, "by_minute": [0.0, 0.0, 0.0], "minute_ts": 1700000000},
}
TASMOTA = {"StatusSNS": {"Time": "2024-01-01T00:00:00", "ENERGY": {"Total": 3.185, "Power": 37, "Voltage": 230}}}


@pytest.fixture
def plug():
    """`plug.answers[path] = (code, body)`; `plug.url` is where it listens."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            code, body = answers.get(self.path, (404, b"{}"))
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    answers: dict[str, tuple[int, bytes]] = {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answers, server.url = answers, f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def answer(plug, content, kind="shelly"):
    path = "/rpc/Switch.GetStatus?id=0" if kind == "shelly" else "/cm?cmnd=Status%208"
    plug.answers[path] = (200, json.dumps(content).encode())


@pytest.mark.parametrize(
    ("kind", "content", "watts", "wh"),
    [
        ("shelly", SHELLY, 42.5, 1234.567),
        ("tasmota", TASMOTA, 37.0, 3185.0),
    ],
)
def test_plugs(plug, kind, content, watts, wh):
    answer(plug, content, kind)
    probe = make_probe("plug", url=plug.url, kind=kind)
    finding = probe.trial()
    assert (finding.status, finding.scope, finding.resolution_ms) == ("measured", "node", 1000)
    assert [channel.renewed_ms for channel in finding.channels if channel.total] == [1000]
    first = {reading.channel: reading.value for reading in probe.read()}
    assert (first["power"], first["counter"]) == (watts, pytest.approx(wh))


def test_a_plug_in_a_trace(plug, tmp_path):
    answer(plug, SHELLY)
    probe = make_probe("plug", url=plug.url)
    probe.every_ms = 50
    with Sampler([probe], "device", tmp_path) as sampler:
        threading.Event().wait(0.5)
    joules = [s for s in read_samples(sampler.path) if (s.probe, s.channel) == ("plug", "node")]
    elapsed_s = (joules[-1].t_ns - joules[0].t_ns) / 1e9
    assert joules[-1].value - joules[0].value == pytest.approx(42.5 * elapsed_s, rel=0.1)
    assert all(sample.total for sample in joules)


def test_a_plug_that_goes_away_and_comes_back(plug, tmp_path):
    answer(plug, SHELLY)
    probe = make_probe("plug", url=plug.url)
    probe.trial()
    plug.answers.clear()
    with pytest.raises(OSError, match="404"):
        probe.read()
    answer(plug, SHELLY)
    assert probe.read()


def test_no_number_never_reaches_a_trace(plug, tmp_path):
    """A plug that answers NaN for a while: told as an error, left out, and integrated over from what was known."""
    answer(plug, SHELLY)
    probe = make_probe("plug", url=plug.url)
    probe.every_ms = 20
    with Sampler([probe], "device", tmp_path) as sampler:
        threading.Event().wait(0.2)
        answer(plug, {**SHELLY, "apower": float("nan")})
        threading.Event().wait(0.5)
        answer(plug, SHELLY)
        threading.Event().wait(0.2)
    assert "nan" in sampler.path.read_text(encoding="utf-8").lower()  # the error's own words
    joules = [s for s in read_samples(sampler.path) if (s.probe, s.channel) == ("plug", "node")]
    assert all(math.isfinite(sample.value) for sample in joules)
    assert max(b.t_ns - a.t_ns for a, b in itertools.pairwise(joules)) > 0.15e9  # nothing was made up meanwhile
    elapsed_s = (joules[-1].t_ns - joules[0].t_ns) / 1e9
    assert joules[-1].value - joules[0].value == pytest.approx(42.5 * elapsed_s, rel=0.1)


@pytest.mark.parametrize(
    ("body", "code", "status"),
    [
        (b"{}", 401, "denied"),
        (b"{}", 404, "unsupported"),
        (b"<html>", 200, "unsupported"),
        (b'{"apower": null, "aenergy": {"total": 1}}', 200, "unsupported"),
        (b'{"apower": NaN, "aenergy": {"total": 1}}', 200, "unsupported"),
        (b'{"apower": 5, "aenergy": {"total": NaN}}', 200, "unsupported"),
        (b"{}", 200, "unsupported"),
    ],
)
def test_what_is_no_plug(plug, body, code, status):
    plug.answers["/rpc/Switch.GetStatus?id=0"] = (code, body)
    finding = make_probe("plug", url=plug.url).trial()
    assert finding.status == status and finding.remedy and plug.url in finding.detail


def test_nobody_there():
    finding = make_probe("plug", url="http://127.0.0.1:9").trial()
    assert finding.status == "unsupported" and "address" in finding.remedy
    assert "url=" in make_probe("plug").trial().remedy
    assert "shelly, tasmota" in make_probe("plug", url="http://x", kind="kasa").trial().remedy
