"""How long probes are waited for, on a clock and a wire made here."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from queues import arrivals_s

from netem import check, probe
from netem.distributions import middle_half_ms
from netem.judge import PROBE_FRAME_BITS, STREAM_FRAME_BITS, LinkReport, judge_delays, judge_rate
from netem.spec import DIRECTIONS, LinkSpec


class Wire:
    """Stands for the clock, `select` and a socket at once. Answers come as late as `round_trip_s` says (None: never);
    none overtakes another."""

    def __init__(self, round_trip_s: Callable[[], float | None]) -> None:
        self.now_s, self._round_trip_s = 0.0, round_trip_s
        self._coming: list[tuple[float, bytes]] = []
        self._last_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def time_ns(self) -> int:
        return round(self.now_s * 1e9)

    def select(
        self, _read: object, _write: object, _error: object, wait_s: float
    ) -> tuple[list[Any], list[Any], list[Any]]:
        if self._coming and self._coming[0][0] <= self.now_s + wait_s:
            self.now_s = max(self.now_s, self._coming[0][0])
            return [self], [], []
        self.now_s += wait_s
        return [], [], []

    def sendto(self, data: bytes, _address: object) -> None:
        if (late_s := self._round_trip_s()) is not None:
            self._last_s = max(self._last_s, self.now_s + late_s)
            _, number, _, asked_ns, _, _ = probe.PROBE.unpack_from(data)
            answer = probe.PROBE.pack(b"!", number, number, asked_ns, asked_ns, asked_ns)
            heapq.heappush(self._coming, (self._last_s, answer))

    def receive(self, _udp: object) -> tuple[bytes, int, tuple[str, int]]:
        at_s, data = heapq.heappop(self._coming)
        return data, round(at_s * 1e9), ("", 0)


def asked(monkeypatch: pytest.MonkeyPatch, wire: Wire, *arguments: int) -> list[int]:
    """Numbers that were answered."""
    monkeypatch.setattr(probe, "time", wire)
    monkeypatch.setattr(probe, "select", SimpleNamespace(select=wire.select))
    monkeypatch.setattr(probe, "open_socket", lambda: wire)
    monkeypatch.setattr(probe, "receive", wire.receive)
    return sorted(answer[0] for answer in probe.ask("", 0, *arguments)["answers"])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "link",
    [
        {"rtt_ms": 4},
        {"rtt_ms": 1400},
        {"rtt_ms": 20_000},
        {"rtt_ms": 10, "rate_mbps": 0.001},
        {"rtt_ms": 400, "jitter_ms": 200},
        {"up": {"delay_ms": 300, "jitter_ms": 300, "distribution": "pareto"}, "down": {"delay_ms": 300}},
        {"rtt_ms": 1000, "up": {"jitter_ms": 400, "distribution": "normal"}, "down": {"jitter_ms": 400}},
    ],
    ids=str,
)
def test_what_comes_as_late_as_was_declared_is_not_lost(monkeypatch: pytest.MonkeyPatch, link: dict) -> None:
    spec, chance = LinkSpec(**link), random.Random(1)
    most_s = check._longest_ms(spec) / 1e3
    least_s = max(0.0, 2 * spec.base_rtt_ms / 1e3 - most_s)
    for _ in range(20):
        wire = Wire(lambda: chance.choice([least_s, most_s, chance.uniform(least_s, most_s)]))
        assert asked(monkeypatch, wire, 200, 5000, round(1e6 * most_s)) == list(range(200))


def test_a_link_that_is_slower_than_declared_is_heard_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue lets one go every 50 ms, and nobody has declared one."""
    sent = iter(range(100))
    wire = Wire(lambda: 0.05 * next(sent))
    assert asked(monkeypatch, wire, 100, 1000, 1000) == list(range(100))


def test_what_is_lost_is_not_waited_for_much_longer_than_it_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(1)
    for longest_s, lost in ((0.02, 0.1), (1.4, 0.1), (0.02, 1.0), (1.4, 1.0)):
        wire = Wire(lambda lost=lost, took_s=longest_s: None if chance.random() < lost else took_s)
        asked(monkeypatch, wire, 200, 5000, round(1e6 * longest_s))
        waits_s = max(probe.UNHEARD_S, longest_s) if lost == 1 else longest_s
        assert wire.now_s <= 0.995 + waits_s + probe.LAST_WAIT_S + 1e-6


def probed_ms(spec: LinkSpec, count: int = 60) -> dict[str, list[float]]:
    """What the round trip's probes would find on that link."""
    interval_s = max(check._apart_ms(spec.direction(which)) for which in DIRECTIONS) / 1e3
    sent_s = [number * interval_s for number in range(count)]
    there_s = arrivals_s(spec.up, sent_s, PROBE_FRAME_BITS)
    back_s = arrivals_s(spec.down, there_s, PROBE_FRAME_BITS)
    times_s = {"rtt": (sent_s, back_s), "up": (sent_s, there_s), "down": (there_s, back_s)}
    return {what: [1e3 * (end - begin) for begin, end in zip(*pair)] for what, pair in times_s.items()}


@pytest.mark.parametrize("rtt_ms", [1, 20, 600])
def test_probes_do_not_fill_the_link_that_they_measure(rtt_ms: float) -> None:
    for rate_mbps in (0.001, 0.02, 0.1, 0.17, 0.5, 1.4, 10, 1000):
        for other in ({}, {"rate_mbps": 20}):
            spec = LinkSpec(rtt_ms=rtt_ms, up={"rate_mbps": rate_mbps}, down=other)
            assert judge_delays(spec, probed_ms(spec), LinkReport({}, {})) == []
            spec = LinkSpec(rtt_ms=rtt_ms, up=other, down={"rate_mbps": rate_mbps})
            assert judge_delays(spec, probed_ms(spec), LinkReport({}, {})) == []


def test_a_traced_rate_lets_a_sparse_probe_through_at_once(tmp_path: Path) -> None:
    for rate_mbps in (0.01, 0.5, 1.4, 30):
        (tmp_path / "low.csv").write_text(f"t_s,rate_mbps\n0,{rate_mbps}\n5,40\n")
        for ways in ({"trace": "low.csv"}, {"up": {"trace": "low.csv"}}, {"down": {"trace": "low.csv"}}):
            spec = LinkSpec.model_validate({"rtt_ms": 20, **ways}, context={"folder": tmp_path}).at_start()
            assert judge_delays(spec, probed_ms(spec), LinkReport({}, {})) == []


@pytest.mark.parametrize(
    "up",
    [
        {"rate_mbps": 2, "delay_ms": 300, "jitter_ms": 50, "distribution": "normal", "loss_pct": 1},
        {"rate_mbps": 1, "delay_ms": 300, "jitter_ms": 100, "distribution": "pareto"},
        {"rate_mbps": 1, "delay_ms": 300, "jitter_ms": 300, "distribution": "paretonormal"},
        {"rate_mbps": 0.5, "delay_ms": 200, "jitter_ms": 200, "loss_pct": 5},
        {"delay_ms": 200, "jitter_ms": 100, "distribution": "pareto", "trace": "steady.csv"},
        {"rate_mbps": 5, "delay_ms": 2},
    ],
    ids=str,
)
def test_a_rate_is_found_whatever_the_jitter(tmp_path: Path, up: dict) -> None:
    (tmp_path / "steady.csv").write_text("t_s,rate_mbps\n0,2\n5,2\n")
    spec = LinkSpec.model_validate({"up": up}, context={"folder": tmp_path}).at_start()
    if middle_half_ms(spec.up) is None:
        pytest.skip("tc's tables of distributions are not here: apt install iproute2")
    count, pace_mbps = check._to_stream(spec.up)
    sent_s = [number * STREAM_FRAME_BITS / (pace_mbps * 1e6) for number in range(count)]
    for seed in range(40):
        arrived_ns = [round(1e9 * at_s) for at_s in arrivals_s(spec.up, sent_s, STREAM_FRAME_BITS, seed)]
        assert judge_rate("up", spec, arrived_ns, pace_mbps, LinkReport({}, {})) == []
        slower_ns = [round(1.06 * at_ns) for at_ns in arrived_ns]
        assert judge_rate("up", spec, slower_ns, pace_mbps, LinkReport({}, {})) != []
