"""Every system's file says what it is; its options have bounds; and nothing that runs it knows it by name."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import pytest
import yaml
from harness import Setup, play

from experiments.schema import Config
from experiments.summary import summarise
from nodes.composition import SYSTEMS, CompositionError, load_system, system_names
from nodes.methods import method_class, method_names
from nodes.policies.route import make_route
from nodes.policies.stop.fixed import Fixed

ROOT = Path(__file__).parents[2]
RUNNING = [
    *(ROOT / "nodes" / name for name in ("device.py", "edge.py", "batching.py", "conversation.py", "drafting.py")),
    *(ROOT / "nodes" / name for name in ("channel.py", "session.py", "finish.py", "link_meter.py")),
    *sorted((ROOT / "nodes" / "schedules").glob("*.py")),
]
BASELINES = ("edge_ar", "device_ar")  # what everybody compares with, nobody's paper


# What the files say ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", system_names())
def test_a_file_says_whose_it_is_by_which_letters_and_what_was_decided(name):
    system = load_system(name)
    assert system.title and system.title != name and len(system.notes) > 40
    assert system.paper or name in BASELINES or system.notes.startswith("Ours"), "a paper, or a word that it is ours"
    assert bool(system.letters) == bool(system.paper), "a paper's letters, mapped to ours"
    assert all(ours and ours != theirs for theirs, ours in system.letters.items())
    if system.paper:
        assert system.paper.authors and 2020 <= system.paper.year <= 2026 and (system.paper.url or system.paper.venue)
    raw = yaml.safe_load((SYSTEMS / f"{name}.yaml").read_text())
    assert "exact" not in raw, "derived, never declared"


def test_every_method_is_some_systems():
    assert {load_system(name).method for name in system_names()} == set(method_names())


@pytest.mark.parametrize("name", system_names())
def test_the_page_on_systems_has_a_row_for_each(name):
    assert f"\n| `{name}` |" in (ROOT / "docs" / "systems.md").read_text()


# What cannot be -------------------------------------------------------------------------------------------------------

ONE_THRESHOLD = {  # system: where its threshold lies
    "sled": ("stop", "threshold"),
    "hsl": ("upload", "threshold"),
    "u_hlm": ("upload", "threshold"),
    "cu_hlm": ("upload", "threshold"),
    "hybrid_llm": ("route", "threshold"),
    "hybrid_random": ("route", "share"),
    "wisv": ("options", "c_th"),
    "wisv_mismatch_first": ("options", "c_th"),
}


@pytest.mark.parametrize("value", [-0.01, 1.01, "high", True, None, float("nan")])
@pytest.mark.parametrize("name", ONE_THRESHOLD)
def test_a_threshold_out_of_range_is_refused(name, value):
    part, key = ONE_THRESHOLD[name]
    published = getattr(load_system(name), part)
    with pytest.raises(CompositionError, match=f"system {name}.*{key}"):
        load_system(name, **{part: {**published, key: value}})
    for end in (0, 1):
        load_system(name, **{part: {**published, key: end}})


@pytest.mark.parametrize("name", system_names())
def test_every_threshold_is_tried(name):
    """A system with a number between 0 and 1 that trades quality or bytes for speed is in the table above."""
    system = load_system(name)
    given = [part for part in (system.stop, system.upload, system.route) if isinstance(part, dict)]
    sweeps = any({"threshold", "share"} & set(part) for part in given) or "c_th" in system.options
    assert sweeps == (name in ONE_THRESHOLD)


def cutting_systems():
    methods = {name: load_system(name).build(1 << 16) for name in system_names()}
    return [name for name, method in methods.items() if getattr(method.up, "k", 0) or getattr(method.down, "k", 0)]


@pytest.mark.parametrize("name", cutting_systems())
def test_more_tokens_kept_than_there_are_is_refused(name):
    with pytest.raises(
        ValueError, match=rf"system {name}: its (up|down) codec keeps k = \d+ tokens of a vocabulary of 12"
    ):
        Config.model_validate({"name": "x", "systems": [name], "engine": {"engine": "toy", "vocab_size": 12}})


# What is recorded -----------------------------------------------------------------------------------------------------


class Slow(Fixed):
    """Takes its time, a known one, over every token and every round."""

    def more(self, draft):
        time.sleep(2e-3)
        return super().more(draft)

    def observe(self, record):
        time.sleep(4e-3)


@pytest.mark.parametrize("schedule", ["stop_and_wait", "lookahead"])
def test_what_a_policy_costs_is_measured(schedule, tmp_path, monkeypatch):
    """How long to draft, whether to send, what a round taught: inside a round's parts, told apart, in the summary."""
    monkeypatch.setattr("nodes.device.make_stop", lambda spec: Slow(2))
    setup = Setup([load_system("dssd", schedule=schedule), "edge_ar"], requests=3)
    result = play(setup, tmp_path)
    mine = [record for record in result.rounds if record.system == "dssd"]
    least_ms = [2 * record.n_drafted + 4 for record in mine]
    assert sum(record.policy_ms for record in mine) >= sum(least_ms) > 50
    if schedule == "stop_and_wait":  # a draft made ahead was decided on in the round before
        assert all(record.policy_ms >= ms for record, ms in zip(mine, least_ms))
    summary = summarise("n", "id", setup.spec().systems, result.rounds, result.requests)["systems"]
    dssd, edge_ar = summary
    assert dssd["policy_ms"] == pytest.approx(sum(record.policy_ms for record in mine) / len(mine))
    assert edge_ar["policy_ms"] < 1 < dssd["policy_ms"]


# Who knows whom -------------------------------------------------------------------------------------------------------


def strings(tree):
    """String constants that are not docstrings."""
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented:
            yield node.value


@pytest.mark.parametrize("path", RUNNING, ids=lambda path: path.stem)
def test_nothing_that_runs_systems_knows_one_by_name(path):
    """No branch on a system: no name of a system or method in a string, none of their modules imported, and no
    comparison with whatever they are called."""
    tree = ast.parse(path.read_text())
    names = {*system_names(), *method_names()}
    assert not names & set(strings(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith("nodes.methods.")
        if isinstance(node, ast.Compare | ast.Match):
            sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else [node.subject]
            asked = {side.attr for side in sides if isinstance(side, ast.Attribute)}
            assert not asked & {"method", "title", "paper"}, ast.unparse(node)
            if isinstance(node, ast.Match) or isinstance(node.ops[0], ast.Eq | ast.NotEq):
                assert not any(ast.unparse(side).endswith("system.name") for side in sides), ast.unparse(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            assert "ethod" not in ast.unparse(node.args[0]), ast.unparse(node)


def test_a_branch_on_a_name_would_be_found():
    tree = ast.parse('"""dssd"""\nif system.name == "dssd":\n    """sled"""\n    pass')
    assert set(strings(tree)) >= {"dssd"}


def test_the_classes_of_methods_say_what_a_schedule_may_ask():
    """What differs between methods is said by their classes, for every one of them."""
    for name in method_names():
        kind = method_class(name)
        assert kind.adds in (0, 1) and all(
            isinstance(getattr(kind, flag), bool) for flag in ("edge", "drafts", "streams")
        )
    assert make_route("always").exact
