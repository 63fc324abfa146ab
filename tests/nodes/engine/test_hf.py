"""The cached, batched, rolled-back forward against the plain one that forgets everything in between."""

from __future__ import annotations

import random
import shutil

import numpy as np
import pytest
import torch
import transformers

from nodes.engine import EngineError, SessionRefused
from nodes.engine.hf import HfEngine
from nodes.sampling import Sampling, process
from nodes.session import Session

MODELS = ["llama", "mistral", "opt"]


@pytest.fixture
def engine(request):
    return request.getfixturevalue(request.param)


def plain_rows(engine, tokens: list[int], sampling: Sampling) -> np.ndarray:
    """[len(tokens), V] from one forward over all of it, with no cache."""
    with torch.no_grad():
        logits = engine.model(torch.tensor([tokens]), use_cache=False).logits[0].float().numpy()
    logits[:, max(engine.tokenizer.inner.get_vocab().values()) + 1 :] = -np.inf
    return process(logits, sampling)


def generate(engine, prompt: list[int], n_tokens: int) -> list[int]:
    """transformers' own greedy decoding, up to and with EOS."""
    padding = list(range(max(engine.tokenizer.inner.get_vocab().values()) + 1, engine.vocab_size))
    output = engine.model.generate(
        torch.tensor([prompt]),
        max_new_tokens=n_tokens,
        do_sample=False,
        suppress_tokens=padding or None,
        pad_token_id=0,
    )
    return output[0].tolist()


def assert_rows(engine, dists, expected: np.ndarray, sampling: Sampling) -> None:
    """The rows are these, and so are the rows that the model's head makes of their hidden states."""
    if not len(dists):
        assert not len(expected)
        return
    np.testing.assert_allclose([dists.row(i) for i in range(len(dists))], expected, atol=2e-5)
    states = np.stack([dists.hidden(i) for i in range(len(dists))])
    assert states.shape == (len(dists), engine.hidden_size) and states.dtype == np.float32
    with torch.no_grad():
        logits = engine.model.get_output_embeddings().weight.numpy() @ states.T
    logits[max(engine.tokenizer.inner.get_vocab().values()) + 1 :] = -np.inf
    np.testing.assert_allclose(process(logits.T, sampling), expected, atol=2e-5)


@pytest.mark.parametrize("engine", MODELS, indirect=True)
def test_random_rollbacks_leave_no_trace(engine):
    rng = random.Random(1)
    sampling = Sampling(temperature=0.9)
    session = Session(sampling, [rng.randrange(80) for _ in range(12)])
    for _ in range(60):
        n_rows = rng.randint(1, min(3, len(session.tokens) - session.fed))
        [dists] = engine.forward([session], [n_rows])
        assert session.fed == len(session.tokens)
        assert_rows(engine, dists, plain_rows(engine, session.tokens, sampling)[-n_rows:], sampling)
        kept = session.tokens[: rng.randint(max(1, len(session.tokens) - 8), len(session.tokens))]
        session.become(kept + [rng.randrange(80) for _ in range(rng.randint(1, 6))])


@pytest.mark.parametrize("engine", MODELS, indirect=True)
def test_ragged_batch_equals_singles(engine):
    rng = random.Random(2)
    sampling = Sampling()
    sessions = [Session(sampling, [rng.randrange(80) for _ in range(n)]) for n in (1, 5, 17, 40, 70)]
    assert engine.describe()["batching"] == "padded"
    for _ in range(6):
        rows = [rng.randint(0, min(4, len(session.tokens) - session.fed)) for session in sessions]
        for session, n_rows, dists in zip(sessions, rows, engine.forward(sessions, rows)):
            assert len(dists) == n_rows and session.fed == len(session.tokens)
            expected = plain_rows(engine, session.tokens, sampling)[len(session.tokens) - n_rows :]
            assert_rows(engine, dists, expected, sampling)
        for session in sessions:
            kept = session.tokens[: rng.randint(max(1, len(session.tokens) - 4), len(session.tokens))]
            session.become(kept + [rng.randrange(80) for _ in range(rng.randint(1, 7))])


def test_a_short_feed_shares_one_forward(llama, monkeypatch):
    calls = []
    plain = llama.model.forward
    monkeypatch.setattr(llama.model, "forward", lambda *args, **kw: calls.append(kw) or plain(*args, **kw))
    llama.forward([Session(Sampling(), [1] * n) for n in (1, 9, 31)], [1, 9, 3])
    assert len(calls) == 1 and calls[0]["input_ids"].shape == (3, 31)


@pytest.mark.parametrize("engine", MODELS, indirect=True)
def test_greedy_is_generate(engine):
    lengths = []
    for first in (5, 9, 33, 71):
        session = Session(Sampling(temperature=0), [first, 2, 40])
        for _ in range(64):
            [dists] = engine.forward([session], [1])
            row = dists.row(0)
            assert row.sum() == row.max() == 1
            session.become([*session.tokens, int(row.argmax())])
        expected = generate(engine, [first, 2, 40], 64)
        assert session.tokens[: len(expected)] == expected
        lengths.append(len(expected))
    assert max(lengths) == 3 + 64  # one at least did not end early


def test_padding_of_the_head_gets_nothing(llama):
    assert llama.vocab_size == 96 and llama.describe()["named_tokens"] == 90
    [dists] = llama.forward([Session(Sampling(temperature=2.0), [1, 2, 3])], [3])
    assert all((dists.row(i)[90:] == 0).all() for i in range(3))


def test_released_session_is_fed_again(llama):
    session = Session(Sampling(), [4, 5, 6, 7])
    llama.forward([session], [1])
    llama.release(session)
    assert session.cache is None and session.fed == 0
    session.become([4, 5, 6, 7, 8])
    [dists] = llama.forward([session], [2])
    assert_rows(llama, dists, plain_rows(llama, session.tokens, Sampling())[-2:], Sampling())


def test_no_rows_and_nothing_new(llama):
    session = Session(Sampling(), [4, 5, 6])
    assert len(llama.forward([session], [0])[0]) == 0 and session.fed == 3
    assert len(llama.forward([session], [0])[0]) == 0
    both = [Session(Sampling(), [4, 5]), Session(Sampling(), [6])]
    assert [len(dists) for dists in llama.forward([session, *both], [0, 0, 0])] == [0, 0, 0]
    assert [each.fed for each in both] == [2, 1]


@pytest.mark.parametrize(
    ("tokens", "rows", "said"),
    [
        ([1] * 257, 1, "257 tokens.*at most 256"),
        ([1, 96], 1, "token 96"),
        ([1, -1], 1, "token -1"),
        ([1], 2, "2 rows"),
    ],
)
def test_a_bad_session_is_refused_and_the_others_untouched(llama, tokens, rows, said):
    good, bad = Session(Sampling(), [1, 2, 3]), Session(Sampling(), tokens)
    with pytest.raises(SessionRefused, match=said) as refusal:
        llama.forward([good, bad], [1, rows])
    assert refusal.value.session is bad and good.fed == 0
    llama.forward([good], [1])


def test_a_failed_forward_drops_the_caches(llama, monkeypatch):
    session = Session(Sampling(), [1, 2, 3])
    llama.forward([session], [1])
    session.become([1, 2, 3, 4])
    with monkeypatch.context() as patch:
        patch.setattr(llama.model.lm_head, "forward", lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
        with pytest.raises(RuntimeError, match="out of memory"):
            llama.forward([session], [1])
    [dists] = llama.forward([session], [1])
    assert_rows(llama, dists, plain_rows(llama, session.tokens, Sampling())[-1:], Sampling())


def test_tokenizer_and_hash(llama, llama_folder):
    assert llama.tokenizer.encode("w3 w4 nonsense") == [3, 4, 1]
    assert llama.tokenizer.decode([3, 4]) == "w3 w4"
    assert llama.eos_tokens == {0} and llama.max_tokens == 256
    twin = HfEngine(llama_folder, name="twin", device="cpu")
    assert twin.vocab_hash == llama.vocab_hash and len(llama.vocab_hash) == 64


@pytest.mark.parametrize("damaged", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_damaged_folder_names_the_remedy(llama_folder, tmp_path, damaged):
    shutil.copytree(llama_folder, tmp_path / "model")
    (tmp_path / "model" / damaged).write_bytes(b"garbage")
    with pytest.raises(EngineError, match=r"cannot load model.*\n.*save_pretrained"):
        HfEngine(tmp_path / "model", name="hf:damaged", device="cpu")


def test_a_missing_model_names_the_remedy():
    with pytest.raises(EngineError, match="no-such-owner/no-such-model") as failure:
        HfEngine("no-such-owner/no-such-model", name="hf:x")
    assert "hf download no-such-owner/no-such-model" in str(failure.value)


def test_a_recurrent_model_is_fed_again_or_refused(recurrent_folder):
    if transformers.__version__.startswith("4."):  # there it takes one token at a time, and silently
        with pytest.raises(EngineError, match="cache cannot be trusted"):
            HfEngine(recurrent_folder, name="hf:lfm2", device="cpu", threads=1)
        return
    engine = HfEngine(recurrent_folder, name="hf:lfm2", device="cpu", threads=1)
    assert engine.describe()["rollback"] == "feed again from the start"
    assert engine.describe()["batching"].startswith("one by one: its recurrent state")
    test_random_rollbacks_leave_no_trace(engine)
    sessions = [Session(Sampling(), [1] * n) for n in (2, 5)]
    for session, dists in zip(sessions, engine.forward(sessions, [1, 1])):
        assert_rows(engine, dists, plain_rows(engine, session.tokens, Sampling())[-1:], Sampling())
