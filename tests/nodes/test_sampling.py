from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from nodes.finish import Finish
from nodes.sampling import Coins, Sampling, accepted_prefix, process, race, residual, sample, sample_many
from nodes.session import Session

ROW = np.array([0.5, 0.0, 0.2, 0.3, 0.0], dtype=np.float32)
MANY = 20_000


def counts(tokens):
    return np.bincount(tokens, minlength=len(ROW))


def fits(observed, row):
    support = row > 0
    assert observed[~support].sum() == 0
    expected = row[support] / row[support].sum() * observed.sum()
    return stats.chisquare(observed[support], expected).pvalue > 1e-4


def test_coins_are_uniform_and_each_their_own():
    coins = Coins(1, 2)
    values = np.array([coins("accept", position) for position in range(MANY)])
    assert stats.kstest(values, "uniform").pvalue > 1e-4
    others = [Coins(2, 2), Coins(1, 3), Coins(1, 2, epoch=1)]
    assert len({coin("accept", 5) for coin in [coins, *others]} | {coins("draft", 5), coins("accept", 6)}) == 6
    assert coins.at_epoch(3).fixed("final", 1) == coins.fixed("final", 1)
    assert coins("draw", 1, 0) != coins("draw", 1, 1)


def test_sample_follows_the_row_and_never_leaves_its_support():
    coins = Coins(0, 0)
    tokens = sample_many(ROW, [coins("x", i) for i in range(MANY)])
    assert fits(counts(tokens), ROW)
    assert tokens[:50] == [sample(ROW, coins("x", i)) for i in range(50)]
    for coin in (0.0, 0.5, 1 - 2**-53):
        assert ROW[sample(ROW, coin)] > 0


def test_race_follows_the_row():
    coins = Coins(0, 0)
    assert fits(counts([race(ROW, coins.noise(i, 5)) for i in range(MANY)]), ROW)


def test_race_with_shared_noise_meets_its_bound():
    """Pr[match] >= (1 - TV) / (1 + TV)."""
    other = np.array([0.3, 0.2, 0.2, 0.3, 0.0], dtype=np.float32)
    distance = 0.5 * np.abs(ROW - other).sum()
    coins = Coins(3, 0)
    matches = np.mean([race(ROW, n) == race(other, n) for n in (coins.noise(i, 5) for i in range(MANY))])
    assert matches >= (1 - distance) / (1 + distance) - 0.01


def test_accept_then_residual_is_the_target():
    """Leviathan et al. 2023, theorem 1, by simulation."""
    draft = np.array([0.1, 0.3, 0.3, 0.1, 0.2], dtype=np.float32)
    tokens = []
    for i in range(MANY):
        coins = Coins(0, i)
        token = sample(draft, coins("draft", 0))
        if accepted_prefix([ROW[token]], [draft[token]], coins, 0) == 0:
            token = sample(residual(ROW, draft), coins("final", 0))
        tokens.append(token)
    assert fits(counts(tokens), ROW)


def test_residual_of_equal_rows_is_the_row():
    assert residual(ROW, ROW) is ROW


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(top_k=2), Sampling(top_p=0.6), Sampling(temperature=0.3)], ids=str
)
def test_process_gives_distributions(sampling):
    logits = np.random.default_rng(0).normal(size=(50, 40))
    rows = process(logits, sampling)
    assert np.allclose(rows.sum(axis=1), 1, atol=1e-6) and (rows >= 0).all()
    assert (rows.argmax(axis=1) == logits.argmax(axis=1)).all()
    if sampling.top_k:
        assert ((rows > 0).sum(axis=1) == sampling.top_k).all()
    if sampling.top_p < 1:  # the smallest set whose mass reaches p
        full = np.sort(process(logits, Sampling()), axis=1)[:, ::-1]
        kept = (rows > 0).sum(axis=1)
        for probs, n in zip(full, kept):
            assert probs[:n].sum() >= sampling.top_p - 1e-6 and probs[: n - 1].sum() < sampling.top_p + 1e-6


def test_greedy_takes_the_first_of_equals():
    assert process(np.array([[1.0, 3.0, 3.0]]), Sampling(temperature=0)).tolist() == [[0, 1, 0]]


def test_become_keeps_the_common_prefix_less_one():
    session = Session(Sampling(), [1, 2, 3, 4])
    session.fed = 4
    session.become([1, 2, 9, 9, 9])
    assert session.fed == 2
    session.fed = 5
    session.become([1, 2, 9])
    assert session.fed == 2  # one is left to feed
    session.become([1, 2, 9, 5])
    assert session.fed == 2
    session.rewind(4)
    assert session.fed == 0


def finish(**options):
    settings = {"max_new_tokens": 5, "eos_tokens": frozenset([0]), "stop": [], "decode": lambda t: "".join(map(str, t))}
    return Finish(2, **{**settings, **options})


@pytest.mark.parametrize(
    ("options", "tokens", "kept", "why"),
    [
        ({}, [1, 1, 2, 3], [1, 1, 2, 3], None),
        ({}, [1, 1, 2, 0, 4], [1, 1, 2, 0], "eos"),  # inside an accepted run
        ({}, [0, 0, 2], [0, 0, 2], None),  # an end of sequence in the prompt is none
        ({}, [1, 1, 2, 2, 2, 2, 2, 2], [1, 1, 2, 2, 2, 2, 2], "length"),
        ({"stop": ["34"]}, [1, 1, 2, 3, 4, 5], [1, 1, 2, 3, 4], "stop"),
        ({"eos_tokens": frozenset()}, [1, 1, 0], [1, 1, 0], None),
    ],
)
def test_a_request_ends_where_it_should(options, tokens, kept, why):
    assert finish(**options).cut(tokens, 2) == (kept, why)


def test_text_ends_before_the_stop_string():
    assert finish(stop=["34"]).text([1, 1, 2, 3, 4]) == ("2", True)
