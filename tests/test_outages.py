"""The link is cut in the midst of each system's answers, and mended: exact ones give the tokens of an unbroken one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments import course
from experiments.launch import Outcome, run_nodes
from experiments.schema import load_config
from experiments.store import RunFolder, create_run
from netem.backend import choose_backend
from netem.errors import BackendError
from netem.spec import LinkSpec
from nodes.composition import load_system, system_names

LINK = {"rtt_ms": 20, "rate_mbps": 50}
EXACT = [name for name in system_names() if load_system(name).exact]
AT_S, FOR_S = 0.04, 0.8  # three requests take three round trips at least, so 0.06 s
QUICK = ["dssd", "dssd_lookahead"]


def run(folder: Path, systems: Sequence[str], **keys: Any) -> tuple[RunFolder, Outcome]:
    folder.mkdir()
    path = folder / "mine.yaml"
    workload = {"prompts": ["t1 t2 t3", "t4 t5", "t6"], "max_new_tokens": 32}
    engine = {"engine": "toy", "vocab_size": 512, "acceptance": 0.7}
    path.write_text(yaml.safe_dump({"systems": list(systems), "engine": engine, "workload": workload, **keys}))
    config = load_config(path)
    results, outcome = create_run(folder / "results", config.resolved(), "test"), Outcome()
    run_nodes(config, results.path, lambda stage, fields: None, outcome)
    return results, outcome


@pytest.fixture(scope="module")
def broken(request, tmp_path_factory) -> tuple[RunFolder, RunFolder, Outcome]:
    """The same requests over an unbroken link and over one that is cut for every system.

    All systems at once are greedy: some choose their draft length by how long rounds take, so an outage moves which
    coins are thrown, and other tokens of the same law come out; greedy ones must not differ."""
    try:
        choose_backend(LinkSpec(**LINK))
    except BackendError as error:
        pytest.skip(f"no shaped link can be built here: {error}")
    folder = tmp_path_factory.mktemp("outages")
    link = {**LINK, "outages": [{"at_s": AT_S, "for_s": FOR_S}, {"at_s": 1.2, "for_s": 0.3, "direction": "down"}]}
    systems, temperature = request.param
    sampling = {"temperature": temperature}
    whole, _ = run(folder / "whole", systems, sampling=sampling)
    return whole, *run(folder / "cut", systems, sampling=sampling, link=link)


def judged(broken: tuple[RunFolder, RunFolder, Outcome], system: str) -> None:
    whole, cut, outcome = broken
    before, after = (
        [r for r in folder.requests().records if r.system == system and not r.warmup] for folder in (whole, cut)
    )
    assert [r.tokens for r in after] == [r.tokens for r in before] and not any(r.error for r in after)
    assert any(r.e2e_ms > 1e3 * FOR_S for r in after), "no answer had to wait for the link to come back"
    mine = [line for line in course.read_log(cut.path) if line["of"].startswith(f"{system}/") and line["t_s"] == AT_S]
    assert {(line["event"], line["direction"]) for line in mine} == {("cut", "up"), ("cut", "down")}
    assert outcome.link["played"]["cuts"] >= 2


@pytest.mark.lab
@pytest.mark.parametrize("broken", [(QUICK, 1.0)], indirect=True, ids=["two"])
@pytest.mark.parametrize("system", QUICK)
def test_an_outage_costs_time_and_no_token(broken, system):
    judged(broken, system)


@pytest.mark.lab
@pytest.mark.slow
@pytest.mark.parametrize("broken", [(EXACT, 0.0)], indirect=True, ids=["all"])
@pytest.mark.parametrize("system", EXACT)
def test_every_exact_system_survives_an_outage(broken, system):
    judged(broken, system)
