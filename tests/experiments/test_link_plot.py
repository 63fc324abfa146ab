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


@pytest.fixture
def dssd(tmp_path, monkeypatch):
    """Runs the command line in a folder of its own, with labs of its own."""
    try:
        choose_backend(LinkSpec(rtt_ms=1))
    except BackendError as error:
        pytest.skip(f"no shaped link can be built here: {error}")
    monkeypatch.setenv("DSSD_STATE_DIR", str(tmp_path / "labs"))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "experiments.cli", *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)

    return run


@pytest.mark.lab
def test_a_link_is_checked_by_itself_and_one_that_is_off_is_an_error(dssd, tmp_path):
    """A tolerance no link can meet makes an honest one off."""
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"link": {"rtt_ms": 10}}))
    for more, code in ([], 0), (["--set", "link.tolerance.rtt_ms=1e-6"], 1):
        done = dssd("netem", "check", "--link", "mine.yaml", "--json", *more)
        assert done.returncode == code, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["ok"] is (code == 0) and len(found["delays_ms"]["up"]) == found["observed"]["rtt_ms"]["probes"]


@pytest.mark.lab
def test_a_run_on_a_link_that_is_off_is_refused_with_what_to_change(dssd, tmp_path):
    toy = {"engine": "toy", "vocab_size": 64}
    link = {"rtt_ms": 10, "tolerance": {"rtt_ms": 1e-6}}
    config = {"systems": ["dssd"], "engine": toy, "workload": {"prompts": ["t1"], "max_new_tokens": 4}, "link": link}
    (tmp_path / "off.yaml").write_text(yaml.safe_dump(config))
    done = dssd("run", "off.yaml")
    assert done.returncode == 1
    assert "the link is not as declared" in done.stderr and "raise tolerance.rtt_ms" in done.stderr
    folder = tmp_path / "results" / "off" / "latest"
    assert json.loads((folder / "link.json").read_text())["observed"]["rtt_ms"]["probes"] > 10
    assert not (folder / "rounds.jsonl").exists(), "no node was started"


@pytest.mark.lab
@pytest.mark.slow
def test_a_kept_lab_is_checked_as_it_is(dssd, tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"systems": ["dssd"], "link": {"rtt_ms": 16}}))
    assert dssd("netem", "up", "mine.yaml", "--name", "kept").returncode == 0
    try:
        done = dssd("netem", "check", "--name", "kept", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["observed"]["rtt_ms"]["median"] == pytest.approx(16, abs=1)
        assert "is for a link built for the check" in dssd("netem", "check", "--name", "kept", "--link", "lte").stderr
    finally:
        assert dssd("netem", "down", "--name", "kept").returncode == 0
    assert "no lab named 'kept'" in dssd("netem", "check", "--name", "kept").stderr
