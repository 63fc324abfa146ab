"""The declared links of the bench: what they cover, what is said of what was measured; each backend once, for real."""

from __future__ import annotations

import os

import pytest

from experiments.bench.declared import BACKENDS, LINKS, _records, measure_declared
from experiments.bench.kills import kill_labs
from netem.backend import why_not
from netem.spec import DIRECTIONS, LinkSpec

SPECS = {name: LinkSpec.model_validate(link) for name, link in LINKS.items()}
BURSTY = "20 ms, 2 % up in bursts of 4"


def test_the_links_cover_what_they_have_to():
    sides = [spec.direction(which) for spec in SPECS.values() for which in DIRECTIONS]
    rates = [side.rate_mbps for side in sides if side.rate_mbps]
    assert len(SPECS) == 12
    assert (min(side.delay_ms for side in sides), max(side.delay_ms for side in sides)) == (1, 300)
    assert (min(side.mean_loss_pct for side in sides), max(side.mean_loss_pct for side in sides)) == (0, 10)
    assert (min(rates), max(rates)) == (0.5, 200)
    assert any(spec.up.gilbert for spec in SPECS.values()) and any(spec.down.gilbert for spec in SPECS.values())
    assert any(spec.up.rate_mbps != spec.down.rate_mbps for spec in SPECS.values())


def report(rtt_ms: float = 20.1, rate_mbps: float | None = 20.1, loss_pct: float = 2.1, burst: float = 4.1) -> dict:
    up: dict = {"loss_pct": loss_pct, "probes": 40_000, "mean_burst": burst}
    up["loss_interval_pct"] = [loss_pct - 0.3, loss_pct + 0.3]
    down = {"loss_pct": 3.0, "loss_interval_pct": [2.7, 3.3], "probes": 39_000, "mean_burst": 1.03, "rate_mbps": 20.0}
    skipped = [] if rate_mbps else ["rate up: the prober could offer only 3 Mbit/s, too little to fill it"]
    if rate_mbps:
        up["rate_mbps"] = rate_mbps
    observed = {"rtt_ms": {"median": rtt_ms}, "up": up, "down": down}
    return {"observed": observed, "skipped": skipped, "repeated": ["loss"]}


def said(**observed: float | None) -> dict[str, dict]:
    records = _records("link x", SPECS[BURSTY], report(**observed))  # type: ignore[arg-type]
    return {record["name"].removeprefix("link x: "): record for record in records}


def test_a_link_as_declared_keeps_every_bound_and_one_that_is_off_its_own():
    good = said()
    assert all(record["ok"] for record in good.values()) and len(good) == 6
    assert "second measurement" in good["loss up, off by"]["note"]
    assert "second measurement" not in good["rate up, off by"]["note"]
    for observed, name in (
        ({"rtt_ms": 20.7}, "round trip"),
        ({"rate_mbps": 19.1}, "rate up"),
        ({"loss_pct": 2.6}, "loss up"),
        ({"burst": 4.9}, "mean burst up"),
    ):
        off = [key for key, record in said(**observed).items() if not record["ok"]]
        assert off == [f"{name}, off by"]


def test_what_could_not_be_measured_is_said_with_the_reason():
    found = said(rate_mbps=None)["rate up, not measured"]
    assert found["bound"] == "" and "could offer only 3 Mbit/s" in found["note"]


@pytest.mark.lab
@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_is_measured(backend):
    """Whether it keeps its bounds is for the bench to say, on a machine that is quiet."""
    if problem := why_not("uml") if os.geteuid() == 0 else "needs root":
        pytest.skip(problem)
    names = [record["name"] for record in measure_declared(backend, ["2 ms"])]
    assert any("2 ms: round trip" in name for name in names) and any("2 ms: loss down" in name for name in names)


@pytest.mark.lab
@pytest.mark.slow
def test_a_killed_owner_leaves_nothing():
    if problem := why_not("uml") if os.geteuid() == 0 else "needs root":
        pytest.skip(problem)
    assert kill_labs(3, seed=5)["left"] == []
