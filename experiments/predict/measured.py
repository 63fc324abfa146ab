"""The parts of a run that the formulas need, and what these make of them.

Taken from the rounds after each request's first (that one carries the prompt), sent once. Bytes are the papers' own
count, without ids' framing (`*_ideal_bytes`); the link is the declared one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from experiments.bench.predict import Wire
from experiments.predict.formulas import (
    critical_rtt_ms,
    dsd_round_ms,
    dssd_round_ms,
    expected_tokens,
    sd_walltime_factor,
    transfer_ms,
)
from experiments.statistics import ratio_interval, sums_by
from nodes.composition import System
from nodes.methods import method_class
from nodes.records import RoundRecord

FORMULAS = {
    "edge_ar": "T_LLM",
    "colocated_sd": "γ·T_SLM + T_LLM",
    "dsd": "γ·T_SLM + T_LLM + D_up/R_up + NTT",
    "dssd": "γ·T_SLM + T_LLM + (1−α^γ)·D_row/R_down + NTT",
}
OTHERS = "γ·T_SLM + T_LLM + D_up/R_up + D_down/R_down + trips·NTT"
UNLIMITED_MBPS = 1e5


@dataclass(frozen=True)
class Link:
    """As declared. `rtt_ms` is the formulas' NTT."""

    rtt_ms: float
    up_mbps: float | None
    down_mbps: float | None


@dataclass(frozen=True)
class Parts:
    """Means over a system's steady rounds."""

    rounds: int
    draft_length: float  # gamma
    acceptance: float | None  # alpha, of the tokens that were tested
    draft_ms: float | None  # T_SLM: a drafted token
    target_ms: float | None  # T_LLM: the target's forwards of a round
    up_bytes: float  # a round
    down_bytes: float
    row_bytes: float  # down, of the rounds with a rejection
    tokens_per_round: float
    round_trips: float  # a round: 1, and one for every follow-up
    round_ms: float
    ms_per_token_ci95: list[float] | None  # drawn over requests
    tcp_ms: float  # both ways with headers and, every time, a window that starts small


def declared_link(link: Mapping[str, Any]) -> Link:
    """Of a run's link.json; all zero and unlimited where nothing was shaped."""
    ways = [((link.get("declared") or {}).get(way) or {}) for way in ("up", "down")]
    rtt_ms = sum(float(way.get("delay_ms") or 0.0) for way in ways)
    return Link(rtt_ms, *(way.get("rate_mbps") for way in ways))


def _changes(link: Mapping[str, Any]) -> bool:
    """Whether the link had a trace to follow, or was cut."""
    declared = link.get("declared") or {}
    return bool(declared.get("outages") or any((declared.get(way) or {}).get("trace") for way in ("up", "down")))


def predict(
    systems: Sequence[System],
    records: Sequence[dict[str, Any]],
    by_request: Mapping[str, Sequence[RoundRecord]],
    link: Mapping[str, Any],
) -> None:
    """Write `measured_parts` and `predicted` into each of `records` (the systems' figures, in their order)."""
    declared = declared_link(link)
    rounds: dict[str, list[RoundRecord]] = {system.name: [] for system in systems}
    for mine in by_request.values():
        for record in mine[1:]:
            if record.attempt == 0 and record.system in rounds:
                rounds[record.system].append(record)
    parts = {system.name: measure(rounds[system.name], declared) for system in systems}
    alone = _first(systems, parts, "edge_ar")
    drafter = next((p for s in systems if (p := parts[s.name]) and p.draft_ms and method_class(s.method).edge), None)
    found = {system.name: _predicted(system, parts[system.name], alone, drafter, declared) for system in systems}
    if _changes(link):
        found = {name: {"why_not": "the link changed during the run, and the formulas know but one"} for name in found}
    rivals: dict[str, float] = {}  # by method: those that pay no round trip a round
    for system in systems:
        if system.method in ("edge_ar", "colocated_sd") and "ms_per_token" in found[system.name]:
            rivals.setdefault(system.method, found[system.name]["ms_per_token"])
    for system, figures in zip(systems, records):
        steady = parts[system.name]
        figures["measured_parts"] = None if steady is None else asdict(steady)
        figures["predicted"] = _beside_rivals(system, found[system.name], rivals, declared)


def measure(rounds: Sequence[RoundRecord], link: Link) -> Parts | None:
    """None without a single steady round."""
    if not rounds:
        return None
    n = len(rounds)
    drafted = sum(record.n_drafted for record in rounds)
    verified = [record for record in rounds if record.n_drafted and record.received_ns]
    tested = sum(min(record.n_accepted + 1, record.n_drafted) for record in verified)
    rejected = [record for record in verified if record.n_accepted < record.n_drafted]
    draft_ms = sum(record.draft_ms for record in rounds)
    at_device = drafted and draft_ms / drafted > 0 and any(record.sent_ns for record in rounds)
    return Parts(
        rounds=n,
        draft_length=drafted / n,
        acceptance=sum(record.n_accepted for record in verified) / tested if tested else None,
        draft_ms=draft_ms / drafted if at_device else None,
        target_ms=sum(record.verify_ms for record in rounds) / n or None,
        up_bytes=sum(record.up_ideal_bytes for record in rounds) / n,
        down_bytes=sum(record.down_ideal_bytes for record in rounds) / n,
        row_bytes=sum(record.down_ideal_bytes for record in rejected) / len(rejected) if rejected else 0.0,
        tokens_per_round=sum(record.n_emitted for record in rounds) / n,
        round_trips=sum(record.legs for record in rounds) / n,
        round_ms=sum(record.end_ns - record.start_ns for record in rounds) / n / 1e6,
        ms_per_token_ci95=_interval(rounds),
        tcp_ms=sum(
            _tcp_ms(record.up_wire_bytes, link.rtt_ms, link.up_mbps)
            + _tcp_ms(record.down_wire_bytes, link.rtt_ms, link.down_mbps)
            for record in rounds
        )
        / n,
    )


def _interval(rounds: Sequence[RoundRecord]) -> list[float] | None:
    """Of the steady rounds' time per token."""
    keys = [record.request_id for record in rounds]
    times = sums_by(keys, [(record.end_ns - record.start_ns) / 1e6 for record in rounds])
    tokens = sums_by(keys, [record.n_emitted for record in rounds])
    return ratio_interval(list(times.values()), list(tokens.values()))


@lru_cache(maxsize=4096)
def _tcp_ms(message_bytes: int, rtt_ms: float, rate_mbps: float | None) -> float:
    wire = Wire(rtt_ms, rate_mbps or UNLIMITED_MBPS)
    return wire.transfer_ms(message_bytes) + wire.slow_start_ms(message_bytes)[1]


def _first(systems: Sequence[System], parts: Mapping[str, Parts | None], method: str) -> Parts | None:
    return next((found for s in systems if s.method == method and (found := parts[s.name])), None)


def _predicted(
    system: System, parts: Parts | None, alone: Parts | None, drafter: Parts | None, link: Link
) -> dict[str, Any]:
    """One system's round and time per token by its formula, or `why_not`."""
    if parts is None:
        return {"why_not": "no request had a second round"}
    if system.method == "edge_ar":
        if not parts.target_ms:
            return {"why_not": "no forward of the target was timed"}
        return _held_against(parts, "edge_ar", parts.target_ms, 1.0, parts.target_ms)
    if (reason := _why_not(system, parts)) is not None:
        return {"why_not": reason}
    alpha, gamma = parts.acceptance or 0.0, parts.draft_length
    tokens = expected_tokens(alpha, gamma)
    if not method_class(system.method).adds:
        tokens -= alpha**gamma  # a draft that stands whole is followed by no token
    if system.method == "colocated_sd":
        if not (alone and alone.target_ms and drafter and drafter.draft_ms):
            return {"why_not": "its models' own times come from edge_ar and from a system that drafts on the device"}
        compute_ms = gamma * drafter.draft_ms + alone.target_ms
        found = _held_against(parts, "colocated_sd", compute_ms, tokens, compute_ms)
        found["sd_walltime_factor"] = sd_walltime_factor(alpha, gamma, drafter.draft_ms / alone.target_ms)
        return found
    draft_ms, target_ms = parts.draft_ms or 0.0, parts.target_ms or 0.0
    compute_ms = gamma * draft_ms + target_ms
    if system.method == "dsd":
        round_ms = dsd_round_ms(gamma, draft_ms, target_ms, parts.up_bytes, link.up_mbps, link.rtt_ms)
    elif system.method == "dssd":
        round_ms = dssd_round_ms(alpha, gamma, draft_ms, target_ms, parts.row_bytes, link.down_mbps, link.rtt_ms)
    else:
        both_ms = transfer_ms(parts.up_bytes, link.up_mbps) + transfer_ms(parts.down_bytes, link.down_mbps)
        round_ms = compute_ms + both_ms + parts.round_trips * link.rtt_ms
    with_tcp_ms = compute_ms + parts.round_trips * link.rtt_ms + parts.tcp_ms
    return _held_against(parts, system.method, round_ms, tokens, with_tcp_ms)


def _why_not(system: System, parts: Parts) -> str | None:
    if not method_class(system.method).edge:
        return "nothing crosses the link"
    if system.schedule == "lookahead":
        return "the formulas know of no drafting ahead"
    if parts.acceptance is None:
        return "no draft was verified"
    if system.method != "colocated_sd" and not parts.draft_ms:
        return "no drafting was timed"
    skips = system.upload not in ("always", {"policy": "always"})
    return "the formulas know of no skipped round" if skips else None


def _held_against(parts: Parts, method: str, round_ms: float, tokens: float, tcp_round_ms: float) -> dict[str, Any]:
    measured = parts.round_ms / parts.tokens_per_round if parts.tokens_per_round else None
    predicted = round_ms / tokens
    return {
        "formula": FORMULAS.get(method, OTHERS),
        "round_ms": round_ms,
        "round_ms_measured": parts.round_ms,
        "round_residual_pct": _residual_pct(parts.round_ms, round_ms),
        "round_ms_with_tcp": tcp_round_ms,
        "tokens_per_round": tokens,
        "tokens_per_round_measured": parts.tokens_per_round,
        "round_trips": parts.round_trips,
        "ms_per_token": predicted,
        "ms_per_token_measured": measured,
        "ms_per_token_measured_ci95": parts.ms_per_token_ci95,
        "residual_pct": _residual_pct(measured, predicted),
    }


def _residual_pct(measured: float | None, predicted: float) -> float | None:
    return 100 * (measured / predicted - 1) if measured and predicted else None


def _beside_rivals(
    system: System, predicted: dict[str, Any], rivals: Mapping[str, float], link: Link
) -> dict[str, Any]:
    """What the formulas say of the system beside its rivals."""
    if "why_not" in predicted:
        return predicted
    at_edge = system.method in ("edge_ar", "colocated_sd")
    trips = predicted["round_trips"] or 1.0
    without_rtt_ms = predicted["round_ms"] - trips * link.rtt_ms
    alone = rivals.get("edge_ar")
    return {
        **predicted,
        "speedup_over_edge_ar": alone / predicted["ms_per_token"] if alone else None,
        "critical_rtt_ms": {
            name: critical_rtt_ms(predicted["tokens_per_round"], ms_per_token, without_rtt_ms) / trips
            for name, ms_per_token in rivals.items()
        }
        if not at_edge
        else {},
    }
