"""One model in two processes: the same answers as in one, whatever is fed, rolled back and forgotten."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from parallel_script import play

from nodes.engine import EngineError, torchrun
from nodes.engine.checks import check_shares
from nodes.engine.make import make_engine, make_unpaced, parse

pytest.importorskip("accelerate", reason="tensor_parallel needs accelerate: pip install 'dssd-testbed[parallel]'")
PROJECT = Path(__file__).parents[3]


def under_torchrun(*words: object, processes: int = 2) -> subprocess.CompletedProcess[str]:
    options = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1",
                   "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}  # fmt: skip
    script = Path(__file__).with_name("parallel_script.py")
    command = [sys.executable, "-m", "torch.distributed.run", *options, str(script), *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_two_processes_answer_as_one(llama, llama_folder, tmp_path):
    done = under_torchrun(llama_folder, 2, tmp_path / "answers.npz")
    assert done.returncode == 0, done.stderr
    alone, together = play(llama), np.load(tmp_path / "answers.npz")
    for what in ("rows", "states"):
        np.testing.assert_allclose(together[what], alone[what], rtol=1e-3, atol=1e-5)
    assert (together["rows"].argmax(-1) == alone["rows"].argmax(-1)).all()


@pytest.mark.slow
def test_a_model_whose_state_cannot_be_wound_back_or_that_has_no_plan_says_so(recurrent_folder, opt, tmp_path):
    done = under_torchrun(recurrent_folder, 2, tmp_path / "answers.npz")
    if done.returncode == 0:  # transformers has a plan for this family: then it has to be right
        alone = play(make_engine({"engine": f"hf:{recurrent_folder}", "device": "cpu"}, "target"))
        np.testing.assert_allclose(np.load(tmp_path / "answers.npz")["rows"], alone["rows"], rtol=1e-3, atol=1e-5)
    else:
        assert "no tensor-parallel plan" in done.stderr, done.stderr
    refused = under_torchrun(opt.model.config.name_or_path, 2, tmp_path / "none.npz")
    assert refused.returncode != 0
    assert "refused" in refused.stderr and "no tensor-parallel plan for opt models" in refused.stderr, refused.stderr


def test_a_group_of_another_size_is_refused_with_both_numbers(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert torchrun.rank({"tensor_parallel": 2}) == 1
    with pytest.raises(EngineError, match=r"torchrun started 2 processes .* tensor_parallel: 4"):
        torchrun.rank({"tensor_parallel": 4})
    monkeypatch.delenv("RANK")
    assert torchrun.rank({"tensor_parallel": 4}) is None
    assert torchrun.rank({}) == 0


def test_the_one_that_was_killed_is_named_and_not_those_that_lost_it():
    assert torchrun.first_to_die({0: 1, 1: -9}) == 1
    assert torchrun.first_to_die({0: -9, 1: 1}) == 0
    assert torchrun.first_to_die({0: -15, 1: 1, 2: -11}) == 2
    assert torchrun.first_to_die({1: 1, 0: 1}) == 0


def test_heads_that_cannot_be_shared_out_are_named_with_what_can(llama_folder, tmp_path):
    assert parse({"engine": f"hf:{llama_folder}", "tensor_parallel": 2}, "target").tensor_parallel == 2
    with pytest.raises(EngineError, match=r"its 4 attention heads \(2 of keys and values\) .* can be 1, 2$"):
        parse({"engine": f"hf:{llama_folder}", "tensor_parallel": 4}, "target")
    with pytest.raises(EngineError, match=r"bundled:target: its 2 attention heads .* can be 1$"):
        parse({"engine": "bundled:target", "tensor_parallel": 2}, "target")
    check_shares("a model with its text inside", {"text_config": {"num_attention_heads": 8}}, 8)
    with pytest.raises(EngineError, match="cannot be shared out"):
        check_shares("of the same kind", {"text_config": {"num_attention_heads": 6, "num_key_value_heads": 3}}, 2)


@pytest.mark.parametrize(
    ("spec", "role", "told"),
    [
        ({"engine": "toy", "tensor_parallel": 2}, "target", "remove it here"),
        ({"engine": "bundled:draft", "tensor_parallel": 2}, "draft", "shares out the edge's target"),
        ({"engine": "bundled:target", "tensor_parallel": 0}, "target", "at least 1"),
        ({"engine": "bundled:target", "tensor_parallel": "two"}, "target", "must be int"),
    ],
)
def test_what_makes_no_sense_is_refused(spec, role, told):
    with pytest.raises(EngineError, match=told):
        parse(spec, role)


def test_a_share_is_not_made_where_nobody_started_a_group_and_the_whole_may_be_asked_for(llama_folder):
    spec = {"engine": f"hf:{llama_folder}", "device": "cpu", "tensor_parallel": 2}
    with pytest.raises(EngineError, match="under torchrun"):
        make_engine(spec, "target")
    assert "ranks" not in make_unpaced(spec, "target").describe()


def test_gpus_that_are_missing_are_counted(monkeypatch):
    import torch

    from nodes.engine.hf_parallel import join

    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(EngineError, match=r"wants 4 GPUs on .* sees 1: lower it"):
        join(4, "cuda")


def test_a_model_of_another_machine_is_told_apart(llama, monkeypatch):
    import torch.distributed as dist

    from nodes.engine import hf_parallel

    def other(ranks: list, mine: dict) -> None:
        ranks[:] = [mine, {**mine, "rank": 1, "host": "elsewhere", "weights": "0123"}]

    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather_object", other)
    with pytest.raises(EngineError, match=r"rank 1 on elsewhere differ: weights [0-9a-f]{16} and 0123"):
        hf_parallel._meet(llama)
