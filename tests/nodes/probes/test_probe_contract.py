"""What every probe file keeps: it says what it found, and reads exactly what it said."""

import math
import os
import time

import pytest

from nodes.probes import (
    STATUSES,
    Channel,
    Finding,
    ProbeError,
    choose_energy_source,
    find_probes,
    make_probe,
    parse_probe,
    probe_class,
    probe_names,
)

OPTIONS = {  # what makes a probe usable on any machine; the others say what they lack
    "psutil_estimate": {"idle_w": 2.0, "full_w": 10.0, "pids": [os.getpid()]},
    "paced_model": {"idle_w": 1.0, "added_w": {"draft": 4.0}, "busy_s": {"draft": time.process_time}},
}


@pytest.fixture(params=probe_names())
def probe(request):
    made = make_probe(request.param, **OPTIONS.get(request.param, {}))
    yield made
    made.close()


def test_the_file_is_the_registration(probe):
    assert probe.name in probe_names() and type(probe) is probe_class(probe.name)


def test_finding_is_complete(probe):
    finding = probe.trial()
    assert finding.probe == probe.name and finding.status in STATUSES and finding.detail
    if not finding.usable:
        assert finding.remedy, "what is missing must come with what mends it"
        return
    assert finding.channels and finding.resolution_ms > 0
    counted = [channel for channel in finding.channels if channel.total]
    assert bool(counted) == bool(finding.scope)
    assert all(channel.unit == "j" for channel in counted)


def test_reads_what_it_said_and_never_runs_backwards(probe):
    finding = probe.trial()
    if not finding.usable:
        pytest.skip(finding.detail)
    said = {channel.name: channel for channel in finding.channels}
    before: dict[str, float] = {}
    for _ in range(3):
        for reading in probe.read():
            channel = said[reading.channel]
            assert (reading.unit, reading.status) == (channel.unit, channel.status)
            assert math.isfinite(reading.value)
            if reading.unit in ("j", "s", "count"):
                assert reading.value >= before.get(reading.channel, 0.0)
                before[reading.channel] = reading.value
        time.sleep(0.02)


def test_a_paced_engine_without_watts_is_named_and_nothing_is_assumed_for_it():
    busy = {"target": time.process_time, "draft": time.process_time}
    added = {"target": 300.0, "draft": None}  # an edge whose own draft model has no pace, or a pace without watts
    finding = make_probe("paced_model", idle_w=100.0, added_w=added, busy_s=busy).trial()
    assert finding.status == "unsupported" and "for draft" in finding.detail and "edge.draft_engine" in finding.remedy
    assert make_probe("paced_model", added_w={"target": 300.0}, busy_s=busy).trial().status == "unsupported"


def test_unknown_names_list_what_exists(probe):
    with pytest.raises(ProbeError, match="psutil_trace"):
        make_probe("psutil_trase")
    with pytest.raises(ProbeError, match="no option 'volts'"):
        make_probe(probe.name, volts=3)


def test_all_findings_on_this_machine():
    findings = {finding.probe: finding for finding in find_probes()}
    assert list(findings) == probe_names()
    assert findings["psutil_trace"].status == "measured"
    assert findings["psutil_estimate"].status == "unsupported"  # no watts are assumed
    assert "idle_w" in findings["psutil_estimate"].remedy


def test_options_on_a_command_line():
    assert parse_probe("rapl") == ("rapl", {})
    assert parse_probe("x:idle_w=2.5,pids=[1,2],url=http://h/a?b=1") == (
        "x",
        {"idle_w": 2.5, "pids": [1, 2], "url": "http://h/a?b=1"},
    )
    with pytest.raises(ProbeError, match="option=value"):
        parse_probe("rapl:dram")


def finding(probe, status, scope, resolution_ms=1.0):
    return Finding(
        probe,
        status,
        resolution_ms=resolution_ms,
        scope=scope,
        channels=(Channel("e", "j", status, total=True),),
    )


def test_choice_of_the_energy_source():
    cpu, gpu = finding("rapl", "measured", "cpu"), finding("nvml", "measured", "gpu")
    plug, battery = (
        finding("plug", "measured", "node", 1000.0),
        finding("battery", "measured", "node", 5000.0),
    )
    guess, model = (
        finding("psutil_estimate", "estimated", "process"),
        finding("paced_model", "modelled", "node"),
    )
    radio = finding("radio", "modelled", "radio")

    def chosen(*findings, **how):
        return choose_energy_source(findings, **how).probes

    assert chosen(guess, cpu, gpu) == ("rapl", "nvml")  # parts of a node add up
    assert chosen(cpu, gpu, plug, battery) == ("plug",)  # the whole contains them
    assert chosen(guess, model, radio) == ("psutil_estimate",)
    assert chosen(cpu, plug, guess, model, paced=True) == ("paced_model",)
    assert chosen(cpu, plug, guess, shared=True) == ("psutil_estimate",)  # the machine is not the node
    assert chosen(radio) == () and chosen(cpu, paced=True) == ()
    nothing = choose_energy_source([Finding("rapl", "denied", scope="cpu")])
    assert nothing.status == "unsupported" and "declare watts" in nothing.reason
