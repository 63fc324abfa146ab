"""Twelve declared links, measured over every backend: is what was declared what is there?

    measure_declared("uml")        # records; "netns", and "physical": a real interface's link, shaped in a guest

netns needs a kernel with netem. Where this one has none, the whole measurement is made in a user-mode Linux guest, in
which this file runs as a program: `python -m experiments.bench.declared LINK...`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

from experiments.bench.guest import GuestRouter, run_in_guest
from experiments.bench.records import record
from netem import plan
from netem.backend import why_no_netem
from netem.check import check_link
from netem.errors import LinkError
from netem.judge import expected_delay_ms
from netem.lab import Lab, exit_on_sigterm, open_lab, opened
from netem.spec import DIRECTIONS, DirectionSpec, LinkSpec

BACKENDS = ("uml", "netns", "physical")
LINKS: dict[str, dict[str, Any]] = {
    "2 ms": {"rtt_ms": 2},
    "10 ms, 200 Mbit/s": {"rtt_ms": 10, "rate_mbps": 200},
    "20 ms, 100 Mbit/s, 0.5 % lost": {"rtt_ms": 20, "rate_mbps": 100, "loss_pct": 0.5},
    "40 ms, 20 Mbit/s, 1 % lost": {"rtt_ms": 40, "rate_mbps": 20, "loss_pct": 1},
    "30 ms, 10 % lost": {"rtt_ms": 30, "loss_pct": 10},
    "50 ms, 10 up 30 down": {"rtt_ms": 50, "up": {"rate_mbps": 10}, "down": {"rate_mbps": 30}},
    "5+60 ms, 2 up 50 down": {"up": {"delay_ms": 5, "rate_mbps": 2}, "down": {"delay_ms": 60, "rate_mbps": 50}},
    "100 ms, 5 Mbit/s, 2 % lost": {"rtt_ms": 100, "rate_mbps": 5, "loss_pct": 2},
    "200 ms, 0.5 Mbit/s": {"rtt_ms": 200, "rate_mbps": 0.5},
    "300+300 ms, 2 Mbit/s, 1 % lost": {"rtt_ms": 600, "rate_mbps": 2, "loss_pct": 1},
    "20 ms, 2 % up in bursts of 4": {
        "rtt_ms": 20, "rate_mbps": 20,
        "up": {"gilbert": {"mean_loss_pct": 2, "mean_burst": 4}}, "down": {"loss_pct": 3},
    },
    "60 ms, bursts of 2 up, 8 down": {
        "up": {"delay_ms": 20, "gilbert": {"mean_loss_pct": 1, "mean_burst": 2}},
        "down": {"delay_ms": 40, "rate_mbps": 50, "gilbert": {"mean_loss_pct": 5, "mean_burst": 8}},
    },
}  # fmt: skip
RTT_MS, RTT_PCT, RATE_PCT, BURST_PCT, ADDS_MS = 0.5, 1.0, 4.0, 20.0, 0.3
LOSS_PHASE_S = 10.0
MARK = "=declared "


def measure_declared(backend: str, names: Sequence[str] = tuple(LINKS)) -> list[dict[str, Any]]:
    """Records of these links. Raises BackendError where it cannot be built here, not even in a guest."""
    if backend == "netns" and why_no_netem() is not None:
        said = run_in_guest([sys.executable, "-m", "experiments.bench.declared", *names])
        answers = [line.partition(MARK)[2] for line in said.splitlines() if MARK in line]
        if not answers:
            raise LinkError(f"the measurement in a user-mode Linux guest came to no end:\n{said[-2000:]}")
        where, found = "netns, in a guest", json.loads(answers[-1])
    else:
        where, found = backend, measure_here(backend, names)
    records = []
    if found["adds_ms"] is not None:
        records.append(
            record(f"link {where}: what the lab adds to a round trip", found["adds_ms"], "ms", f"<= {ADDS_MS:g}")
        )
    for name, report in found["reports"].items():
        records += _records(f"link {where}: {name}", LinkSpec.model_validate(LINKS[name]), report)
    return records


def measure_here(backend: str, names: Sequence[str]) -> dict[str, Any]:
    """`{adds_ms, reports: by link}` of a backend that works in this kernel."""
    reports = {}
    with exit_on_sigterm(), _lab(backend) as lab:
        bare = check_link(lab) if backend != "physical" else None  # there the guest only forwards as long as it shapes
        for name in names:
            spec = LinkSpec.model_validate(LINKS[name])
            lab.change(spec)
            reports[name] = check_link(lab, _strict(spec), loss_phase_s=LOSS_PHASE_S)
            print(".", end="", file=sys.stderr, flush=True)
    return {
        "adds_ms": bare.observed["rtt_ms"]["median"] if bare else None,
        "reports": {name: asdict(report) for name, report in reports.items()},
    }


def _strict(spec: LinkSpec) -> LinkSpec:
    """What is off by these figures is measured once more, as it is before a run."""
    tolerance = {"rtt_ms": max(RTT_MS, RTT_PCT / 100 * spec.base_rtt_ms), "rate_pct": RATE_PCT}
    return LinkSpec.model_validate({**spec.model_dump(), "tolerance": tolerance})


def _lab(backend: str) -> AbstractContextManager[Lab]:
    if backend == "physical":
        return opened(PhysicalLab("bench-physical", "uml", LinkSpec(backend="uml")))
    return open_lab(LinkSpec(backend=backend))  # type: ignore[arg-type]


class PhysicalLab(Lab):
    """A lab whose router is shaped as a machine with a real interface is: by `dssd netem up --iface` on its port to the
    device, egress on the interface and ingress through an ifb, filtered to the device's address."""

    router_class = GuestRouter

    def change(self, spec: LinkSpec) -> None:
        assert isinstance(self._router, GuestRouter)
        port, peer = plan.PORTS["down"], self._names.address("device")
        said = self._router.python(SHAPE.format(port=port, peer=peer, link=spec.model_dump_json(exclude={"backend"})))
        applied = json.loads(said.partition(MARK)[2])
        self.spec, self.applied = spec, {"up": applied["ingress"], "down": applied["egress"]}


SHAPE = """
import json
from netem.physical import Shaping, restore, shape, shaped_interfaces
from netem.spec import LinkSpec
for name in shaped_interfaces():
    restore(name)
link = LinkSpec.model_validate_json({link!r})
print({MARK!r} + json.dumps(shape(Shaping({port!r}, {peer!r}, link, role="edge"), dead_man_s=600)["applied"]))
""".replace("{MARK!r}", repr(MARK))


def _records(name: str, spec: LinkSpec, report: dict[str, Any]) -> list[dict[str, Any]]:
    observed, again = report["observed"], report["repeated"]
    expected_ms = sum(expected_delay_ms(spec.direction(which)) for which in DIRECTIONS)
    median_ms = observed["rtt_ms"]["median"]
    allowed_ms = max(RTT_MS, RTT_PCT / 100 * expected_ms)
    note = f"{median_ms:.2f} ms where {expected_ms:.2f} are declared{_again('rtt', again)}"
    records = [record(f"{name}: round trip, off by", abs(median_ms - expected_ms), "ms", f"<= {allowed_ms:g}", note)]
    for which in DIRECTIONS:
        side, seen = spec.direction(which), observed.get(which, {})
        if side.rate_mbps:
            records.append(_rate(f"{name}: rate {which}, off by", side.rate_mbps, seen, report))
        if "loss_pct" in seen:
            records.append(_loss(f"{name}: loss {which}, off by", side, seen, _again("loss", again)))
        if side.gilbert and seen.get("mean_burst"):
            burst, want = seen["mean_burst"], side.gilbert.mean_burst
            note = f"{burst:.2f} packets where {want:g} are declared"
            off_pct = 100 * abs(burst / want - 1)
            records.append(record(f"{name}: mean burst {which}, off by", off_pct, "%", f"<= {BURST_PCT:g}", note))
    return records


def _rate(name: str, declared_mbps: float, seen: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    rate_mbps = seen.get("rate_mbps")
    if rate_mbps is None:
        which = name.split("rate ")[1].split(",")[0]
        why = next((line for line in report["skipped"] if line.startswith(f"rate {which}")), "no reason given")
        return record(name.replace("off by", "not measured"), declared_mbps, "Mbit/s", "", why)
    off_pct = 100 * abs(rate_mbps / declared_mbps - 1)
    note = f"{rate_mbps:.4g} Mbit/s where {declared_mbps:g} are declared, frames counted"
    return record(name, off_pct, "%", f"<= {RATE_PCT:g}", note + _again("rate", report["repeated"]))


def _loss(name: str, side: DirectionSpec, seen: dict[str, Any], again: str) -> dict[str, Any]:
    """The 99 % interval around what was observed has to hold what was declared."""
    low_pct, high_pct = seen["loss_interval_pct"]
    declared_pct, seen_pct = side.mean_loss_pct, seen["loss_pct"]
    reach_pct = high_pct - seen_pct if seen_pct < declared_pct else seen_pct - low_pct
    note = f"{seen_pct:.3g} % of {seen['probes']} probes where {declared_pct:g} % are declared; 99 % interval{again}"
    return record(name, abs(seen_pct - declared_pct), "%", f"<= {reach_pct:.4f}", note)


def _again(what: str, repeated: list[str]) -> str:
    return "; the second measurement, the first was off" if what in repeated else ""


if __name__ == "__main__":
    print(MARK + json.dumps(measure_here("netns", sys.argv[1:])), flush=True)
