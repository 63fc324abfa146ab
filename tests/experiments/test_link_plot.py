"""A check by itself: its table, its picture, its exit code."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

from experiments.link_check import show_check
from experiments.reading import ConfigError
from experiments.report.link_plot import write_link_plot
from netem.backend import choose_backend
from netem.errors import BackendError
from netem.judge import LinkReport, judge_delays, judge_loss, judge_rate
from netem.spec import LinkSpec

MATPLOTLIB = "the picture is matplotlib's: pip install matplotlib"
SPEC = LinkSpec(
    up={"delay_ms": 20, "jitter_ms": 5, "rate_mbps": 10},
    down={"delay_ms": 30, "gilbert": {"mean_loss_pct": 2, "mean_burst": 4}},
)


def judged() -> dict:
    """A check's answer, of delays and arrivals made here."""
    report = LinkReport(declared=SPEC.model_dump(), applied={"up": {"delay_ms": 20}, "down": {}})
    ways = {"up": [16 + 0.2 * i for i in range(40)], "down": [33.0] * 40}
    report.problems += judge_delays(SPEC, {"rtt": [a + b for a, b in zip(*ways.values())], **ways}, report)
    report.problems += judge_loss("down", SPEC, 1000, [i for i in range(1000) if i % 50], report)
    report.problems += judge_rate("up", SPEC, [round(i * 1514 * 8 / 10e6 * 1e9) for i in range(90)], 15, report)
    return {"backend": "netns", **report.to_dict()}


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_measured_is_drawn_over_declared(tmp_path, kind):
    pytest.importorskip("matplotlib", reason=MATPLOTLIB)
    path = tmp_path / f"link.{kind}"
    write_link_plot(judged(), path)
    assert path.read_bytes().startswith({"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[kind])
    if kind == "svg":
        text = path.read_text()
        for words in (
            "netns: off: delay down",
            "up, declared",
            "rtt, 40 probes",
            "10 of 10 Mbit/s",
            "no rate declared",
        ):
            assert words in text


def test_another_kind_of_picture_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"name it \.png, \.pdf or \.svg"):
        write_link_plot(judged(), tmp_path / "link.txt")


def test_the_table_has_declared_applied_observed_and_the_verdict(capsys):
    show_check(judged())
    said = capsys.readouterr()
    lines = [line.split() for line in said.out.splitlines()]
    assert lines[0] == ["link", "declared", "applied", "observed"]
    assert ["up,", "delay_ms", "20", "20"] in [line[:4] for line in lines]
    assert lines[-1][:2] == ["netns:", "off,"]
    assert "off: delay down: declared 30.00 ms, observed 33.00 ms" in said.err


@pytest.mark.lab
def test_a_link_is_checked_by_itself_and_one_that_is_off_is_an_error(tmp_path):
    """A tolerance no link can meet makes an honest one off."""
    try:
        choose_backend(LinkSpec(rtt_ms=1))
    except BackendError as error:
        pytest.skip(f"no shaped link can be built here: {error}")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"link": {"rtt_ms": 10}}))
    command = [sys.executable, "-m", "experiments.cli", "netem", "check", "--link", "mine.yaml", "--json"]
    for more, code in ([], 0), (["--set", "link.tolerance.rtt_ms=1e-6"], 1):
        done = subprocess.run([*command, *more], capture_output=True, text=True, cwd=tmp_path, timeout=120)
        assert done.returncode == code, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["ok"] is (code == 0) and len(found["delays_ms"]["up"]) == found["observed"]["rtt_ms"]["probes"]
