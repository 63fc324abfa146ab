"""The check passes honest links and catches each kind of lie: the lab has one shape, the spec claims another."""

from __future__ import annotations

import json

import pytest

from netem.check import check_link
from netem.errors import LinkError
from netem.lab import Lab
from netem.spec import LinkSpec


@pytest.mark.lab
def test_an_honest_link_passes_within_the_figures(lab: Lab) -> None:
    spec = LinkSpec(backend=lab.backend, rtt_ms=40, rate_mbps=20, loss_pct=1)
    lab.change(spec)
    report = check_link(lab).require()
    assert report.observed["rtt_ms"]["median"] == pytest.approx(40, abs=1.0)
    for which in ("up", "down"):
        seen = report.observed[which]
        assert seen["delay_ms"]["median"] == pytest.approx(20, abs=1.0)
        if "rate_mbps" in seen:  # a very slow machine cannot fill the link, and the report says so
            assert seen["rate_mbps"] == pytest.approx(20, rel=0.05)
        else:
            assert any(f"rate {which}: the prober could offer only" in text for text in report.skipped)
        assert seen["loss_interval_pct"][0] <= 1 <= seen["loss_interval_pct"][1]
        assert seen["probes"] > 1000 and seen["reordered"] == 0
        assert "rate_mbps" not in seen or seen["goodput_mbps"] < 0.98 * seen["rate_mbps"]
    assert len(report.delays_ms["rtt"]) == report.observed["rtt_ms"]["probes"]
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True


@pytest.mark.lab
@pytest.mark.parametrize(
    ("real", "claimed", "words"),
    [
        pytest.param(
            {"rtt_ms": 20},
            {"rtt_ms": 30},
            ["round trip: declared 30.00 ms", "tolerance.rtt_ms"],
            marks=pytest.mark.slow,
        ),
        (
            {"up": {"delay_ms": 10}, "down": {"delay_ms": 30}},
            {"up": {"delay_ms": 30}, "down": {"delay_ms": 10}},
            ["delay up", "delay down"],
        ),
        pytest.param(
            {"rtt_ms": 4, "rate_mbps": 10},
            {"rtt_ms": 4, "rate_mbps": 12},
            ["rate up: declared 12", "-1"],
            marks=pytest.mark.slow,
        ),
        ({"rtt_ms": 4, "down": {"loss_pct": 4}}, {"rtt_ms": 4, "down": {"loss_pct": 1}}, ["loss down: declared 1 %"]),
        pytest.param(
            {"rtt_ms": 4, "up": {"loss_pct": 1}}, {"rtt_ms": 4}, ["loss up: declared 0 %"], marks=pytest.mark.slow
        ),
        (
            {"up": {"delay_ms": 20, "jitter_ms": 2}, "down": {"delay_ms": 20}},
            {"up": {"delay_ms": 20, "jitter_ms": 10}, "down": {"delay_ms": 20}},
            ["jitter up: declared 10 ms uniform", "tolerance.jitter_pct"],
        ),
        pytest.param(
            {"up": {"delay_ms": 20, "jitter_ms": 10, "reorder_pct": 30}},
            {"up": {"delay_ms": 20, "jitter_ms": 10}},
            ["order up"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_dishonest_link_is_refused_by_name(lab: Lab, real: dict, claimed: dict, words: list[str]) -> None:
    lab.change(LinkSpec(backend=lab.backend, **real))
    report = check_link(lab, LinkSpec(backend=lab.backend, **claimed))
    assert not report.ok
    text = "\n".join(report.problems)
    for word in words:
        assert word in text
    with pytest.raises(LinkError, match="not as declared"):
        report.require()


@pytest.mark.lab
@pytest.mark.slow
@pytest.mark.parametrize(
    "link",
    [
        {"rtt_ms": 2},
        {"rtt_ms": 600, "rate_mbps": 2},
        {"rtt_ms": 1400},
        {"rtt_ms": 40, "rate_mbps": 0.5},
        {"rtt_ms": 10, "rate_mbps": 100},
        {"up": {"delay_ms": 5, "rate_mbps": 2}, "down": {"delay_ms": 60, "rate_mbps": 30}},
        {"rtt_ms": 30, "loss_pct": 10},
        {"rtt_ms": 30, "up": {"gilbert": {"mean_loss_pct": 3, "mean_burst": 4}}},
        {"rtt_ms": 40, "jitter_ms": 10},
        {"up": {"delay_ms": 20, "jitter_ms": 5, "distribution": "normal"}, "down": {"delay_ms": 10}},
        {"up": {"delay_ms": 20, "jitter_ms": 8, "distribution": "pareto"}, "down": {"delay_ms": 10}},
        {"up": {"delay_ms": 10, "reorder_pct": 20}, "down": {"delay_ms": 10}},
        {"up": {"delay_ms": 10, "slot": {"min_ms": 5, "max_ms": 10}}, "down": {"delay_ms": 10}},
        {"up": {"delay_ms": 10, "rate_mbps": 5, "rate_cell_bytes": 48, "rate_cell_overhead_bytes": 5}},
        {"profile": "lte"},
        {"profile": "lte_fair"},
        {"profile": "wifi_poor"},
        {"profile": "satellite"},
    ],
    ids=str,
)
def test_many_honest_links_pass(lab: Lab, link: dict) -> None:
    lab.change(LinkSpec(backend=lab.backend, **link))
    check_link(lab).require()
