"""What no system can be told: every threshold, share, size and K outside its range is an error of the configuration
that names the system, the key and what is allowed."""

from __future__ import annotations

import json

import pytest

from experiments.reading import ConfigError
from experiments.schema import load_config
from nodes.composition import CompositionError, load_system
from nodes.engine.make import known_vocab_size

OUT_OF_RANGE = [
    ("sled", "stop.threshold", 1.2, "threshold must be a number from 0 to 1, not 1.2"),
    ("sled", "stop.threshold", -0.1, "threshold must be a number from 0 to 1"),
    ("sled", "stop.threshold", "high", "threshold must be a number from 0 to 1, not 'high'"),
    ("sled", "stop.max_length", 0, "max_length must be 1 to 256"),
    ("dssd", "stop.length", 257, "length must be 1 to 256, not 257"),
    ("hsl", "upload.threshold", 2, "threshold must be a number from 0 to 1, not 2"),
    ("u_hlm", "upload.threshold", -1, "threshold must be a number from 0 to 1"),
    ("u_hlm", "upload.samples", 0, "samples must be 1 to 1000"),
    ("cu_hlm", "upload.threshold", True, "threshold must be a number from 0 to 1, not True"),
    ("cu_hlm", "options.tolerance", 1, "tolerance is a share of the mass"),
    ("dsd_opt", "stop.weight_ms_per_j", -1, "weight_ms_per_j must be a number of at least 0"),
    ("dsd_opt", "stop.draft_w", "ten", "draft_w must be a number of at least 0, not 'ten'"),
    ("tk_slt", "stop.forgetting", 0.1, "forgetting must be a number from 0.5 to 1"),
    ("delay_adaptive", "stop.optimism", -1, "optimism must be a number of at least 0"),
    ("tk_slt", "up.k", 0, "k is a whole number of tokens, at least 1"),
    ("qsv", "up.resolution", 70000, "resolution is a whole number, 1 to 65535"),
    ("k_sqs", "up.k", -1, "k is a whole number of tokens"),
    ("dssd_sampled", "options.draws", 0, "draws must be 1 to 4096"),
    ("hybrid_random", "route.share", 1.1, "share must be a number from 0 to 1, not 1.1"),
]


@pytest.fixture
def configuration(tmp_path):
    def of(system, vocab_size=512):
        path = tmp_path / "ranges.yaml"
        config = {"systems": [system], "engine": {"engine": "toy", "vocab_size": vocab_size}}
        path.write_text(json.dumps({**config, "workload": {"prompts": ["t1"]}}))
        return path

    return of


@pytest.mark.parametrize("system, key, value, said", OUT_OF_RANGE)
def test_out_of_range(system, key, value, said, configuration):
    path = configuration(system)
    load_config(path)
    with pytest.raises(ConfigError) as error:
        load_config(path, [f"systems.{system}.{key}={json.dumps(value)}"])
    assert said in str(error.value) and f"system {system}" in str(error.value)


@pytest.mark.parametrize(
    "system, part", [("tk_slt", "up"), ("k_sqs", "up"), ("picospec", "down"), ("picospec_exact", "down")]
)
def test_more_tokens_kept_than_there_are(system, part, configuration):
    path = configuration(system)
    with pytest.raises(ConfigError, match=rf"{part} codec keeps k = 600 tokens of a vocabulary of 512.*{part}\.k=512"):
        load_config(path, [f"systems.{system}.{part}.k=600"])
    assert load_config(path, [f"systems.{system}.{part}.k=512"])


def test_a_published_k_may_be_too_large_for_a_toy(configuration):
    with pytest.raises(ConfigError, match=r"system tk_slt: its up codec keeps k = 320 tokens of a vocabulary of 64"):
        load_config(configuration("tk_slt", vocab_size=64))


def test_a_node_that_only_then_knows_its_model_says_the_same():
    with pytest.raises(CompositionError, match="k = 320 tokens of a vocabulary of 100"):
        load_system("tk_slt").require_width(100)


def test_the_width_is_known_before_anything_is_loaded():
    assert known_vocab_size({"engine": "bundled:draft"}, "draft") == 4096
    assert known_vocab_size({"engine": "bundled:target", "pace": "opt-125m-6.7b@h800"}, "target") == 50272
    assert known_vocab_size({"engine": "bundled:target", "pace": {"forward_ms": 1}}, "target") == 4096
    assert known_vocab_size({"engine": "toy"}, "draft") == 32
    assert known_vocab_size({"engine": "hf:owner/name"}, "draft") is None
