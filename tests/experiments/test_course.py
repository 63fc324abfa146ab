"""A link that changes during a run: whose time it follows, what is kept of it, how it is shown."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from report_run import summary_of, toy_run

from experiments.course import Course, keep_files, played, read_log
from experiments.report import write_figures
from experiments.report.course import applied_courses, read_courses, show_courses
from experiments.report.page import render
from experiments.run import describe_run
from experiments.schema import ConfigError, load_config
from experiments.table import link_text, note_lines
from netem.errors import LinkError
from netem.keeper import up
from netem.physical import Shaping
from netem.script import lab_script
from netem.spec import LinkSpec

CSV = "t_s,rate_mbps,delay_ms\n0,8,10\n0.5,0,40\n1,20,5\n1.5,20,5\n"
DSSD = [sys.executable, "-m", "experiments.cli"]


class Told:
    """Stands for a player: what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def follow(self, at_ns: int, t_s: float = 0.0, of: str = "") -> None:
        self.calls.append((at_ns, t_s, of))

    def rest(self) -> None:
        self.calls.append(("rest",))

    def check(self) -> None: ...


def told(clock: str) -> list[tuple[Any, ...]]:
    """Two systems take turns; the first request of each is a warm-up."""
    player = Told()
    course = Course(player, LinkSpec(rtt_ms=2, outages=[{"at_s": 1, "for_s": 1}], clock=clock))  # type: ignore[arg-type]
    asked = [("a", "w", 5), ("b", "w", 5), ("a", "1", 100), ("b", "1", 30), ("b", "2", 40), ("a", "2", 9)]
    for t_ns, (system, request, e2e_ms) in enumerate(asked, 1):
        fields = {"system": system, "request_id": f"{system}/{request}", "warmup": request == "w"}
        course.hear("begin", {**fields, "t_ns": t_ns})
        course.hear("request", {**fields, "e2e_ms": e2e_ms})
    return player.calls


def test_a_systems_own_clock_goes_on_where_its_last_request_ended():
    rest = ("rest",)
    assert told("system") == [
        (3, 0.0, "a/1"), rest, (4, 0.0, "b/1"), rest, (5, 0.03, "b/2"), rest, (6, 0.1, "a/2"), rest,
    ]  # fmt: skip


def test_the_clock_of_requests_begins_anew_and_that_of_the_run_begins_once():
    assert [call[1] for call in told("request") if call[0] != "rest"] == [0.0] * 4
    assert told("run") == [(3, 0.0, "")]


# Kept and shown ------------------------------------------------------------------------------------------------------


def lines(zero_ns: int) -> list[dict[str, Any]]:
    def line(t_s: float, event: str, way: str = "up", outcome: str = "applied", **values: float) -> dict[str, Any]:
        due_ns = zero_ns + round(t_s * 1e9)
        times = {"due_ns": due_ns, "began_ns": due_ns + 10**6, "done_ns": due_ns + 3 * 10**6}
        return {"t_s": t_s, **times, "direction": way, "event": event, **values, "outcome": outcome, "of": "dssd/p1/0"}

    return [
        line(0, "point", rate_mbps=8.0, delay_ms=10.0), line(0, "point", "down", rate_mbps=5.0, delay_ms=2.0),
        line(0.01, "cut", "down"), line(0.02, "point", outcome="skipped", rate_mbps=1.0, delay_ms=1.0),
        line(0.02, "point", rate_mbps=0.0, delay_ms=40.0), line(0.03, "mend", "down"),
        line(0.04, "point", rate_mbps=20.0, delay_ms=5.0),
    ]  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """A run whose link changed, as its log says."""
    folder = toy_run(tmp_path, systems=("dssd", "edge_ar"))
    zero_ns = min(request.start_ns for request in folder.requests().records if not request.warmup)
    log = "".join(json.dumps(line) + "\n" for line in lines(zero_ns))
    (tmp_path / "link_trace.jsonl").write_text(log + '{"t_s": 9, "cut short')
    link = json.loads((tmp_path / "link.json").read_text())
    link["declared"] |= {
        "clock": "system",
        "outages": [{"at_s": 0.01, "for_s": 0.02}],
        "down": {"trace": {"file": "/x/walk.csv"}},
    }
    (tmp_path / "link.json").write_text(json.dumps({**link, "played": played(tmp_path)}))
    return folder


def test_what_was_played_is_summed_up_without_the_line_a_kill_cut_short(run):
    assert len(read_log(run.path)) == 7
    found = played(run.path)
    assert (found["changes"], found["skipped"], found["cuts"], found["late_ms"]["median"]) == (6, 1, 1, 3.0)
    assert played(run.path.parent) == {}


def test_the_applied_course_stands_at_its_actual_times(run):
    found = read_courses(run.path)
    assert [point.rate_mbps for point in found.traces["up"].points] == [8, 0, 20]
    assert [point.t_s for point in found.traces["up"].points] == pytest.approx([0, 0.02, 0.04])
    assert [(cut.direction, round(cut.from_s, 4), round(cut.to_s, 4)) for cut in found.cuts] == [("down", 0.01, 0.03)]
    assert {(cut.direction, round(cut.from_s, 4)) for cut in found.shut()} == {("down", 0.01), ("up", 0.02)}
    assert any("cut from 0.010 to 0.030" in line for line in show_courses(found))


def test_the_report_draws_it_and_says_how_it_went(run):
    summary = summary_of(run)
    page = render(run, summary)
    assert 'id="figure-link-course"' in page and "cut at 0.013 s for 0.020 s" in page
    assert {"link_course.svg", "link_course.pdf"} <= {path.name for path in write_figures(run, summary)}
    assert "cut 1 time" in link_text(summary["link"]) and "as walk.csv goes" in link_text(summary["link"])
    assert {figures["predicted"]["why_not"] for figures in summary["systems"]} == {
        "the link changed during the run, and the formulas know but one"
    }
    assert any("the link changed 6 times" in line and "passed over" in line for line in note_lines(summary))


def test_a_run_whose_link_stayed_as_it_was_has_no_such_plot(tmp_path):
    folder = toy_run(tmp_path, systems=("dssd",))
    assert applied_courses(tmp_path, "x") is None and "link-course" not in render(folder, summary_of(folder))


# In a configuration --------------------------------------------------------------------------------------------------


def load(folder: Path, **keys: Any):
    (folder / "traces").mkdir(exist_ok=True)
    (folder / "traces" / "mine.csv").write_text(CSV)
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"engine": "toy", "systems": ["dssd"], "workload": {"prompts": ["t1"]}, **keys}))
    return load_config(path)


@pytest.mark.parametrize("trace", ["traces/mine.csv", {"file": "traces/mine.csv", "speed": 2}])
def test_a_trace_is_found_from_the_configurations_folder_pinned_and_kept(tmp_path, trace, monkeypatch):
    monkeypatch.chdir("/")
    config = load(tmp_path, link={"trace": trace})
    resolved = config.resolved()["link"]["up"]["trace"]
    assert resolved["file"] == str(tmp_path / "traces" / "mine.csv") and len(resolved["sha256"]) == 64
    assert config.timing.rtt_ms == 80 and config.timing.rate_mbps == 8
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(config.resolved()))
    (tmp_path / "traces" / "mine.csv").write_text(CSV + "9,9,9\n")
    keep_files(config.link, tmp_path)  # what was read, and is played, whatever became of the file
    [kept] = (tmp_path / "traces").glob("*-mine.csv")
    assert kept.read_text() == CSV and kept.name.startswith(resolved["sha256"][:8])
    with pytest.raises(ConfigError, match="is not the file this configuration was written for"):
        load_config(tmp_path / "again.yaml")


def test_a_profile_names_its_trace_from_its_own_folder(tmp_path):
    (tmp_path / "profile.yaml").write_text("title: t\nsource: s\nlink: {trace: traces/mine.csv}\n")
    config = load(tmp_path, link={"profile": "profile.yaml"})
    assert config.link.up.trace is not None and config.link.up.trace.file == str(tmp_path / "traces" / "mine.csv")
    assert "as mine.csv goes" in link_text({"declared": config.link.model_dump()})
    assert describe_run(config)["lines"]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"link": {"trace": "nowhere.csv"}}, "nowhere.csv: cannot be read"),
        ({"link": {"outages": [{"at_s": 1, "for_s": 200}]}}, "raise transport.give_up_after_s"),
        (
            {
                "link": {"outages": [{"at_s": 1, "for_s": 2}]},
                "hosts": {"device": {"local": True}, "edge": {"address": "198.51.100.2"}},
            },
            "lab of one machine",
        ),
    ],
)
def test_what_no_run_could_play_is_refused(tmp_path, keys, words):
    with pytest.raises(ConfigError, match=words):
        load(tmp_path, **keys)


def test_what_keeps_its_shape_refuses_a_course(tmp_path):
    spec = LinkSpec(rtt_ms=5, outages=[{"at_s": 1, "for_s": 1}])
    for refusing in (
        lambda: up(spec, "course"),
        lambda: lab_script(spec, "course", "cubic"),
        lambda: Shaping("eth0", "198.51.100.7", spec),
    ):
        with pytest.raises(LinkError, match="outages are played by"):
            refusing()


# The command line ----------------------------------------------------------------------------------------------------


def dssd(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    argv = [*DSSD, *map(str, words)]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"}
    return subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def test_a_trace_is_made_shown_and_drawn(tmp_path):
    made = dssd("netem", "trace", "make", "fading", "f.csv", "--seconds", 5, "--seed", 3, "--json", cwd=tmp_path)
    about = json.loads(made.stdout.splitlines()[-1])
    assert about["directions"]["both"]["points"] == 50 and (tmp_path / "f.csv").read_text().startswith("# dssd netem")
    outs = [word for kind in ("png", "svg", "html") for word in ("--out", f"f.{kind}")]
    shown = dssd("netem", "trace", "show", "f.csv", *outs, cwd=tmp_path)
    assert shown.returncode == 0 and "rate" in shown.stdout and "█" in shown.stdout, shown.stderr
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG") and "<svg" in (tmp_path / "f.svg").read_text()
    assert "<html>" in (tmp_path / "f.html").read_text()
    again = dssd("netem", "trace", "make", "fading", "f.csv", cwd=tmp_path)
    assert again.returncode == 1 and "is there already" in again.stderr
    wrong = dssd("netem", "trace", "show", "f.csv", "--format", "mahimahi", cwd=tmp_path)
    assert wrong.returncode == 1 and "line" in wrong.stderr and "Traceback" not in wrong.stderr
