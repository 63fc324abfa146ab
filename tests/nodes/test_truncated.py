"""PicoSpec's truncated downlink as published has neither law; accepting against what is sent has the cut target's."""

from __future__ import annotations

import numpy as np
import pytest
from harness import PROMPT, Setup, composed, p_value, play, target_row

from nodes.composition import load_system
from nodes.sampling import Sampling
from transport.codecs import make_codec

RUNS, K = 4000, 4


def cut_law(setup):
    """The law of the first two tokens of the target whose every row is cut to K."""
    codec, prompt, law = make_codec("topk", setup.vocab_size, k=K), setup.engine("target").tokenizer.encode(PROMPT), {}

    def cut(tokens):
        return codec.decode(codec.encode(target_row(setup, tokens)))

    first = cut(prompt)
    for a in np.flatnonzero(first):
        second = cut([*prompt, int(a)])
        for b in np.flatnonzero(second):
            law[int(a), int(b)] = float(first[a]) * float(second[b])
    return law


@pytest.mark.parametrize(("method", "keeps"), [("dssd_truncated", True), ("dssd", False)])
@pytest.mark.parametrize("schedule", ["stop_and_wait", "lookahead"])
def test_law_of_the_cut_target(method, keeps, schedule, tmp_path):
    system = composed(method, down={"codec": "topk", "k": K}, schedule=schedule)
    setup = Setup([system], requests=RUNS, max_new_tokens=2)
    pairs = [tuple(tokens) for tokens in play(setup, tmp_path).tokens(system.name)]
    assert (p_value(pairs, cut_law(setup)) > 1e-4) == keeps
    assert not system.exact


def test_the_published_pair_is_not_called_exact():
    assert not load_system("picospec").exact and not load_system("picospec_exact").exact
    assert load_system("specedge_chain").exact


def test_both_are_dssd_where_sampling_keeps_few_tokens(tmp_path):
    setup = Setup(["picospec", "picospec_exact", "dssd"], sampling=Sampling(top_k=5), requests=30)
    result = play(setup, tmp_path)
    assert result.tokens("picospec") == result.tokens("dssd") == result.tokens("picospec_exact")
