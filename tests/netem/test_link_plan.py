from __future__ import annotations

import subprocess
import sys

import pytest

from netem import plan
from netem.apply import applied_values, differences, expected_values, our_netem
from netem.plan import LabNames, netem_argv, reshape
from netem.spec import DirectionSpec, LinkSpec


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"delay_ms": 20}, "limit 2500 delay 20ms"),
        ({"rate_mbps": 0.5}, "limit 1000 rate 0.5mbit"),
        ({"delay_ms": 12.5, "rate_mbps": 10, "loss_pct": 1}, "limit 1000 delay 12.5ms loss random 1% rate 10mbit"),
        ({"loss_pct": 1, "loss_correlation_pct": 25}, "limit 1000 loss random 1% 25%"),
        (
            {"gilbert": {"mean_loss_pct": 2, "mean_burst": 4}},
            "limit 1000 loss gemodel 0.510204% 25%",
        ),
        (
            {"delay_ms": 30, "jitter_ms": 5, "distribution": "normal", "rate_mbps": 4},
            "limit 1000 delay 30ms 5ms distribution normal rate 4mbit",
        ),
        ({"delay_ms": 1, "duplicate_pct": 1, "corrupt_pct": 0.1}, "limit 1000 delay 1ms duplicate 1% corrupt 0.1%"),
        ({"delay_ms": 1, "queue_packets": 9}, "limit 9 delay 1ms"),
        ({"rate_mbps": 0.0001}, "limit 1000 rate 0.0001mbit"),
        (
            {"gilbert": {"mean_loss_pct": 4, "mean_burst": 10, "bad_loss_pct": 50, "good_loss_pct": 1}, "ecn": True},
            "limit 1000 loss gemodel 0.652174% 10% 50% 1% ecn",
        ),
        (
            {"loss_states": {"mean_loss_pct": 2, "mean_burst": 4}},
            "limit 1000 loss state 0.510204% 25% 0% 100% 0%",
        ),
        ({"rate_mbps": 5, "rate_overhead_bytes": -14}, "limit 1000 rate 5mbit -14"),
        ({"rate_mbps": 5, "rate_cell_bytes": 48, "rate_cell_overhead_bytes": 5}, "limit 1000 rate 5mbit 0 48 5"),
        ({"slot": {"min_ms": 2, "max_ms": 5, "packets": 9}}, "limit 1000 slot 2ms 5ms packets 9"),
        (
            {"slot": {"mean_ms": 2, "jitter_ms": 1, "distribution": "normal"}},
            "limit 1000 slot distribution normal 2ms 1ms",
        ),
        (
            {"delay_ms": 1, "reorder_pct": 5, "reorder_gap": 3, "duplicate_pct": 1, "duplicate_correlation_pct": 9},
            "limit 1000 delay 1ms reorder 5% gap 3 duplicate 1% 9%",
        ),
        ({"loss_pct": 1, "seed": 7}, "limit 1000 loss random 1% seed 7"),
    ],
)
def test_netem_arguments(spec: dict, text: str) -> None:
    assert " ".join(netem_argv(DirectionSpec(**spec))) == text


def test_slots_of_a_uniform_law_lie_between_two_bounds() -> None:
    """However they are given: tc has no table of it, and refuses a distribution without jitter."""
    for mean, bounds in (
        ({"mean_ms": 10}, {"min_ms": 10}),
        ({"mean_ms": 10, "jitter_ms": 2}, {"min_ms": 8, "max_ms": 12}),
        ({"mean_ms": 0.5, "jitter_ms": 0.25, "packets": 3}, {"min_ms": 0.25, "max_ms": 0.75, "packets": 3}),
    ):
        by_mean, by_bounds = DirectionSpec(slot=mean), DirectionSpec(slot=bounds)
        assert netem_argv(by_mean) == netem_argv(by_bounds)
        assert expected_values(by_mean) == expected_values(by_bounds)


def test_jitter_keeps_order_by_a_rate_that_never_limits_unless_reordering_is_wanted() -> None:
    assert netem_argv(DirectionSpec(delay_ms=9, jitter_ms=3))[-2:] == ["rate", plan.NEVER_LIMITS]
    assert "rate" not in netem_argv(DirectionSpec(delay_ms=9, jitter_ms=3, reorder_pct=5))


def test_change_says_what_is_no_longer_there() -> None:
    before = DirectionSpec(delay_ms=10, rate_mbps=5, loss_pct=1, duplicate_pct=2)
    (step,) = reshape("up", before, DirectionSpec(delay_ms=10))
    assert " ".join(step.argv) == (
        "tc qdisc change dev to_edge root handle d55d: netem limit 1250 delay 10ms duplicate 0% rate 100gbit"
    )


def test_only_what_change_cannot_do_loses_the_queue() -> None:
    flat, shaped = DirectionSpec(), DirectionSpec(delay_ms=10, jitter_ms=1)
    normal = DirectionSpec(delay_ms=10, jitter_ms=1, distribution="normal")
    verbs = [
        [step.argv[2] for step in reshape("down", *pair)]
        for pair in [
            (flat, shaped),
            (shaped, flat),
            (shaped, normal),
            (shaped, DirectionSpec(delay_ms=3)),
            (flat, flat),
        ]
    ]
    assert verbs == [["add"], ["del"], ["del", "add"], ["change"], []]


def test_the_whole_plan_as_text() -> None:
    names = LabNames("demo")
    made = plan.netns_plan(names, LinkSpec(up={"delay_ms": 10}, tcp={"initcwnd": 20, "rmem_bytes": 8000}), "cubic")
    text = plan.shell_lines(made.steps, names)
    here = "nsenter --net=/run/netns/dssd-demo-"
    device, edge = names.address("device"), names.address("edge")
    for line in [
        "ip netns add dssd-demo-router",
        "ip -n dssd-demo-router link add to_edge type veth peer name link0 netns dssd-demo-edge",
        f"{here}router -- tc qdisc add dev to_edge root handle d55d: netem limit 1250 delay 10ms",
        f"{here}router -- sysctl -q -w net.ipv4.ip_forward=1",
        f"{here}edge -- ip address add {edge}/30 dev link0",
        f"{here}device -- ethtool -K link0 tso off gso off gro off",
        f"{here}edge -- ip route replace {names.subnet('device')} via {names.address('router', 'edge')} dev link0"
        " congctl cubic initcwnd 20",
        f"{here}device -- sysctl -q -w 'net.ipv4.tcp_rmem=4096 8000 8000'",
    ]:
        assert line in text
    assert not any("to_device root" in line for line in text), "an unshaped direction gets no qdisc"
    assert device.startswith("198.18.") and edge.startswith("198.19.")
    assert plan.shell_lines(made.undo, names) == [f"ip netns del {name}" for name in names.namespaces]


def test_nothing_is_made_outside_the_three_namespaces() -> None:
    names = LabNames("demo")
    for step in plan.netns_plan(names, LinkSpec(rtt_ms=4), "reno").steps:
        assert (
            step.place != "here"
            or step.argv[:3] == ("ip", "netns", "add")
            or any(namespace in word for word in step.argv for namespace in names.namespaces)
        )


def test_labs_side_by_side_have_names_and_subnets_of_their_own() -> None:
    first, second = LabNames("a1"), LabNames("a2")
    assert not set(first.namespaces) & set(second.namespaces)
    assert first.subnet("device") != second.subnet("device")
    for index in range(500):
        names = LabNames(f"lab{index}")
        last = int(names.subnet("edge").removesuffix("/30").rpartition(".")[2])
        assert last % 4 == 0 and names.address("edge").endswith(f".{last + 1}")
    assert max(len(name) for name in (plan.INTERFACE, *plan.PORTS.values())) <= 15


SHOWN = """[{"kind":"netem","handle":"d55d:","root":true,"options":{"limit":1000,"delay":{"delay":0.0199,"jitter":0.001,
"correlation":0},"loss-random":{"loss":0.01,"correlation":0},"rate":{"rate":2500000}},"drops":3}]"""


def test_read_back_is_compared_with_what_was_declared() -> None:
    applied = applied_values(our_netem(SHOWN))
    assert applied == {"queue_packets": 1000, "delay_ms": 19.9, "jitter_ms": 1, "loss_pct": 1, "rate_mbps": 20}
    same = DirectionSpec(delay_ms=19.9, jitter_ms=1, loss_pct=1, rate_mbps=20)
    assert differences(same, applied) == []
    other = DirectionSpec(delay_ms=20, jitter_ms=1, loss_pct=1)
    assert differences(other, applied) == [
        "delay_ms: declared 20, in force 19.9",
        "queue_packets: declared 2625, in force 1000",
        "rate_mbps: declared 0, in force 20",
    ]


def test_what_goes_with_a_loss_is_asked_for_and_expected_only_while_there_is_one() -> None:
    for spec in (
        DirectionSpec(delay_ms=9, loss_pct=1, ecn=True, loss_correlation_pct=25),
        DirectionSpec(delay_ms=9, gilbert={"mean_loss_pct": 1, "mean_burst": 2}, ecn=True),
    ):
        for point in (spec, spec.model_copy(update={"loss_pct": 0.0, "gilbert": None})):
            argv, expected = netem_argv(point), expected_values(point)
            assert ("ecn" in argv) == ("ecn" in expected) == bool(point.mean_loss_pct)
            assert ("25%" in argv) == ("loss_correlation_pct" in expected)
            assert differences(point, expected | {"ecn": True}) == [], "netem keeps a mark until told otherwise"
    assert differences(DirectionSpec(delay_ms=9), {"queue_packets": 1125, "delay_ms": 9, "ecn": True}) != []


def test_only_our_own_qdisc_is_read() -> None:
    assert our_netem(SHOWN.replace("d55d:", "8001:")) is None
    assert our_netem("") is None
    assert applied_values(None) == {}


def test_importing_the_lab_is_quick_and_does_nothing() -> None:
    code = "import sys, netem.lab, netem.check; print([m for m in ('torch', 'zmq', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_a_change_cannot_take_back_is_built_anew() -> None:
    plain = DirectionSpec(delay_ms=9, loss_pct=1)
    for more in ({"ecn": True}, {"slot": {"min_ms": 2}}, {"loss_correlation_pct": 9}, {"seed": 1}):
        other = DirectionSpec(delay_ms=9, loss_pct=1, **more)
        assert [step.argv[2] for step in reshape("up", other, plain)] == ["del", "add"], more
        assert [step.argv[2] for step in reshape("up", other, other.model_copy(update={"loss_pct": 2}))] == ["change"]


def test_an_old_kernel_that_passes_over_a_seed_is_found_out() -> None:
    seeded = DirectionSpec(loss_pct=1, seed=7)
    [said] = differences(seeded, {"queue_packets": 1000, "loss_pct": 1})
    assert "Linux 6.6" in said
    assert differences(seeded, {"queue_packets": 1000, "loss_pct": 1, "seed": 7}) == []
    assert differences(DirectionSpec(loss_pct=1), {"queue_packets": 1000, "loss_pct": 1, "seed": 9}) == []
