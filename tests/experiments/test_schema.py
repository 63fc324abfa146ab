"""A configuration is either exactly what was written or an error that names the key."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import yaml

from experiments.schema import Config, ConfigError, config_id, json_schema, load_config
from nodes.composition import load_system
from nodes.policies.stop import make_stop
from nodes.probes import parse_probe
from nodes.runspec import RunSpec

CONFIGS = Path(__file__).parents[2] / "experiments" / "configs"
SHIPPED = sorted(path for path in CONFIGS.glob("*.yaml") if "sweep" not in yaml.safe_load(path.read_text()))
TOY = {"engine": "toy", "systems": ["device_ar", "dssd", "dsd_sparse"], "workload": {"prompts": ["t1 t2", "t3"]}}


@pytest.fixture
def load(tmp_path):
    """Write a configuration (by default TOY with changes) and load it."""

    def write_and_load(*settings: str, text: str = "", **changes) -> Config:
        path = tmp_path / "mine.yaml"
        path.write_text(text or yaml.safe_dump({**TOY, **changes}))
        return load_config(path, settings)

    return write_and_load


def refused(load, *settings: str, **changes) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*settings, **changes)
    return str(caught.value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_configuration_resolves_and_reads_back_as_itself(path, tmp_path):
    config = load_config(path)
    spec, resolved = config.to_runspec(), config.resolved()
    assert msgspec.json.decode(msgspec.json.encode(spec), type=RunSpec) == spec
    again = tmp_path / "config.yaml"
    again.write_text(yaml.safe_dump(resolved, sort_keys=False))
    assert load_config(again).to_runspec() == spec
    assert load_config(again).resolved() == resolved
    assert config_id(load_config(again).resolved()) == config_id(resolved)


def test_the_quickstart_compares_ten_systems_and_has_its_baseline():
    spec = load_config(CONFIGS / "quickstart.yaml").to_runspec()
    names = [system.name for system in spec.systems]
    assert len(names) == 10 and "edge_ar" in names
    assert [name for name in names if not spec.system(name).exact] == ["device_ar"]
    assert spec.device.engine["pace"] == spec.edge.engine["pace"] == "opt-125m-6.7b@h800"


def test_the_law_configuration_asks_four_thousand_different_questions():
    spec = load_config(CONFIGS / "law.yaml").to_runspec()
    assert len({prompt.id for prompt in spec.prompts}) == 4000
    assert len({prompt.text for prompt in spec.prompts}) == 1
    assert spec.max_new_tokens == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["device.thread=2"], ["device.thread", "did you mean `threads`", "engine, pace", "--set device.thread=2"]),
        (["linc.rtt_ms=3"], ["linc", "did you mean `link`"]),
        (["link.up.rate_mpbs=3"], ["link.up.rate_mpbs", "did you mean `rate_mbps`"]),
        (["link.rate_mbps=0"], ["link.up.rate_mbps", "above 0"]),
        (["link.loss_pct=100"], ["link", "loses everything", "lower it"]),
        (["link=lt"], ["link", "no link profile 'lt'", "lte"]),
        (["systems=[dsssd]"], ["systems.0", "did you mean `dssd`"]),
        (["systems=[dssd, dssd]"], ["dssd is there twice", "as: dssd_2"]),
        (["systems=[]"], ["systems"]),
        (["systems.dssd.options.k=3"], ["no option 'k'"]),
        (["systems.dsd.stop=3"], ["systems has no element `dsd`", "dsd_sparse"]),
        (["systems.dssd.as=a/b"], ["systems.1.as", "a/b"]),
        (["systems.dssd.stop.length=0"], ["systems.1", "length must be"]),
        (["sampling.temperature=-1"], ["sampling.temperature", "greater than or equal to 0"]),
        (["sampling.top_p=0"], ["sampling.top_p"]),
        (["workload.requests=0"], ["workload.requests"]),
        (["workload.prompts=nowhere.jsonl"], ["workload.prompts", "no file", "nowhere.jsonl"]),
        (["workload.prompts=[]"], ["workload.prompts", "at least one"]),
        (["workload.stop=['']"], ["workload.stop", "empty stop string"]),
        (["engine.acceptance=2"], ["device.engine", "acceptance 2"]),
        (["engine.acceptence=0.5"], ["device.engine", "acceptence", "acceptance"]),
        (["engine=gpt"], ["device.engine", "unknown engine 'gpt'", "bundled:draft"]),
        (["engine=hf:./nowhere"], ["device.engine", "no model at", "nowhere"]),
        (["pace=h900"], ["device.engine", "no compute profile 'h900'", "opt-125m-6.7b@h800"]),
        (["device.engine=toy"], ["engine and device.engine", "keep one"]),
        (["models={draft: toy, target: toy}"], ["engine and models", "keep one"]),
        (["pace=x", "edge.pace=y"], ["pace and edge.pace", "keep one"]),
        (["engine.threads=2", "device.threads=3"], ["device.threads and engine.threads", "keep one"]),
        (["device.probes=[rapll]"], ["device.probes", "did you mean `rapl`"]),
        (["edge.probes=['plug:adress=http://x']"], ["edge.probes", "no option 'adress'", "url, kind, switch"]),
        (["edge.probes=['plug:http']"], ["edge.probes", "'http' is not option=value"]),
        (["device.probes=['rapl', 'rapl:count_dram=true']"], ["device.probes", "rapl is there twice"]),
        (["device.probes=['plug:url=5']"], ["device.probes", "probe plug:url=5"]),
        (["device.cpu_share=0.04"], ["device.cpu_share", "greater than or equal to 0.05"]),
        (["edge.batch=later"], ["edge.batch", "immediate"]),
        (["energy.edge.idle_w=4"], ["energy.edge", "together"]),
        (["energy.edge={idle_w: 9, full_w: 4}"], ["energy.edge", "exchange"]),
        (["transport.give_up_after_s=1"], ["transport", "raise it"]),
        (["energy.radio={technology: 6g}"], ["energy.radio.technology", "lte"]),
        (["energy.radio={technology: 5g}"], ["energy.radio", "5g lacks unit_w"]),
        (
            ["hosts={device: {local: true}, edge: {address: far}}", "energy.radio={technology: lte}"],
            ["hosts.device.interface"],
        ),
        (["transport.security=none"], ["transport.security", "'curve' or 'plain'"]),
        (["name=a/b"], ["name", "a/b"]),
        (["repeats"], ["--set repeats", "key=value"]),
        (["seed.x=1"], ["seed", "must be a valid integer, not a mapping"]),
        (["name=n", "name.x=1"], ["name is 'n'", "no key `x`"]),
    ],
    ids=lambda value: value[0][:28] if isinstance(value, list) else "",
)
def test_what_cannot_be_run_is_refused_by_name_and_with_what_is_allowed(load, settings, said):
    message = refused(load, *settings)
    assert "mine.yaml" in message or "--set" in message
    for part in said:
        assert part in message


def test_a_models_folder_is_looked_for_beside_the_configuration(load, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    text = "systems: [dssd]\nmodels: {draft: 'hf:./a', target: toy}"
    assert f"no model at {tmp_path / 'a'}" in refused(load, text=text)


@pytest.mark.parametrize("node", ["device", "edge"])
def test_a_probe_is_told_to_a_run_as_to_the_command_line(load, node):
    said = [
        "plug:url=http://10.0.0.7:80,kind=tasmota",
        'hwmon:total=["ina226.power1", "ina226.power2"]',
        "psutil_trace",
    ]
    config = load(**{node: {"probes": said}})
    assert config.resolved()[node]["probes"] == said, "as it was said, and as before where it was a name"
    assert getattr(config.to_runspec(), node).probes.probes == said
    assert parse_probe(said[0]) == ("plug", {"url": "http://10.0.0.7:80", "kind": "tasmota"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("systems: [dssd]\nsystems: [dsd]", "`systems` is given twice"),
        ("systems: [dssd", "is not YAML"),
        ("- dssd", "has to be a mapping"),
        ("engine: toy", "systems: is missing"),
        ("name: x\nsystems: {{ systems }}", "line 2: braces or brackets where a key belongs"),
        ('systems: [dssd]\nworkload: {prompts: ["a\\uD800b"]}', "workload.prompts: a prompt: "),
        ('systems: [dssd]\nworkload: {stop: ["\\uDC00"]}', "workload.stop: a stop string: "),
    ],
)
def test_a_file_that_is_none(load, text, said):
    assert said in refused(load, text=text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        load_config(tmp_path / "nowhere.yaml")


def test_overrides_reach_into_shorthands(load):
    config = load("systems.dssd.stop.length=7", "link=lte", "link.rtt_ms=20", "engine.acceptance=0.5", "seed=9")
    lengths = {system.name: make_stop(system.stop).max_length for system in config.compositions}
    assert lengths == {"device_ar": 1, "dssd": 7, "dsd_sparse": 4}
    assert (config.link.base_rtt_ms, config.link.up.rate_mbps) == (20, 10)
    assert config.device_engine == config.edge_engine == {"engine": "toy", "acceptance": 0.5, "threads": 1}
    assert config.to_runspec().sampling.seed == 9


def test_an_override_of_one_key_leaves_the_others(load):
    assert load("workload.max_new_tokens=5").workload.prompts == TOY["workload"]["prompts"]


def test_draft_length_is_for_those_that_do_not_say_otherwise(load):
    entries = ["device_ar", "dssd", {"system": "dssd", "as": "dssd_g2", "stop": {"length": 2}}]
    entries.append({"system": "dssd", "as": "dssd_sure", "stop": {"policy": "confidence", "threshold": 0.3}})
    systems = load(systems=entries, draft_length=6).compositions
    assert [make_stop(system.stop).max_length for system in systems[:3]] == [1, 6, 2]
    assert systems[3].stop == {"policy": "confidence", "threshold": 0.3}


def test_an_entry_changes_what_it_names_and_nothing_else(load):
    entry = {"system": "dssd_sampled", "as": "k8", "options": {"draws": 8}, "down": "dense_fp16"}
    (system,) = load(systems=[entry]).compositions
    published = load_system("dssd_sampled")
    assert (system.name, system.options["draws"], system.down) == ("k8", 8, "dense_fp16")
    assert (system.title, system.up, system.stop) == (published.title, published.up, published.stop)


def test_the_edge_gets_a_draft_model_only_when_a_system_needs_one(load):
    assert load().to_runspec().edge.draft_engine is None
    spec = load(systems=["colocated_sd"]).to_runspec()
    assert spec.edge.draft_engine == spec.device.engine


def test_shorthands_and_their_long_forms_are_the_same_run(load):
    models = {"draft": "bundled:draft", "target": "bundled:target"}
    long = {"device": {"engine": models["draft"], "pace": "qwen3-0.6b-32b"}}
    long["edge"] = {"engine": {"engine": models["target"], "pace": "qwen3-0.6b-32b"}}
    short = load(engine=None, models=models, pace="qwen3-0.6b-32b")
    assert short.resolved() == load(engine=None, **long).resolved()


def test_timing_comes_from_the_link(load):
    link = {"up": {"rate_mbps": 5, "delay_ms": 30, "jitter_ms": 4}, "down": {"delay_ms": 20, "loss_pct": 2}}
    timing = load(link=link).timing
    assert (timing.rtt_ms, timing.rate_mbps, timing.loss_pct) == (54, 5, 2)
    assert load().timing.rtt_ms >= 1


def test_relative_paths_are_taken_from_the_configuration(load, tmp_path):
    (tmp_path / "mine.txt").write_text("one\ntwo\n")
    assert [prompt.text for prompt in load(workload={"prompts": "mine.txt"}).prompts] == ["one", "two"]


def test_a_resolved_configuration_notices_other_prompts(load, tmp_path):
    (tmp_path / "mine.txt").write_text("one\n")
    resolved = load(workload={"prompts": "mine.txt"}).resolved()
    (tmp_path / "mine.txt").write_text("another\n")
    assert "is not the file this configuration was written for" in refused(load, text=yaml.safe_dump(resolved))


def test_the_id_tells_configurations_apart(load):
    assert config_id(load().resolved()) == config_id(load().resolved())
    assert config_id(load().resolved()) != config_id(load(seed=1).resolved())


def test_the_schema_names_every_key():
    assert set(json_schema()["properties"]) == {*Config.model_fields, "sweep"}
