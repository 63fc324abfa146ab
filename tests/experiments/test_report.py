"""The report page: complete, self-contained, true to the records, unimpressed by hostile text and broken runs."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from report_run import SYSTEMS, WATTS, Page, rewrite, summary_of, toy_run

from experiments.report import write_report
from experiments.report.energy import pareto_front
from experiments.report.html import number
from experiments.report.page import render
from experiments.report.palette import SYSTEM_COLOURS, system_slots
from experiments.report.sections import HEADLINE_KEYS
from experiments.store import RunFolder
from experiments.summary import summarise
from experiments.table import COLUMNS
from nodes.composition import load_system, system_names

PLOTS = (
    "tokens-per-s", "requests", "round-parts", "predicted", "latency-ttft", "latency-tpot", "latency-itl", "acceptance",
    "acceptance-length", "bytes-up", "bytes-down", "tcp-cwnd", "tcp-rtt", "tcp-retransmits", "tcp-bytes",
    "energy-delay", "energy-phases",
)  # fmt: skip


def page_of(folder: RunFolder) -> Page:
    return Page(render(folder, summary_of(folder)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> RunFolder:
    return toy_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(folder) -> Page:
    return page_of(folder)


def test_the_page_is_one_file_that_fetches_nothing(folder):
    path = write_report(folder, summary_of(folder))
    assert path == folder.path / "report.html"
    text = path.read_text(encoding="utf-8")
    assert len(text) < 6e6
    page = Page(text)
    loading = {"src", "href", "srcset", "data", "action", "poster", "background"}
    assert not [(tag, attributes) for tag, attributes in page.tags if loading & set(attributes)]
    assert not {"link", "iframe", "object", "embed", "img", "base"} & {tag for tag, _ in page.tags}
    styles = re.findall(r"<style>(.*?)</style>", text, re.S)
    assert styles and not re.search(r"url\(|@import", "".join(styles))
    policy = next(attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes)
    assert "default-src 'none'" in policy
    assert list(folder.path.glob(".*")) == [], "nothing half-written is left"


def test_every_system_can_be_filtered_and_is_in_every_plot_that_concerns_it(page):
    assert page.values("input", "value") == list(SYSTEMS)
    assert [plot["id"] for plot in page.data["plots"]] == list(PLOTS)
    for name in ("tokens-per-s", "latency-itl", "tcp-cwnd", "energy-delay"):
        assert {trace["meta"].get("system") for trace in page.plot(name)["traces"]} - {None} == set(SYSTEMS)
    assert set(page.data["timelines"]["systems"]) == set(SYSTEMS)
    assert {trace["meta"]["system"] for trace in page.plot("acceptance")["traces"]} == set(SYSTEMS[2:])
    rows = page.values("tr", "data-system")
    assert all(rows.count(system) > len(PLOTS) for system in SYSTEMS), "every plot has its table"


def test_every_plot_names_its_units_and_says_what_it_shows(page):
    for plot in page.data["plots"]:
        assert plot["layout"]["xaxis"]["title"]["text"], plot["id"]
    captions = [tag for tag, _ in page.tags if tag == "figcaption"]
    assert len(captions) == len(PLOTS) + 1


def test_the_parts_of_a_round_add_up_to_the_rounds_recorded(folder, page):
    rounds = [record for record in folder.rounds().records if not record.warmup]
    for i, system in enumerate(SYSTEMS):
        mine = [(record.end_ns - record.start_ns) / 1e6 for record in rounds if record.system == system]
        shown = sum(trace["x"][i] for trace in page.plot("round-parts")["traces"])
        assert page.plot("round-parts")["traces"][0]["y"][i] == system
        assert shown == pytest.approx(sum(mine) / len(mine), rel=1e-3)


def test_what_is_not_exact_looks_different(page):
    bars = {trace["meta"].get("system"): trace["marker"] for trace in page.plot("tokens-per-s")["traces"][:-1]}
    assert "pattern" in bars["device_ar"] and "pattern" not in bars["dssd"]
    *shown, _front = page.plot("energy-delay")["traces"]
    points = {trace["meta"]["system"]: trace["marker"]["symbol"] for trace in shown}
    assert points["device_ar"].endswith("-open") and not points["dssd"].endswith("-open")


def test_the_pareto_front_is_what_nothing_beats(page):
    chance = random.Random(3)
    points = [(chance.choice((1.0, 2.0, 3.0, 4.0)), chance.choice((1.0, 2.0, 3.0))) for _ in range(40)]
    for n in range(1, len(points)):
        some = points[:n]
        beaten = {p for p in some for q in some if q != p and q[0] <= p[0] and q[1] <= p[1]}
        assert pareto_front(some) == sorted(set(some) - beaten)
    *shown, front = page.plot("energy-delay")["traces"]
    assert front["meta"] == {"front": True}
    assert list(zip(front["x"], front["y"])) == pareto_front((trace["x"][0], trace["y"][0]) for trace in shown)


def test_a_system_keeps_its_colour(page):
    assert system_slots(["dssd", "edge_ar"])["dssd"] == system_slots(["mine", "dssd"])["dssd"]
    slots = system_slots(["mine", *system_names()][: len(SYSTEM_COLOURS)])
    assert len(set(slots.values())) == len(slots)
    colours: dict[str, set[str]] = {}
    for plot in page.data["plots"]:
        for trace in plot["traces"]:
            if system := trace["meta"].get("system"):
                found = trace.get("marker", trace.get("line"))["color"]
                colours.setdefault(system, set()).add(found)
    assert all(len(found) == 1 for found in colours.values())


def test_every_figure_of_the_headline_sorts_by_its_number():
    """The headline is the console's: a column added there must be told here what to sort by."""
    assert {column.heading.replace("\n", " ") for column in COLUMNS if not column.left} == set(HEADLINE_KEYS)


def test_energy_by_phase_adds_up_to_the_joules_of_the_summary(folder, page):
    traces = page.plot("energy-phases")["traces"]
    for i, figures in enumerate(summary_of(folder)["systems"]):
        for node in WATTS:
            shown = sum(trace["x"][i] for trace in traces if trace["offsetgroup"] == node)
            assert shown == pytest.approx(figures[f"energy_{node}_j_per_token"], rel=0.02)


def test_a_timeline_is_the_requests_own(folder, page):
    requests = {request.request_id: request for request in folder.requests().records}
    for mine in page.data["timelines"]["systems"].values():
        for shown in mine:
            request = requests[shown["request_id"]]
            assert shown["rounds"] == request.rounds
            device = [span for part, spans in shown["spans"]["device"].items() if part != "lookahead" for span in spans]
            rounds = [r for r in folder.rounds().records if r.request_id == request.request_id]
            total_ms = sum((r.end_ns - r.start_ns) / 1e6 for r in rounds)
            assert sum(length for _, length, _ in device) == pytest.approx(total_ms, rel=0.01)
            for node, watts in WATTS.items():
                assert all(w == pytest.approx(watts, rel=1e-3) for w in shown["power"][node][1])


def test_hostile_text_stays_text(tmp_path):
    evil = "</script><img src=x onerror=alert(1)><!--&lt;$nonce ${title} \u2028"
    folder = toy_run(tmp_path, ["edge_ar", "dssd"], requests=1)
    rewrite(tmp_path / "requests.jsonl", lambda record: record.update(text=evil, error=""))
    (tmp_path / "config.yaml").write_text(f"name: {json.dumps(evil)}\n", encoding="utf-8")
    (tmp_path / "manifest.json").write_text(json.dumps({"status": evil, "events": [{"event": evil, "why": evil}]}))
    (tmp_path / "link.json").write_text(json.dumps({"backend": evil, "declared": {"up": {evil: evil}}}))
    summary = summary_of(folder)
    summary["name"] = summary["labels"][0] = evil
    for figures in summary["systems"]:
        figures["title"] = figures["energy_note"] = evil
    text = render(folder, summary)
    page = Page(text)
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.text.count("onerror=alert(1)") > 5, "it is shown, as what it is"
    assert text.count("<script") == 3 == text.count("</script>")


def test_a_hostile_request_id_cannot_leave_the_data(tmp_path):
    folder = toy_run(tmp_path, ["dssd"], requests=1)
    for file in ("requests.jsonl", "rounds.jsonl"):
        rewrite(tmp_path / file, lambda record: record.update(request_id="</script><b>"))
    page = page_of(folder)
    assert page.data["timelines"]["systems"]["dssd"][0]["request_id"] == "</script><b>"


def test_without_power_the_page_says_why(tmp_path):
    page = page_of(toy_run(tmp_path, ["edge_ar", "dssd"], power=False))
    assert page.plot("energy-delay")["traces"] == page.plot("energy-phases")["traces"] == []
    assert page.text.count("no <usable> energy probe") >= 3
    assert "plot-energy-delay" not in page.values("div", "id")
    assert page.data["timelines"]["systems"]["dssd"][0]["power"] == {"device": [[], []], "edge": [[], []]}


def test_one_system_alone(tmp_path):
    page = page_of(toy_run(tmp_path, ["device_ar"]))
    assert page.values("input", "value") == ["device_ar"]
    assert page.plot("acceptance")["traces"] == []
    assert "Not shown: no system had a draft verified." in page.text


def test_clocks_that_do_not_compare_are_not_compared(tmp_path):
    folder = toy_run(tmp_path, ["dssd"], boots=("one boot", "another"))
    page = page_of(folder)
    assert "The edge has another clock" in page.text
    assert list(page.data["timelines"]["systems"]["dssd"][0]["power"]) == ["device"]
    spec = load_system("dssd")
    records = folder.rounds().records, folder.requests().records
    summary = summarise("toy", "id", [spec], *records, clock_offset_ns=None)
    assert "the network is one block" in Page(render(folder, summary)).text


@pytest.mark.parametrize("missing", [(), ("manifest.json", "link.json", "run.json", "power.edge.jsonl")])
def test_an_aborted_run_still_renders(tmp_path, missing):
    folder = toy_run(tmp_path, ["edge_ar", "dssd"])
    summary = summary_of(folder)
    for file in ("requests.jsonl", "rounds.jsonl", "power.device.jsonl"):
        whole = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(whole[: len(whole) * 2 // 3])
    for file in missing:
        (tmp_path / file).unlink()
    if not missing:
        summary = summary_of(folder)
        assert [event["event"] for event in summary["events"]].count("damaged_lines")
    page = Page(render(folder, summary))
    assert page.values("input", "value") == ["edge_ar", "dssd"]
    assert ("the run did not get that far" in page.text) == bool(missing)


def test_a_run_that_finished_nothing_still_renders(tmp_path):
    (tmp_path / "config.yaml").write_text("name: nothing\n")
    summary = summarise("nothing", "id", [load_system("dssd")], [], [])
    page = Page(render(RunFolder(tmp_path), summary))
    assert page.text.count("Not shown: ") == len(PLOTS) + 1
    assert page.data["timelines"] is None


def test_retries_and_failures_are_events(tmp_path):
    folder = toy_run(tmp_path, ["dssd"], requests=2)
    rewrite(tmp_path / "requests.jsonl", lambda record: record.update(retries=2, resumed=1))
    assert page_of(folder).text.count("2 retries, 1 resumed") >= 2


def test_the_link_is_declared_applied_and_observed(page):
    for said in ("50.4 (p95 51, 140 probes)", "0 (0 to 0.53)", "not checked: rate down: none declared"):
        assert said in page.text


def test_without_plotly_the_tables_are_there(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    text = render(folder, summary_of(folder))
    assert len(text) < 1e6 and "Plots need plotly" in text


def test_numbers_keep_four_digits_and_no_powers_of_ten():
    shown = {0: "0", 0.00001234: "0.000012", 3.14159: "3.142", 999.96: "1000", 525312.4: "525\u202f312", -2.5: "-2.5"}
    assert {value: number(value) for value in shown} == shown


def test_package_data_holds_the_page():
    config = Path("setup.cfg").read_text(encoding="utf-8")
    assert "report/page.*" in config
