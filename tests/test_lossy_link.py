"""Real models over a real lossy link: every exact system's greedy output is that of transformers' own `generate`."""

from __future__ import annotations

import pytest
import yaml

from experiments.launch import Outcome, run_nodes
from experiments.schema import load_config
from experiments.store import create_run
from netem.backend import choose_backend
from netem.errors import BackendError
from netem.spec import LinkSpec
from nodes.composition import load_system, system_names
from nodes.engine.make import list_models

LINK = {"rtt_ms": 20, "rate_mbps": 50, "loss_pct": 1.5}
NEW_TOKENS = 16


@pytest.fixture
def shaped_link():
    try:
        choose_backend(LinkSpec(**LINK))
    except BackendError as error:
        pytest.skip(f"no shaped link can be built here: {error}")


def generated(text: str) -> list[int]:
    """Target-only greedy decoding by transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    [path] = [model["path"] for model in list_models() if model["name"] == "bundled:target"]
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(f"{path}/../tokenizer")
    prompt = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        output = model.generate(**prompt, do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=None)
    return output[0, prompt["input_ids"].shape[1] :].tolist()


@pytest.mark.lab
def test_greedy_over_a_lossy_link_is_generate(shaped_link, tmp_path):
    text = 'def read_lines(path):\n    """Return the lines of a file."""\n'
    systems = [name for name in system_names() if load_system(name).exact]
    config_path = tmp_path / "lossy.yaml"
    workload = {"prompts": [text], "max_new_tokens": NEW_TOKENS, "ignore_eos": True}
    config_path.write_text(
        yaml.safe_dump(
            {"systems": systems, "sampling": {"temperature": 0}, "workload": workload, "link": LINK, "warmup": 0}
        )
    )
    config = load_config(config_path)
    folder, outcome = create_run(tmp_path / "results", config.resolved(), "test"), Outcome()
    run_nodes(config, folder.path, lambda stage, fields: None, outcome)
    expected = generated(text)
    for record in folder.requests().records:
        assert record.tokens == expected, record.system
    counters = outcome.link["counters"]
    assert counters["up"]["drops"] + counters["down"]["drops"] > 0  # the link really lost something
    assert {record.system for record in folder.requests().records} == set(systems)
    connections = [sample for sample in folder.tcp() if sample.system]
    assert {(sample.system, sample.node) for sample in connections} == {
        (system, node) for system in systems for node in ("device", "edge")
    }
    assert min(sample.rtt_us for sample in connections) > 0.9e3 * LINK["rtt_ms"]
    assert {sample.congestion for sample in connections} == {outcome.link["tcp"]["device"]["congestion"]}
    assert max(sample.retransmits for sample in connections) > 0
