"""The toy's promise: the acceptance that was asked for, in every context, under every sampling setting."""

from __future__ import annotations

import time

import numpy as np
import pytest

from nodes.engine import EngineError, SessionRefused
from nodes.engine.toy import ToyEngine, ToyTokenizer, move_mass
from nodes.sampling import Sampling
from nodes.session import Session

SETTINGS = [
    Sampling(),
    Sampling(temperature=0.4),
    Sampling(temperature=2.0, top_k=4),
    Sampling(top_k=2),
    Sampling(top_k=1),
    Sampling(top_p=0.8),
    Sampling(temperature=0.7, top_k=9, top_p=0.5),
    Sampling(top_p=1e-6),
]


def pair(**options):
    return ToyEngine("draft", **options), ToyEngine("target", **options)


def contexts(vocab_size: int, n: int = 40):
    rng = np.random.default_rng(0)
    return [tuple(rng.integers(0, vocab_size, rng.integers(0, 3)).tolist()) for _ in range(n)]


@pytest.mark.parametrize("acceptance", [1.0, 0.97, 0.7, 0.5, 0.1, 1 / 32])
@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_acceptance_is_exact(acceptance, sampling):
    draft, target = pair(acceptance=acceptance)
    for context in contexts(32):
        draft_row, target_row = draft.row(context, sampling), target.row(context, sampling)
        assert abs(np.minimum(draft_row, target_row).sum(dtype=float) - acceptance) < 1e-6
        assert abs(draft_row.sum(dtype=float) - 1) < 1e-6 and draft_row.dtype == np.float32
        assert (draft_row >= 0).all()


@pytest.mark.parametrize("vocab_size", [2, 3, 1000])
def test_acceptance_is_exact_for_any_vocabulary(vocab_size):
    draft, target = pair(acceptance=0.6, vocab_size=vocab_size, sharpness=0)
    for context in contexts(vocab_size):
        both = np.minimum(draft.row(context, Sampling()), target.row(context, Sampling()))
        assert abs(both.sum(dtype=float) - 0.6) < 1e-5


def test_support_is_whole_where_it_can_be():
    draft, target = pair(acceptance=0.7)
    for context in contexts(32):
        assert (draft.row(context, Sampling()) > 0).all()
        assert ((draft.row(context, SETTINGS[2]) > 0) == (target.row(context, SETTINGS[2]) > 0)).mean() > 0.9


def test_nobody_loses_and_gains():
    target = np.array([0.5, 0.3, 0.2, 0], dtype=np.float32)
    draft = move_mass(target, 0.25, np.array([2, 1, 0, 3]))
    assert (draft[[2, 1]] < target[[2, 1]]).all() and draft[0] > target[0] and draft[3] == 0


def test_greedy_rows_agree_in_that_share_of_contexts():
    draft, target = pair(acceptance=0.7, order=3)
    greedy, agreed = Sampling(temperature=0), 0
    rng = np.random.default_rng(1)
    for context in rng.integers(0, 32, (2000, 3)).tolist():
        draft_row, target_row = draft.row(context, greedy), target.row(context, greedy)
        assert draft_row.sum() == draft_row.max() == target_row.max() == 1
        agreed += int(draft_row.argmax() == target_row.argmax())
    assert abs(agreed / 2000 - 0.7) < 0.04


def test_rows_depend_on_the_last_tokens_only():
    engine = ToyEngine("target", order=2)
    long, short = Session(Sampling(), [9, 9, 9, 4, 5]), Session(Sampling(), [1, 4, 5])
    long_dists, short_dists = engine.forward([long, short], [3, 1])
    assert len(long_dists) == 3 and long.fed == 5 and short.fed == 3
    np.testing.assert_array_equal(long_dists.row(2), short_dists.row(0))
    assert not np.array_equal(long_dists.row(1), long_dists.row(2))
    np.testing.assert_array_equal(long_dists.at([3, 4]), [long_dists.row(0)[3], long_dists.row(1)[4]])
    assert not np.array_equal(ToyEngine("target", table_seed=1).row((4, 5), Sampling()), short_dists.row(0))


def test_order_zero_ignores_the_text():
    engine = ToyEngine("target", order=0)
    [dists] = engine.forward([Session(Sampling(), [1, 2, 3])], [2])
    np.testing.assert_array_equal(dists.row(0), dists.row(1))


def test_the_memo_forgets_instead_of_growing(monkeypatch):
    monkeypatch.setattr("nodes.engine.toy.MEMO_BYTES", 4 * 32 * 10)
    engine = ToyEngine("draft")
    for token in range(32):
        engine.forward([Session(Sampling(), [token, 0])], [1])
    assert [len(memo) for memo in engine._memos.values()] == [10]


def test_a_memoised_forward_takes_microseconds():
    engine = ToyEngine("draft", order=1)
    session = Session(Sampling(), [1, 2, 3])
    engine.forward([session], [1])

    def forward_s() -> float:
        session.become([1, 2, 3])
        began_s = time.perf_counter()
        engine.forward([session], [1])
        return time.perf_counter() - began_s

    assert min(forward_s() for _ in range(200)) < 100e-6


def test_tokenizer():
    tokenizer = ToyTokenizer(32)
    tokens = [0, 31, 7, 7]
    assert tokenizer.encode(tokenizer.decode(tokens)) == tokens
    words = tokenizer.encode("t32 t07 Grüße \udcff t9999999999999999999999 日本")
    assert len(words) == 6 and all(0 <= token < 32 for token in words)
    assert words == tokenizer.encode("t32 t07 Grüße \udcff t9999999999999999999999 日本")
    assert tokenizer.encode("") == []


def test_twins_agree_and_eos_is_optional():
    draft, target = pair(vocab_size=40)
    assert draft.vocab_hash == target.vocab_hash != ToyEngine("draft").vocab_hash
    assert draft.eos_tokens == frozenset() and ToyEngine("draft", eos=3).eos_tokens == {3}
    assert "toy" in draft.labels


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"acceptance": 0.01}, "acceptance 0.01"),
        ({"acceptance": 1.1}, "acceptance 1.1"),
        ({"vocab_size": 1}, "vocab_size 1"),
        ({"order": -1}, "order -1"),
        ({"eos": 32}, "eos 32"),
    ],
)
def test_impossible_tables_are_refused(options, said):
    with pytest.raises(EngineError, match=said):
        ToyEngine("draft", **options)


def test_strange_tokens_are_refused():
    with pytest.raises(SessionRefused, match="token 32"):
        ToyEngine("target").forward([Session(Sampling(), [32])], [1])
