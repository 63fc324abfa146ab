"""`dssd probes record` and `calibrate`: any program, any sensor."""

from __future__ import annotations

import sys

import pytest

from experiments.probing import calibrate_machine, record_command
from nodes.probes import ProbeError
from nodes.probes.sampler import read_samples

ESTIMATE = "psutil_estimate:idle_w=2,full_w=7"
BUSY = "import time; end = time.monotonic() + 0.4\nwhile time.monotonic() < end or time.process_time() < 0.4: pass"


def test_a_program_is_traced_to_its_end(tmp_path):
    out = tmp_path / "trace.jsonl"
    found = record_command([sys.executable, "-c", BUSY], out, [ESTIMATE], 10.0)
    assert found["returncode"] == 0 and found["status"] == "estimated"
    assert 2 * 0.4 <= found["joules"] <= 7 * found["seconds"] * 1.1
    cpu_s = [s.value for s in read_samples(out) if s.channel.endswith(".cpu") and not s.channel.startswith("self")]
    assert 0.3 < cpu_s[-1] <= found["seconds"] * 1.1


def test_its_exit_code_is_kept(tmp_path):
    code = [sys.executable, "-c", "raise SystemExit(3)"]
    assert record_command(code, tmp_path / "t.jsonl", [ESTIMATE], 20.0)["returncode"] == 3


def test_what_cannot_be_recorded_is_told_before(tmp_path):
    out = tmp_path / "t.jsonl"
    with pytest.raises(ProbeError, match="cannot start /no/such"):
        record_command(["/no/such"], out, [ESTIMATE], 20.0)
    with pytest.raises(ProbeError, match="unknown probe"):
        record_command(["true"], out, ["raple"], 20.0)
    out.write_text("a trace")
    with pytest.raises(ProbeError, match="never overwritten"):
        record_command(["true"], out, [ESTIMATE], 20.0)
    assert out.read_text() == "a trace"


def test_without_a_sensor_calibration_says_what_would_help(monkeypatch):
    monkeypatch.setattr("experiments.probing.find_probes", list)
    with pytest.raises(ProbeError, match="plug meter"):
        calibrate_machine(None, 1.0)
    with pytest.raises(ProbeError, match="psutil_estimate is estimated"):
        calibrate_machine(ESTIMATE, 1.0)
