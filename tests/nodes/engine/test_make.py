"""From a configuration to an engine, and what is said when that cannot be."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nodes.engine import EngineError
from nodes.engine.bundled import FOLDER
from nodes.engine.make import list_models, make_engine, parse, unpaced_pair
from nodes.engine.paced import PacedEngine
from nodes.engine.toy import ToyEngine
from nodes.sampling import Sampling
from nodes.session import Session

has_pair = pytest.mark.skipif(not (FOLDER / "target").is_dir(), reason="the pair has not been trained")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({}, "engine.*missing"),
        ({"engine": 3}, "engine.*missing"),
        ({"engine": "gguf:x"}, "unknown engine 'gguf:x'.*bundled:draft.*toy"),
        ({"engine": "bundled:small"}, "unknown engine 'bundled:small'"),
        ({"engine": "hf:"}, "unknown engine 'hf:'"),
        ({"engine": "hf:/no/such/folder"}, "no model at /no/such/folder"),
        ({"engine": "toy", "tempreture": 1}, "unknown key tempreture; known are engine, pace"),
        ({"engine": "bundled:draft", "acceptance": 0.5}, "acceptance are options of engine toy"),
        ({"engine": "toy", "acceptance": "high"}, "acceptance must be int or float, not 'high'"),
        ({"engine": "toy", "eos": True}, "eos must be int"),
        ({"engine": "toy", "acceptance": 2}, "acceptance 2"),
        ({"engine": "toy", "threads": 0}, "threads must be at least 1"),
        ({"engine": "toy", "dtype": "int8"}, "dtype must be one of float32"),
        ({"engine": "toy", "device": "tpu"}, "device must be one of auto"),
        ({"engine": "toy", "pace": "h9000"}, "no compute profile 'h9000'"),
        ({"engine": "toy", "pace": 8.7}, "pace must be"),
    ],
)
def test_bad_specs_are_refused(spec, said):
    with pytest.raises(EngineError, match=said):
        make_engine(spec, "draft")


def test_toy_and_pace():
    spec = {"engine": "toy", "vocab_size": 64, "acceptance": 0.9, "eos": 5, "pace": None, "threads": None}
    engine = make_engine(spec, "draft")
    assert isinstance(engine, ToyEngine) and engine.vocab_size == 64 and engine.eos_tokens == {5}
    paced = make_engine({**spec, "pace": "opt-125m-6.7b@h800"}, "target")
    assert isinstance(paced, PacedEngine) and paced.pace.forward_ms == 124.5 and paced.vocab_size == 50272
    assert parse(spec, "draft").toy == {"vocab_size": 64, "acceptance": 0.9, "eos": 5}


def test_tables_and_lists_need_no_torch():
    program = (
        "import sys; from nodes.engine.make import list_models, make_engine; list_models();"
        "make_engine({'engine': 'toy', 'pace': {'forward_ms': 1}}, 'draft');"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_folder_of_ones_own(llama_folder):
    engine = make_engine({"engine": f"hf:{llama_folder}", "threads": 1, "device": "cpu"}, "target")
    assert engine.name == f"hf:{llama_folder}" and engine.vocab_size == 96
    half = make_engine({"engine": f"hf:{llama_folder}", "dtype": "bfloat16", "device": "cpu"}, "target")
    assert half.describe()["dtype"] == "bfloat16"


@has_pair
def test_the_bundled_pair_is_listed():
    records = list_models()
    assert [record["name"] for record in records] == ["bundled:draft", "bundled:target"]
    assert records[0]["vocab_size"] == records[1]["vocab_size"]
    assert sum(record["bytes"] for record in records) <= 16e6
    assert all(len(record["sha256"]) == 64 and record["parameters"] > 1e5 for record in records)


@has_pair
def test_the_bundled_pair_speaks_one_language():
    draft, target = (make_engine({"engine": f"bundled:{kind}", "device": "cpu"}, kind) for kind in ("draft", "target"))
    assert draft.vocab_hash == target.vocab_hash and draft.eos_tokens == target.eos_tokens
    text = "def main(path):\n    '''é'''\n"
    tokens = target.tokenizer.encode(text)
    assert target.tokenizer.decode(tokens) == text == draft.tokenizer.decode(tokens)
    rows = [engine.forward([Session(Sampling(), tokens)], [1])[0].row(0) for engine in (draft, target)]
    assert all(abs(row.sum(dtype=float) - 1) < 1e-5 and len(row) == target.vocab_size for row in rows)
    assert draft.describe()["dtype"] == "float32"


def test_a_pair_of_two_languages_is_refused():
    small, large = ({"engine": "toy", "vocab_size": size} for size in (16, 32))
    assert [engine.vocab_size for engine in unpaced_pair(small, small)] == [16, 16]
    with pytest.raises(EngineError, match=r"16 tokens and .* 32"):
        unpaced_pair(small, large)
