"""The laws every method, codec and schedule inherits. A new file in those folders is tested here by itself."""

from __future__ import annotations

import inspect
import threading

import numpy as np
import pytest
from harness import (
    PROMPT,
    Setup,
    composed,
    device_on,
    joint_law,
    methods_with_edge,
    p_value,
    play,
    read_back,
    steady,
    target_row,
    toy_edge,
)

import nodes.composition
from nodes.composition import load_system, system_names
from nodes.drafting import Drafter
from nodes.methods import Score, method_class, method_names
from nodes.methods.dsd import DSD
from nodes.methods.dssd import DSSD, Down
from nodes.policies.stop import stop_names
from nodes.runspec import conversation_id
from nodes.sampling import Coins, Sampling, accepted_prefix, race, residual, sample
from nodes.schedules import schedule_names
from transport.codecs import codec_names, make_codec
from transport.inproc import Faults

RUNS, TOKENS = 2000, 5
FEW = 600  # runs where many combinations are tried: a mutant is caught in as many
REJECT = 1e-4  # seeds are fixed, so a law that holds passes for ever
METHODS = methods_with_edge(method_names())
DRAFTING = [name for name in METHODS if method_class(name).drafts]


def strict(method):
    """Of a method that is exact at one end of an option's range, that end."""
    return {"options": {"c_th": 1}} if "c_th" in inspect.signature(method_class(method)).parameters else {}


def law_of(system, folder, sampling=None, runs=RUNS):
    """How probable what `runs` conversations gave is under the target's law: the less probable of their first two
    tokens and their last two. The first draft is as long as it gets, the last token comes rounds later."""
    setup = Setup([system], sampling=sampling or Sampling(), requests=runs, max_new_tokens=TOKENS)
    result = play(setup, folder)
    prompt = setup.engine("target").tokenizer.encode(PROMPT)
    outputs = result.tokens(setup.spec().systems[0].name)
    assert len(outputs) == runs and {len(tokens) for tokens in outputs} == {TOKENS}
    return min(
        p_value([(tokens[at], tokens[at + 1]) for tokens in outputs], joint_law(setup, prompt, at))
        for at in (0, TOKENS - 2)
    )


# 1. The output law is the target's -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_method_keeps_the_law(method, tmp_path):
    system = composed(method)
    p = law_of(system, tmp_path)
    assert (p > REJECT) == system.exact, f"p = {p:.2g}, said to be {'exact' if system.exact else 'not exact'}"


@pytest.mark.parametrize("codec", codec_names())
def test_uplink_codec_keeps_the_law(codec, tmp_path):
    """Encode first, then sample: any uplink codec is exact."""
    assert law_of(composed("dsd", up=codec), tmp_path) > REJECT


@pytest.mark.parametrize("codec", [name for name in codec_names() if make_codec(name, 4).lossless])
@pytest.mark.parametrize("method", ["dssd", "dssd_sampled"])
def test_lossless_downlink_codec_keeps_the_law(method, codec, tmp_path):
    system = composed(method, down=codec)
    assert system.exact and law_of(system, tmp_path) > REJECT


def test_lossy_downlink_codec_is_not_called_exact():
    lossy = [name for name in codec_names() if not make_codec(name, 4).lossless]
    assert lossy
    for codec in lossy:
        assert not composed("dssd", down=codec).exact


@pytest.mark.parametrize("schedule", schedule_names())
def test_schedule_keeps_the_law(schedule, tmp_path):
    assert law_of(composed("dssd", schedule=schedule), tmp_path) > REJECT


@pytest.mark.parametrize("sampling", [Sampling(top_k=3), Sampling(top_p=0.7), Sampling(temperature=0.6)], ids=str)
def test_processed_distribution_is_what_is_kept(sampling, tmp_path):
    assert law_of("dssd_sampled", tmp_path, sampling) > REJECT


@pytest.mark.parametrize("schedule", ["stop_and_wait", "lookahead"])
@pytest.mark.parametrize("policy", [name for name in stop_names() if name != "fixed"])
@pytest.mark.parametrize("method", DRAFTING)
def test_length_policy_goes_with_every_method(method, policy, schedule, tmp_path):
    stop = {"policy": policy, **({"threshold": 0.2, "max_length": 6} if policy == "confidence" else {})}
    system = composed(method, **strict(method), stop=stop, schedule=schedule)
    p = law_of(system, tmp_path, runs=FEW)
    assert p > REJECT or not system.exact


# 2. Greedy, and shared noise, give the target's own tokens -----------------------------------------------------------


def target_only(setup, draw):
    """Decoding by the target alone; `draw(row, coins, position)`."""
    outputs = []
    for prompt in setup.spec().prompts:
        tokens = setup.engine("target").tokenizer.encode(prompt.text)
        coins, start = Coins(setup.sampling.seed, conversation_id(prompt.id, 0)), len(tokens)
        while len(tokens) < start + setup.max_new_tokens:
            tokens.append(draw(target_row(setup, tokens), coins, len(tokens)))
        outputs.append(tokens[start:])
    return outputs


@pytest.mark.parametrize("system", [name for name in system_names() if load_system(name).exact])
def test_greedy_is_the_targets_greedy(system, tmp_path):
    setup = Setup([steady(system)], sampling=Sampling(temperature=0), requests=12, prompts=["t1", "t2 t3", "t4 t5 t6"])
    assert play(setup, tmp_path).tokens(system) == target_only(setup, lambda row, coins, at: int(row.argmax()))


@pytest.mark.parametrize("schedule", schedule_names())
@pytest.mark.parametrize("length", [1, 3, 8])
def test_coupled_is_target_only_gumbel(length, schedule, tmp_path):
    system = composed("coupled", schedule=schedule, stop={"policy": "fixed", "length": length})
    setup = Setup([system])
    expected = target_only(setup, lambda row, coins, at: race(row, coins.noise(at, len(row))))
    assert play(setup, tmp_path).tokens(system.name) == expected


def test_token_match_and_edge_ar_are_target_only_sampling(tmp_path):
    setup = Setup(["token_match", "edge_ar"])
    result = play(setup, tmp_path)
    expected = target_only(setup, lambda row, coins, at: sample(row, coins.fixed("final", at)))
    assert result.tokens("token_match") == expected == result.tokens("edge_ar")


# 3. Same coins, same tokens ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [name for name in codec_names() if make_codec(name, 4).lossless])
def test_dssd_equals_dsd_under_lossless_codecs(codec, tmp_path):
    split, whole = composed("dssd", down=codec), composed("dsd", up=codec)
    result = play(Setup([split, whole, "colocated_sd"]), tmp_path)
    assert result.tokens(split.name) == result.tokens(whole.name) == result.tokens("colocated_sd")


@pytest.mark.parametrize("method", METHODS)
def test_every_schedule_settles_the_same_tokens(method, tmp_path):
    stop = {"policy": "fixed", "length": 2}
    systems = [composed(method, schedule=schedule, stop=stop) for schedule in schedule_names()]
    result = play(Setup(systems, requests=40, acceptance=0.9, sampling=Sampling(temperature=0.5)), tmp_path)
    first, *others = [result.tokens(system.name) for system in systems]
    assert all(other == first for other in others)
    hits = [record.lookahead_hit for record in result.rounds]
    if method in DRAFTING:
        assert True in hits and False in hits  # both ways were taken
    else:
        assert set(hits) == {None} and not any(record.lookahead_ms for record in result.rounds)


@pytest.mark.parametrize("codec", codec_names())
def test_padding_a_row_changes_no_token(codec, tmp_path):
    """A small pair that stands for a wide one sends its bytes and says what it says itself."""
    systems = [composed("dsd", up=codec), composed("dssd", down=codec), composed("cu_hlm")]
    narrow = play(Setup(systems, requests=6, vocab_size=64), tmp_path / "narrow")
    wide = play(Setup(systems, requests=6, vocab_size=64, padded_to=500), tmp_path / "wide")
    for system in systems:
        assert wide.tokens(system.name) == narrow.tokens(system.name)


# 4. A batch of N equals N alone --------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", [name for name in system_names() if load_system(name).exact])
def test_sessions_in_one_forward_do_not_meet(system, tmp_path):
    setup = Setup([steady(system)], requests=6, batch={"policy": "size", "size": 3, "max_wait_ms": 20})
    alone = play(setup, tmp_path / "alone").tokens(system)
    folders = [tmp_path / f"device{i}" for i in range(3)]
    with toy_edge(setup) as edge:
        devices = [device_on(setup, edge, folder) for folder in folders]
        threads = [threading.Thread(target=device.run) for device in devices]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for device in devices:
            device.close()
            device.writer.close()
        results = [read_back(folder, edge.node) for folder in folders]
    assert all(result.tokens(system) == alone for result in results)
    assert max(record.batch for result in results for record in result.rounds) == 3


# 5. Losses and crashes change nothing --------------------------------------------------------------------------------


@pytest.mark.parametrize("system", [name for name in system_names() if load_system(name).exact])
def test_lost_and_doubled_messages_change_no_token(system, tmp_path):
    setup = Setup([steady(system)], requests=4, retry_after_s=0.05)
    calm = play(setup, tmp_path / "calm").tokens(system)
    losses = Faults(drop_probability=0.15, duplicate_every=3, seed=1), Faults(drop_probability=0.15, seed=2)
    rough = play(setup, tmp_path / "rough", *losses)
    assert rough.tokens(system) == calm
    assert sum(record.retries + record.resumed for record in rough.requests) > 0


@pytest.mark.parametrize("system", [name for name in system_names() if load_system(name).exact])
def test_a_restarted_edge_changes_no_token(system, tmp_path):
    setup = Setup([steady(system)], requests=3, max_new_tokens=40, retry_after_s=0.05, forward_ms=2)
    calm = play(setup, tmp_path / "calm").tokens(system)
    with toy_edge(setup) as edge:
        device = device_on(setup, edge, tmp_path / "rough")
        count = 0

        def now_and_then(record, write=device.writer.round):
            nonlocal count
            write(record)
            count += 1
            if count in (2, 9):
                edge.kill()
                edge.start()

        device.writer.round = now_and_then
        device.run()
        device.close()
        device.writer.close()
        rough = read_back(tmp_path / "rough", edge.node)
    assert rough.tokens(system) == calm
    assert sum(record.resumed for record in rough.requests) >= 1


# 6. The law test has teeth -------------------------------------------------------------------------------------------


class InvertedRatio(DSSD):
    """The accept test as the DSSD paper prints it."""

    def serve(self, up, base, coins):
        target = yield Score(up.tokens)
        n = accepted_prefix(up.probs, target.at(up.tokens), coins, base)
        if n == len(up.tokens):
            return Down(n_accepted=n, tail=[sample(target.row(n), coins("final", base + n))])
        return Down(n_accepted=n, tail=[], target=self.down.encode(target.row(n)))


class ResidualOfLogits(DSSD):
    """Subtracts draft logits from target probabilities, as the paper's public code does."""

    def resolve(self, draft, verdict, coins):
        if verdict.target is None:
            return verdict.tail
        n = verdict.n_accepted
        logits = np.log(np.maximum(draft.dists[n], 1e-9)) + 3
        excess = np.maximum(self.down.decode(verdict.target) - logits, 0)
        return [sample(excess / excess.sum(), coins("final", draft.base + n))]


class SampleThenCompress(Drafter):
    """Draws from the row as the model gave it, and sends the compressed one."""

    def extend(self, session, prefix, draft, coins, limit, interrupted=lambda: False):
        while len(draft.tokens) < limit and self.stop.more(draft):
            row = self.row_after(session, [*prefix, *draft.tokens])
            encoded = self.method.up.encode(row)
            token = self.method.draw(row, coins, draft.base + len(draft.tokens))
            draft.tokens.append(token)
            draft.probs.append(float(row[token]))
            draft.dists.append(self.method.up.decode(encoded))
            draft.encoded.append(encoded)
        return True


class ResidualOfAnotherRow(DSSD):
    """Subtracts the first draft row, whichever token was rejected: right for drafts of one token."""

    def resolve(self, draft, verdict, coins):
        if verdict.target is None:
            return verdict.tail
        row = residual(self.down.decode(verdict.target), draft.dists[0])
        return [sample(row, coins("final", draft.base + verdict.n_accepted))]


@pytest.mark.parametrize("runs", [FEW, RUNS])
@pytest.mark.parametrize("mutant", [InvertedRatio, ResidualOfLogits, ResidualOfAnotherRow])
def test_mutant_method_is_caught(mutant, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(nodes.composition, "method_class", lambda name: mutant)
    assert law_of(composed("dssd"), tmp_path, runs=runs) < REJECT


def test_sample_then_compress_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr("nodes.device.Drafter", SampleThenCompress)
    assert law_of(composed("dsd", up={"codec": "topk", "k": 3}), tmp_path) < REJECT


def test_the_draft_alone_is_caught(tmp_path):
    assert not load_system("device_ar").exact
    assert law_of("device_ar", tmp_path) < REJECT
    assert DSD.exact is True
