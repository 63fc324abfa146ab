"""Traces and outages, applied to labs that are really built. Times are judged by `dssd bench link`, not here."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from netem import check
from netem.lab import Lab
from netem.spec import LinkSpec
from netem.traces.player import Player

pytestmark = pytest.mark.lab
COURSE = "t_s,rate_mbps,up_delay_ms,down_loss_pct\n0,8,10,0\n0.1,2,40,0\n0.2,0,20,50\n0.3,20,5,0\n"


@pytest.fixture
def course(tmp_path: Path) -> Path:
    path = tmp_path / "course.csv"
    path.write_text(COURSE)
    return path


def played(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def play(lab: Lab, log: Path, seconds: float, t_s: float = 0.0) -> list[dict[str, Any]]:
    with Player(lab, log) as player:
        player.follow(time.monotonic_ns(), t_s, "a test")
        time.sleep(seconds)
    player.check()  # what the kernel says is in force is what was last asked for
    return played(log)


def test_a_trace_is_applied_point_by_point_and_written_down(lab: Lab, course: Path, tmp_path: Path) -> None:
    lab.change(LinkSpec(backend=lab.backend, trace={"file": str(course), "loop": False}))
    assert lab.applied["up"]["rate_mbps"] == pytest.approx(8) and lab.applied["up"]["delay_ms"] == pytest.approx(10)
    lines = play(lab, tmp_path / "log", 0.6)
    ups = [line for line in lines if line["direction"] == "up" and line["outcome"] == "applied"]
    downs = [line for line in lines if line["direction"] == "down" and line["outcome"] == "applied"]
    assert {line["outcome"] for line in lines} <= {"applied", "skipped"} and {line["of"] for line in lines} == {
        "a test"
    }
    assert (ups[-1]["t_s"], ups[-1]["rate_mbps"], ups[-1]["delay_ms"]) == (0.3, 20, 5) and "loss_pct" not in ups[-1]
    assert (downs[-1]["t_s"], downs[-1]["rate_mbps"], downs[-1]["loss_pct"]) == (0.3, 20, 0)
    assert all(line["due_ns"] <= line["began_ns"] <= line["done_ns"] for line in lines)
    assert lab.applied["up"]["delay_ms"] == pytest.approx(5) and lab.applied["up"]["rate_mbps"] < 20.1
    lab.change(lab.spec)
    assert lab.applied["up"]["rate_mbps"] == pytest.approx(8) and lab.applied["up"]["delay_ms"] == pytest.approx(10)


def test_a_loss_that_comes_and_goes_takes_its_marks_and_correlation_along(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "loss.csv").write_text("t_s,loss_pct\n0,0\n60,5\n120,0\n")
    trace = {"file": str(tmp_path / "loss.csv"), "loop": False}
    lab.change(LinkSpec(backend=lab.backend, up={"ecn": True, "loss_correlation_pct": 25, "trace": trace}))
    for t_s in (0.0, 60.0, 120.0):
        play(lab, tmp_path / "log", 0.5, t_s)
        assert ("loss_correlation_pct" in lab.applied["up"]) == (t_s == 60.0)


def test_a_rate_of_nothing_keeps_what_waits_and_lets_it_go_afterwards(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "gap.csv").write_text("t_s,rate_mbps\n0,0\n6,10\n7,10\n")
    link = LinkSpec(backend=lab.backend, up={"trace": {"file": str(tmp_path / "gap.csv"), "loop": False}})
    lab.change(link)
    with check._answerer(lab.edge) as (port, finish), Player(lab, tmp_path / "log") as player:
        player.follow(time.monotonic_ns())
        sent_ns = time.monotonic_ns()
        check._run(lab.device, ["stream", lab.edge.address, port, 20, 50], 1e3)
        assert lab.exec_counters()["up"]["backlog"] or lab.exec_counters()["up"]["qlen"]
        deadline_s = time.monotonic() + 30
        while lab.exec_counters()["up"]["qlen"]:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        heard = finish()
    player.check()
    opened_ns = next(line["began_ns"] for line in played(tmp_path / "log") if line.get("rate_mbps") == 10)
    assert opened_ns > sent_ns and heard["numbers"] == list(range(20))


def test_a_trace_can_be_entered_in_its_middle(lab: Lab, course: Path, tmp_path: Path) -> None:
    lab.change(LinkSpec(backend=lab.backend, trace={"file": str(course), "speed": 0.1, "offset_s": 0.1}))
    lines = play(lab, tmp_path / "log", 0.3, t_s=2.5)  # 0.1 + 0.1 * 2.5 = 0.35, its last point
    assert {(line["t_s"], line["rate_mbps"]) for line in lines} == {(2.5, 20.0)}


@pytest.mark.parametrize("cut", ["up", "down", "both"])
def test_an_outage_begins_and_ends(lab: Lab, tmp_path: Path, cut: str) -> None:
    outages = [{"at_s": 0.5, "for_s": 60, "direction": cut}]
    lab.change(LinkSpec(backend=lab.backend, rtt_ms=2, outages=outages))
    with Player(lab, tmp_path / "log") as player:
        player.follow(time.monotonic_ns() - 10**9, 0.0)
        deadline_s = time.monotonic() + 10
        while (tmp_path / "log").read_text().count("cut") != (2 if cut == "both" else 1):
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        with check._answerer(lab.edge) as (port, finish):
            said = check._run(lab.device, ["ask", lab.edge.address, port, 20, 1000, 0], 20)
            assert said["answers"] == [] and len(finish()["numbers"]) == (20 if cut == "down" else 0)
        player.rest()
        player.follow(time.monotonic_ns(), 61.0)
    player.check()
    assert len(check._ask(lab, 20, 2.0).answers) == 20
    ways = 2 if cut == "both" else 1
    assert [line["event"] for line in played(tmp_path / "log")] == ["cut"] * ways + ["mend"] * ways


def test_a_link_that_stays_as_it_is_needs_no_player(lab: Lab, tmp_path: Path) -> None:
    with Player(lab, tmp_path / "log") as player:
        player.follow(time.monotonic_ns())
    assert not (tmp_path / "log").exists()
