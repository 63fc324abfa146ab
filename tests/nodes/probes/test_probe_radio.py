"""The radio model against its own arithmetic, done by hand."""

import pytest

from nodes.probes import make_probe
from nodes.probes.radio_model import RADIOS


@pytest.fixture
def radio(monkeypatch):
    """`radio(...)` makes a probe; `step(seconds, sent, received)` passes time and traffic and returns joules."""
    now, moved = [50.0], [0, 0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def make(**options):
        probe = make_probe("radio_model", traffic=lambda: (moved[0], moved[1]), **options)
        assert probe.trial().status == "modelled"

        def step(seconds, sent=0, received=0):
            now[0] += seconds
            moved[0] += sent
            moved[1] += received
            return {reading.channel: reading.value for reading in probe.read()}["radio"]

        return step

    return make


def test_lte_wakes_sends_lingers_and_rests(radio):
    step, lte = radio(technology="lte"), RADIOS["lte"]
    assert step(10) == pytest.approx(lte.rest_w * 10)
    rested = lte.rest_w * 10
    # one second at 8 Mbit/s up: the paper's 438.39 mW per Mbit/s and 1288.04 mW
    sent = step(1.0, sent=1_000_000)
    assert sent - rested == pytest.approx(8 * 0.43839 + 1.28804 + 1.2107 * 0.2601)
    received = step(1.0, received=1_000_000)
    assert received - sent == pytest.approx(8 * 0.05197 + 1.28804)  # still awake
    quiet = step(20.0)
    assert quiet - received == pytest.approx(1.060 * 11.576 + lte.rest_w * (20 - 11.576))


def test_wifi_tail_is_short_and_steps_do_not_matter(radio):
    coarse, fine = radio(technology="wifi"), None
    coarse(0.1, sent=1000)
    total = coarse(2.0)
    fine = radio(technology="wifi")
    fine(0.1, sent=1000)
    for _ in range(200):
        summed = fine(0.01)
    assert summed == pytest.approx(total)


def test_own_coefficients_need_all_values_and_a_source(radio):
    finding = make_probe("radio_model", coefficients={"active_w": 1.0}).trial()
    assert finding.status == "unsupported" and "tail_s" in finding.remedy
    finding = make_probe("radio_model", technology="lte", coefficients={"active_w": 1.0}).trial()
    assert "source" in finding.remedy
    assert "volts" in make_probe("radio_model", technology="lte", coefficients={"volts": 1.0}).trial().detail
    step = radio(technology="lte", coefficients={"rest_w": 1.0}, source="bench, 12 May")
    assert step(3.0) == pytest.approx(3.0)


def test_counters_of_an_interface():
    probe = make_probe("radio_model", technology="wifi", interface="lo")
    assert probe.trial().status == "modelled" and probe.read()
    finding = make_probe("radio_model", technology="wifi", interface="nope0").trial()
    assert finding.status == "unsupported" and "nope0" in finding.detail
