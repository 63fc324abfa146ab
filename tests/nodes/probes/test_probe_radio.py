"""The radio model against its own arithmetic, done by hand."""

import pytest

from nodes.probes import make_probe
from nodes.probes.radio_model import MEASURED, declared_radio


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
    step, lte = radio(technology="lte"), MEASURED["lte"]
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


def test_5g_by_the_ratios_of_its_report(radio):
    """TR 38.840: monitoring draws 100 times deep sleep, receiving 300, sending 700; waking costs 450 ms of it."""
    step = radio(technology="5g", unit_w=0.004, tx_mbps=50.0, rx_mbps=400.0)
    drx = (8 * 100 + 450 + 132) / 160
    assert step(16.0) == pytest.approx(16 * drx * 0.004)
    rested = step(0.0)
    # 50 Mbit take a second of sending: 700 for that second, and the wake-up
    sent = step(1.0, sent=50_000_000 // 8)
    assert sent - rested == pytest.approx((700 + 0.45) * 0.004)
    received = step(1.0, received=400_000_000 // 8)
    assert received - sent == pytest.approx(300 * 0.004)  # still awake
    quiet = step(10.0)
    assert quiet - received == pytest.approx((100 * 0.1 + drx * 9.9) * 0.004)


def test_own_coefficients_replace_some_and_say_where_they_are_from(radio):
    step = radio(technology="lte", coefficients={"rest_w": 1.0}, source="bench, 12 May")
    assert step(3.0) == pytest.approx(3.0)
    assert declared_radio("wifi", {"rest_w": 1.0}, "bench").source.endswith("; rest_w: bench")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"coefficients": {"active_w": 1.0}, "source": "bench"}, "tail_s"),
        ({"technology": "lte", "coefficients": {"active_w": 1.0}}, "source"),
        ({"technology": "lte", "coefficients": {"volts": 1.0}}, "volts"),
        ({"technology": "lte", "coefficients": {"rest_w": -1.0}, "source": "bench"}, "rest_w of -1"),
        ({"technology": "6g"}, "lte, wifi, 5g"),
        ({"technology": "5g", "tx_mbps": 50.0}, "unit_w, rx_mbps"),
        ({"technology": "5g", "unit_w": 0.0, "tx_mbps": 50.0, "rx_mbps": 50.0}, "unit_w of 0"),
        ({"technology": "wifi", "unit_w": 1.0}, "only 5g"),
    ],
)
def test_a_radio_that_cannot_be_made_is_refused_with_what_to_declare(options, said):
    with pytest.raises(ValueError, match=said):
        declared_radio(**options)
    finding = make_probe("radio_model", **options).trial()
    assert finding.status == "unsupported" and said in f"{finding.detail}: {finding.remedy}"


def test_counters_of_an_interface():
    probe = make_probe("radio_model", technology="wifi", interface="lo")
    assert probe.trial().status == "modelled" and probe.read()
    finding = make_probe("radio_model", technology="wifi", interface="nope0").trial()
    assert finding.status == "unsupported" and "nope0" in finding.detail
