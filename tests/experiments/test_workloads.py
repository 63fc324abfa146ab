"""Prompts: where they come from, that each is asked under a name of its own, and what a bad file is told."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from experiments.workloads import BUNDLED, WorkloadSpec


def test_bundled_prompts_are_distinct_and_start_with_one_of_each_category():
    prompts = WorkloadSpec().load()
    assert len({prompt.id for prompt in prompts}) == len({prompt.text for prompt in prompts}) == 24
    assert len({prompt.category for prompt in prompts[:4]}) == 4


def test_bundled_prompts_have_the_length_they_should():
    tokenizer = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(
        BUNDLED.parents[2] / "nodes" / "engine" / "bundled" / "tokenizer"
    )
    for prompt in WorkloadSpec().load():
        assert 40 <= len(tokenizer.encode(prompt.text)) <= 160, prompt.id


def test_more_requests_than_prompts_go_round_with_names_of_their_own():
    prompts = WorkloadSpec(prompts=["a", "b"], requests=5).load()
    assert [prompt.text for prompt in prompts] == ["a", "b", "a", "b", "a"]
    assert [prompt.id for prompt in prompts] == ["p1", "p2", "p1#2", "p2#2", "p1#3"]


def test_categories_choose_and_an_unknown_one_is_named():
    assert {prompt.category for prompt in WorkloadSpec(categories=["test"], requests=9).load()} == {"test"}
    with pytest.raises(ValueError, match="did you mean `test`"):
        WorkloadSpec(categories=["tests"]).load()


def test_spec_bench_files_and_plain_text(tmp_path):
    lines = [{"question_id": 7, "category": "qa", "turns": ["first", "second"]}, {"question_id": 8, "turns": ["x"]}]
    path = tmp_path / "question.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    first, second = WorkloadSpec(prompts=str(path)).load()
    assert (first.id, first.text, first.category, second.id) == ("7", "first", "qa", "8")
    (tmp_path / "lines.txt").write_text("one\ntwo\n")
    (tmp_path / "paragraphs.txt").write_text("one\nstill one\n\n\ntwo\n")
    assert [p.text for p in WorkloadSpec(prompts=str(tmp_path / "lines.txt")).load()] == ["one", "two"]
    assert [p.text for p in WorkloadSpec(prompts=str(tmp_path / "paragraphs.txt")).load()] == [
        "one\nstill one",
        "two",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"question_id": 1, "turns": ["a"]}\nnot json\n', "line 2"),
        ('{"question_id": 1, "turns": []}\n', "line 1"),
        ('{"turns": ["a"]}\n', "line 1"),
        ('{"question_id": 1, "turns": ["a"]}\n{"question_id": 1, "turns": ["b"]}\n', "question_id 1 twice"),
        ('{"question_id": 1, "turns": ["a\\ud800b"]}\n', "question_id 1: .*UTF-8"),
        ("", "has no prompt"),
    ],
)
def test_a_bad_file_is_told_where(tmp_path, content, said):
    path = tmp_path / "question.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=said):
        WorkloadSpec(prompts=str(path)).load()


def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path):
    for name, content in (("a.jsonl", '{"question_id": 1, "turns": ["one"]}\n'), ("b.txt", "one\n")):
        (tmp_path / name).write_text(content, encoding="utf-8-sig")
        assert [prompt.text for prompt in WorkloadSpec(prompts=str(tmp_path / name)).load()] == ["one"]


def test_other_files_are_refused(tmp_path):
    (tmp_path / "x.csv").write_text("a")
    with pytest.raises(ValidationError, match=r"ends in \.jsonl or \.txt"):
        WorkloadSpec(prompts=str(tmp_path / "x.csv"))
