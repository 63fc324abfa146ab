"""What a `sweep:` comes to: its points, their order, what is refused before anything runs."""

from __future__ import annotations

from itertools import product
from math import prod
from pathlib import Path

import pytest
import yaml

from experiments.reading import ConfigError
from experiments.schema import config_id, load_config
from experiments.sweep.order import turns
from experiments.sweep.points import Sweep, load_sweep, short_names
from experiments.sweep.runner import check_jobs, why_not_at_once
from experiments.sweep.section import SweepSection
from experiments.sweep.status import duration_text

CONFIGS = Path(__file__).parents[2] / "experiments" / "configs"
SHIPPED = sorted(path for path in CONFIGS.glob("*.yaml") if "sweep" in yaml.safe_load(path.read_text()))
TOY = {"engine": "toy", "systems": ["edge_ar", "dssd"], "workload": {"prompts": ["t1 t2", "t3"]}, "warmup": 0}


@pytest.fixture
def load(tmp_path):
    """The sweep of a file with this `sweep:` and TOY with changes."""

    def write_and_load(section: dict, *settings: str, **changes) -> Sweep:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({**TOY, **changes, "sweep": section}, sort_keys=False))
        sweep = load_sweep(path, settings)
        assert sweep is not None
        return sweep

    return write_and_load


def refused(load, section, *settings: str, **changes) -> str:
    with pytest.raises(ConfigError) as caught:
        load(section, *settings, **changes)
    return str(caught.value)


def test_a_file_without_a_sweep_is_none(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump(TOY))
    assert load_sweep(path) is None


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_sweep_expands(path):
    sweep = load_sweep(path)
    assert sweep is not None
    assert len({point.id for point in sweep.points}) == len(sweep.points) > 1


@pytest.mark.parametrize(
    "section",
    [
        {"grid": {"draft_length": [2, 4, 8], "sampling.top_k": [0, 3]}},
        {"zip": {"draft_length": [2, 4, 8], "sampling.top_k": [0, 3, 5]}},
        {"points": {"a": {"draft_length": 2}, "b": {"draft_length": 3, "seed": 1}}},
        {"grid": {"seed": [1, 2]}, "zip": {"draft_length": [2, 4], "sampling.top_k": [0, 3]}, "points": {"a": {}}},
        {"grid": {"seed": {"one": 1, "two": 2}}, "points": {"a": {}, "b": {"draft_length": 5}}},
        {"repeats": 3},
    ],
    ids=str,
)
def test_points_are_the_product_of_grid_rows_and_names(load, section):
    sweep = load(section)
    axes = [len(values) for values in section.get("grid", {}).values()]
    rows = len(next(iter(section["zip"].values()))) if "zip" in section else 1
    assert len(sweep.points) == prod(axes) * rows * len(section.get("points", {"": {}}))
    for what in ("id", "name"):
        assert len({getattr(point, what) for point in sweep.points}) == len(sweep.points)


def test_every_combination_of_a_grid_reaches_its_configuration(load):
    sweep = load({"grid": {"draft_length": [2, 4], "systems.dssd.up": ["sparse", "dense_fp16"], "seed": [5, 6]}})
    found = [(p.config.systems[1].compose(p.config.draft_length), p.config.seed) for p in sweep.points]
    assert [(system.stop["length"], system.up, seed) for system, seed in found] == list(
        product([2, 4], ["sparse", "dense_fp16"], [5, 6])
    )
    assert sweep.points[0].name == "draft_length=2 up=sparse seed=5"
    assert sweep.points[0].axes == {"draft_length": 2, "systems.dssd.up": "sparse", "seed": 5}


def test_zipped_keys_go_together(load):
    sweep = load({"zip": {"link.up.rate_mbps": [1, 2], "link.down.rate_mbps": [10, 20]}})
    rates = [(p.config.link.up.rate_mbps, p.config.link.down.rate_mbps) for p in sweep.points]
    assert rates == [(1, 10), (2, 20)]
    assert [point.name for point in sweep.points] == [
        "up.rate_mbps=1 down.rate_mbps=10",
        "up.rate_mbps=2 down.rate_mbps=20",
    ]


def test_a_value_may_be_a_whole_mapping_and_have_a_label(load):
    poor = {"up": {"rate_mbps": 1}, "down": {"rate_mbps": 2}}
    labelled = load({"grid": {"link": {"good": "lte", "poor": poor}}})
    assert [point.axes for point in labelled.points] == [{"link": "good"}, {"link": "poor"}]
    assert labelled.points[1].config.link.up.rate_mbps == 1
    bare = load({"grid": {"link": ["lte", poor]}})
    assert [point.id for point in bare.points] == [point.id for point in labelled.points]
    assert yaml.safe_load(bare.points[1].axes["link"]) == poor
    assert bare.id != labelled.id, "its tables say something else"


def test_the_wider_key_comes_first_however_they_are_written(load):
    for section in (
        {"grid": {"link.down.rate_mbps": [7, 8], "link": ["lte"]}},
        {"grid": {"link": ["lte"]}, "zip": {"link.down.rate_mbps": [7, 8]}},
    ):
        links = [point.config.link for point in load(section).points]
        assert {link.profile for link in links} == {"lte"}
        assert [link.down.rate_mbps for link in links] == [7, 8]


def test_an_id_is_that_of_the_resolved_configuration(load, tmp_path):
    sweep = load({"grid": {"draft_length": [2, 4]}})
    for point in sweep.points:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(point.config.resolved()))
        assert config_id(load_config(path).resolved()) == point.id
    assert load({"grid": {"draft_length": [4, 2]}}).id == sweep.id, "the order of writing changes no run"
    assert load({"grid": {"draft_length": [2, 4]}, "repeats": 2}).id == sweep.id, "further passes go on with it"
    assert load({"grid": {"draft_length": [2, 5]}}).id != sweep.id
    assert load({"grid": {"draft_length": [2, 4]}}, seed=9).id != sweep.id


def test_settings_reach_base_and_section(load):
    sweep = load({"grid": {"draft_length": [2, 4]}}, "workload.requests=1", "sweep.repeats=2",
                 "sweep.grid.link.rtt_ms=[10, 20, 30]")  # fmt: skip
    assert (len(sweep.points), sweep.repeats) == (6, 2)
    assert {point.config.workload.requests for point in sweep.points} == {1}
    assert {point.requests for point in sweep.points} == {2}


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({}, "varies nothing"),
        (5, "must be a mapping"),
        ({"grid": {}}, "grid: is empty"),
        ({"grid": {"draft_length": []}}, "grid.draft_length: has no values"),
        ({"zip": {"draft_length": {}}}, "zip.draft_length: has no values"),
        ({"grid": {"draft_length": 3}}, "grid.draft_length: needs a list"),
        ({"grid": {"draft_length": {1: 2}}}, "a label is text"),
        ({"grids": {"draft_length": [1, 2]}}, "did you mean `grid`"),
        ({"zip": {"seed": [1, 2], "draft_length": [1, 2, 3]}}, "seed has 2, draft_length has 3"),
        ({"grid": {"seed": [1, 2]}, "zip": {"seed": [1, 2]}}, "seed is in grid and in zip"),
        ({"grid": {"seed": [1, 2]}, "points": {"a": {"seed": 1}}}, "seed is in grid and in points"),
        ({"grid": {"seed.": [1, 2]}}, "is not a key"),
        ({"repeats": 0}, "repeats"),
        ({"grid": {"name": ["a", "b"]}}, "name: is that of the whole sweep"),
        ({"grid": {"seed": [1, 1]}}, "seed=1 and seed=1 come to the same configuration"),
        ({"grid": {"sampling.top_p": [1, 1.0]}}, "look at a value that is there twice"),
        ({"points": {"a": {"draft_length": 2}, "b": {"draft_length": 2}}}, "look at point"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_named(load, section, said):
    message = refused(load, section)
    assert said in message and ("mine.yaml: sweep" in message or "point" in message)


def test_an_axis_that_changes_nothing_is_named(load):
    grid = {"grid": {"draft_length": [2, 4]}}
    assert "look at draft_length" in refused(load, grid, systems=[{"system": "dssd", "stop": {"length": 3}}])


def test_all_points_are_checked_and_told_together(load):
    message = refused(load, {"grid": {"draft_length": [0, 2], "sampling.top_p": [0.5, 7], "sede": [1]}})
    assert "2 points (draft_length=0 top_p=0.5 sede=1, draft_length=0 top_p=7 sede=1): draft_length: must be" in message
    assert "top_p: must be less than or equal to 1, not 7" in message
    assert message.count("unknown key `sede`") == 1 and "4 points" in message


def test_a_setting_that_every_point_would_overwrite_is_refused(load):
    grid = {"grid": {"link": ["lte", "wifi_good"], "seed": [1, 2]}}
    assert "the sweep gives link its values" in refused(load, grid, "link.rtt_ms=3")
    assert "the sweep gives seed its values" in refused(load, grid, "seed=3")
    assert len(load({"grid": {"link.rtt_ms": [1, 2]}}, "link={up: {rate_mbps: 5}}").points) == 2


def test_only_run_takes_a_sweep(tmp_path):
    path = tmp_path / "many.yaml"
    path.write_text(yaml.safe_dump({**TOY, "sweep": {"repeats": 2}}))
    with pytest.raises(ConfigError, match="only `dssd run`"):
        load_config(path)


def test_short_names_tell_keys_apart():
    keys = ["link.up.rate_mbps", "link.down.rate_mbps", "draft_length", "systems.dssd.stop.length", "link", "a.link"]
    short = short_names(keys)
    assert len(set(short.values())) == len(keys)
    assert short["link.up.rate_mbps"] == "up.rate_mbps" and short["systems.dssd.stop.length"] == "length"
    assert short["link"] == "link" and short["a.link"] == "a.link"


# In which order ------------------------------------------------------------------------------------------------

POINTS = [f"{i:08x}" for i in range(7)]


def test_every_pass_has_every_point_once_before_the_next_begins():
    order = turns("ab", POINTS, 5)
    assert [turn.repeat for turn in order] == [repeat for repeat in range(1, 6) for _ in POINTS]
    for repeat in range(1, 6):
        assert sorted(turn.point for turn in order if turn.repeat == repeat) == POINTS


def test_a_linear_drift_cancels_over_two_passes():
    order = turns("ab", POINTS, 4)
    for passes in ((1, 2), (3, 4)):
        places = [(turn.point, i) for i, turn in enumerate(order) if turn.repeat in passes]
        assert len({sum(i for at, i in places if at == point) for point in POINTS}) == 1


def test_the_order_is_shuffled_and_the_same_again():
    order = turns("ab", POINTS, 3)
    assert order == turns("ab", list(reversed(POINTS)), 3)
    assert [turn.point for turn in order[:7]] != POINTS
    assert [turn.point for turn in order[:7]] != [turn.point for turn in order[14:]], "each pair of passes its own"
    assert turns("cd", POINTS, 1) != turns("ab", POINTS, 1)
    assert turns("ab", POINTS, 2) == order[:14], "further passes change none before"


# At the same time ----------------------------------------------------------------------------------------------


def test_toys_without_a_link_may_run_at_the_same_time(load):
    assert why_not_at_once(load({"repeats": 2})) is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"engine": None}, "bundled:draft on the device"),
        ({"engine": None, "device": {"engine": "toy"}}, "bundled:target on the edge"),
        ({"pace": "opt-125m-6.7b@h800"}, "paced device"),
        ({"link": {"rtt_ms": 10}}, "builds a link"),
        ({"link": {"backend": "netns"}}, "builds a link"),
        ({"device": {"cpus": [0]}}, "part of this machine"),
        ({"hosts": {"device": {"address": "local"}, "edge": {"address": "192.0.2.2"}}}, "machines of its own"),
    ],
    ids=str,
)
def test_what_would_disturb_one_another_is_refused(load, changes, why):
    sweep = load({"repeats": 2}, **changes)
    with pytest.raises(Exception, match="would disturb one another"):
        check_jobs(sweep, 2)
    assert why in (why_not_at_once(sweep) or "")
    check_jobs(sweep, 1)


def test_one_point_that_may_not_is_enough(load):
    assert "point rtt_ms=5" in (why_not_at_once(load({"grid": {"link.rtt_ms": [0, 5]}})) or "")


def test_more_jobs_than_cores_are_refused(load):
    with pytest.raises(Exception, match="cores"):
        check_jobs(load({"repeats": 2}), 4096)


# Small things --------------------------------------------------------------------------------------------------


def test_the_section_varies_the_keys_it_names():
    named = {"x": {"d": 1, "a.b": 2}, "y": {"d": 2}}
    section = SweepSection.model_validate({"grid": {"a": [1]}, "zip": {"b.c": [1]}, "points": named})
    assert section.keys == ["a", "b.c", "d", "a.b"]


@pytest.mark.parametrize(("seconds", "text"), [(3.2, "3 s"), (89, "89 s"), (100, "2 min"), (5400, "1 h 30 min")])
def test_durations_for_people(seconds, text):
    assert duration_text(seconds) == text
