"""The printed table: every system a line, nothing cut off, and nothing left unsaid that changes what a figure means."""

from __future__ import annotations

import io

import pytest
from handmade import DSSD, EDGE_AR, a_request, a_round, summary_of, watts

from experiments.table import WIDTH, bytes_text, link_text, print_table
from netem.spec import LinkSpec
from nodes.composition import load_system, system_names
from nodes.probes.energy import counters


def printed(summary) -> str:
    out = io.StringIO()
    print_table(summary, out)
    return out.getvalue()


@pytest.fixture
def summary():
    """All systems, five requests each, with figures as wide as they get."""
    systems = [load_system(name) for name in system_names()]
    rounds, requests = [], []
    for system in systems:
        for i in range(5):
            name = f"{system.name}/p/{i}"
            rounds.append(a_round(request=name, system=system.name, up_wire_bytes=4_000_000))
            requests.append(a_request(request=name, system=system.name, start_ms=200 * i + 1, labels=["paced"]))
    energy = counters([*watts("device", 300, until_ms=1200), *watts("edge", 90_000, "modelled", until_ms=1200)])
    return summary_of(rounds, requests, systems, energy=energy)


def test_every_system_is_a_line_and_fits(summary):
    lines = printed(summary).splitlines()
    for record in summary["systems"]:
        (line,) = [line for line in lines if line.startswith(record["system"] + " ")]
        assert "modelled" in line
        assert len(line) <= WIDTH
    assert not any("…" in line for line in lines)


def test_labels_and_what_is_not_exact_are_said(summary):
    text = printed(summary)
    assert "labels: paced" in text
    (line,) = (line for line in text.splitlines() if line.startswith("not exact, so not the large model's output: "))
    assert "device_ar" in line and "edge_ar" not in line
    assert "5 requests per system" in text


def test_what_was_not_measured_is_not_a_number():
    text = printed(summary_of([], [a_request()], systems=(DSSD, EDGE_AR)))
    dssd, edge_ar = (next(line for line in text.splitlines() if line.startswith(name)) for name in ("dssd", "edge_ar"))
    assert "unsupported" in dssd
    assert "–" in edge_ar and "0.00" not in edge_ar


def test_troubles_are_said_below():
    requests = [a_request(retries=2, resumed=1), a_request(request="f", error="gone")]
    events = [{"event": "edge_restarted", "code": -9}]
    text = printed(summary_of([a_round()], requests, events=events))
    assert "requests of dssd: 1 failed, not counted, 2 retried, 1 resumed" in text
    assert "edge restarted: code -9" in text


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (None, "–"),
        (0, "0 B"),
        (0.25, "0.250 B"),
        (38.04, "38.0 B"),
        (999.6, "1.00 kB"),
        (804_352, "804 kB"),
        (2.5e6, "2.50 MB"),
    ],
)
def test_bytes_for_people(n, text):
    assert bytes_text(n) == text


def test_a_link_in_words():
    spec = LinkSpec(up={"rate_mbps": 10, "delay_ms": 25, "jitter_ms": 5, "loss_pct": 1}, down={"delay_ms": 25})
    link = {"declared": spec.model_dump(), "backend": "netns", "observed": {"rtt_ms": {"median": 50.27}}}
    assert link_text(link) == "up 10 Mbit/s 25 ± 5 ms 1 % loss, down 25 ms (netns, 50.3 ms round trip measured)"
    assert link_text({"declared": LinkSpec().model_dump(), "backend": "loopback"}) == "this machine's own, not shaped"
    assert link_text({}) == "this machine's own, not shaped"


def test_a_round_kept_unseen_is_not_a_streamed_one(summary):
    streamed = {**summary["systems"][0], "rounds_per_request": 8.0, "round_trips_per_request": 1.0}
    for unseen, said in ((0.0, True), (0.2, False)):
        summary["systems"] = [{**streamed, "unverified_share": unseen}]
        assert ("streamed" in printed(summary)) == said
