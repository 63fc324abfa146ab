import random

import pytest

from transport.clock import SAME_CLOCK, ClockSample, Offset, clock_identity, estimate

HOUR_NS = 3600 * 10**9
MS_NS = 10**6


class FakeRemote:
    """A clock hours away that runs `drift_ppm` fast, behind a link with jitter and unequal ways."""

    def __init__(self, offset_ns, drift_ppm, seed=1):
        self.offset_ns, self.drift, self.chance = offset_ns, drift_ppm * 1e-6, random.Random(seed)

    def at(self, local_ns):
        return local_ns + self.offset_ns + round(local_ns * self.drift)

    def exchange(self, sent_ns):
        up, stay, down = (round(self.chance.uniform(*way) * MS_NS) for way in ((15, 40), (0.01, 5), (20, 60)))
        arrived, left = sent_ns + up, sent_ns + up + stay
        return ClockSample(sent_ns, self.at(arrived), self.at(left), left + down)


@pytest.mark.parametrize("offset_ns", [-7 * HOUR_NS, 0, 5000 * HOUR_NS])
@pytest.mark.parametrize("drift_ppm", [-200, 0, 200])
def test_offset_of_hours_and_drift(offset_ns, drift_ppm):
    remote = FakeRemote(offset_ns, drift_ppm)
    samples = [remote.exchange(10**9 + second * 10**9) for second in range(1200)]
    offset = estimate(samples)
    assert offset.error_ns < 25 * MS_NS
    assert abs(offset.drift_ppm - drift_ppm) <= offset.drift_error_ppm
    for local_ns in range(0, 4000 * 10**9, 97 * 10**9):
        error_ns = abs(offset.to_local_ns(remote.at(local_ns)) - local_ns)
        assert error_ns <= offset.error_at_ns(local_ns) + 1000


def test_few_exchanges_give_a_bound_that_widens_with_time():
    remote = FakeRemote(-9 * HOUR_NS, 150)
    samples = [remote.exchange(second * 10**9) for second in range(5)]
    offset = estimate(samples)
    best = min(samples, key=lambda sample: sample.rtt_ns)
    assert offset.drift_ppm is None and offset.error_ns == best.error_ns == pytest.approx(best.rtt_ns / 2, abs=1)
    for local_ns in range(0, 600 * 10**9, 10**10):
        assert abs(offset.to_local_ns(remote.at(local_ns)) - local_ns) <= offset.error_at_ns(local_ns) + 1000
    assert offset.error_at_ns(600 * 10**9) > offset.error_ns + 100 * MS_NS


def test_the_quickest_exchange_wins():
    slow = ClockSample(0, 10_000, 10_000, 100)  # offset 9,950 give or take 50
    quick = ClockSample(1000, 11_000, 11_000, 1002)
    assert estimate([slow, quick, slow]).offset_ns == quick.offset_ns == 9999
    assert quick.error_ns == 1


def test_the_other_ends_residence_is_not_network():
    sample = ClockSample(sent_ns=0, remote_received_ns=1_000_040, remote_sent_ns=1_900_040, received_ns=900_080)
    assert (sample.rtt_ns, sample.offset_ns) == (80, 1_000_000)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        estimate([])
    with pytest.raises(ValueError, match="negative round trip"):
        estimate([ClockSample(100, 0, 500, 200)])


def test_one_clock():
    assert SAME_CLOCK.to_local_ns(12345) == 12345 and SAME_CLOCK.error_at_ns(10**15) == 0
    assert clock_identity() == clock_identity() and len(clock_identity()) > 36
    assert Offset(5, 0).to_local_ns(12) == 7
