"""What papers report for settings that can be run here, beside their formula and a run at that setting.

    for found in beside_reported(row, run): ...

A row of a collection is at a published setting where its system is made from the published one, its compute profile,
its draft length and its link (both ways alike) are the table's. How it sampled is said, not asked for: papers give one
setting. The numbers are in reported.yaml, each with its table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import yaml

from experiments.predict.formulas import dsd_round_ms, dssd_round_ms, expected_tokens, rejection_share, transfer_ms
from nodes.engine.profiles import load_pace, profile_names
from nodes.policies.stop import make_stop

if TYPE_CHECKING:
    from experiments.collection import Row, Run


@dataclass(frozen=True, order=True)
class Setting:
    """Where a published number stands: system, compute profile, link and draft length."""

    system: str
    pace: str
    rtt_ms: float
    rate_mbps: float
    draft_length: int

    def of_same(self, other: Setting) -> bool:
        """The same system with the same models."""
        return (self.system, self.pace) == (other.system, other.pace)


@dataclass(frozen=True)
class Reported:
    paper: str
    table: str
    setting: Setting
    comm_s: float | None  # for `tokens` tokens
    speedup: float | None  # over the target alone without a network
    acceptance: float | None
    tokens: int
    row_bytes: float
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Account:
    """Of one setting, by one reckoning. `comm_s` is for the paper's number of tokens, `speedup` is over the target's
    own time per token, no network in it, as the paper has it."""

    rounds: float | None
    comm_s: float | None
    speedup: float | None


@dataclass(frozen=True)
class Beside:
    """`reported` is None where the paper's table leaves the cell of its own grid empty. `billed` is what the paper
    says; `formula` its equations with its own acceptance and times; `own_parts` with what this run measured;
    `never_billed_s` the part of `formula.comm_s` that the paper's own numbers leave out."""

    setting: Setting
    top_k: int
    paper: str
    table: str | None
    billed: Account
    formula: Account
    own_parts: Account
    measured: Account
    acceptance: float | None
    acceptance_measured: float | None
    never_billed_s: float


@lru_cache(maxsize=1)
def load_reported() -> tuple[Reported, ...]:
    """Every published number that reported.yaml has."""
    text = files("experiments.predict").joinpath("reported.yaml").read_text(encoding="utf-8")
    return tuple(one for paper in yaml.safe_load(text) for one in _of_paper(paper))


def _of_paper(paper: Mapping[str, Any]) -> list[Reported]:
    found = []
    for table in paper["tables"]:
        for row in table["rows"]:
            for column, (comm_s, speedup) in zip(table["columns"], row["reported"], strict=True):
                place = (row["rtt_ms"], row["rate_mbps"], row["draft_length"])
                found.append(
                    Reported(
                        paper["paper"],
                        table["name"],
                        Setting(column["system"], column["pace"], *place),
                        comm_s,
                        speedup,
                        paper["acceptance"].get(column["pace"]),
                        paper["tokens"],
                        paper["vocab_size"] * paper["row_bits"] / 8,
                        tuple(paper["remarks"]),
                    )
                )
    return found


def setting_of(row: Row, run: Run) -> Setting | None:
    """Where a row stands, if it is a published system at a setting papers could report: the same rate both ways, one
    compute profile, a fixed draft length."""
    pace, other = ((run.config.get(node) or {}).get("engine", {}).get("pace") for node in ("device", "edge"))
    link = run.config.get("link") or {}
    ways = [link.get(way) or {} for way in ("up", "down")]
    entries = [entry for entry in run.config.get("systems") or [] if isinstance(entry, dict)]
    length = next((_fixed_length(entry.get("stop")) for entry in entries if entry.get("as") == row.system), None)
    rate_mbps = ways[0].get("rate_mbps")
    if pace != other or not isinstance(pace, str) or not length or not rate_mbps:
        return None
    if rate_mbps != ways[1].get("rate_mbps"):
        return None
    rtt_ms = sum(float(way.get("delay_ms") or 0) for way in ways)
    return Setting(row.kind, pace, rtt_ms, float(rate_mbps), length)


def _fixed_length(stop: str | Mapping[str, Any] | None) -> int | None:
    spec = {"policy": stop} if isinstance(stop, str) else stop or {}
    return make_stop(spec).max_length if spec.get("policy") == "fixed" else None


def beside_reported(row: Row, run: Run) -> list[Beside]:
    """Every published number for the row's setting; without any for this link, one that has none."""
    setting = setting_of(row, run)
    alike = [one for one in load_reported() if setting and one.setting.of_same(setting)]
    if setting is None or not alike:
        return []
    exactly = [one for one in alike if one.setting == setting]
    return [_beside(row, run, setting, one, one) for one in exactly] or [_beside(row, run, setting, alike[0], None)]


def _beside(row: Row, run: Run, setting: Setting, paper: Reported, reported: Reported | None) -> Beside:
    parts, predicted = row.figures.get("measured_parts") or {}, row.figures.get("predicted") or {}
    alone_ms = next(
        (f["measured_parts"]["target_ms"] for f in run.summary["systems"]
         if f["system"] == "edge_ar" and f.get("measured_parts")), None,
    )  # fmt: skip
    formula, never_billed_s = _formula(setting, paper)
    tokens = paper.tokens
    own = Account(None, None, None)
    if predicted.get("round_ms"):
        compute_ms = parts["draft_length"] * (parts["draft_ms"] or 0.0) + (parts["target_ms"] or 0.0)
        rounds = tokens / predicted["tokens_per_round"]
        speedup = alone_ms / predicted["ms_per_token"] if alone_ms else None
        own = Account(rounds, rounds * (predicted["round_ms"] - compute_ms) / 1e3, speedup)
    figures = row.figures
    measured = Account(
        tokens / parts["tokens_per_round"] if parts.get("tokens_per_round") else None,
        tokens * figures["ms_per_token"] * figures["network_share"] / 1e3 if figures["ms_per_token"] else None,
        alone_ms / figures["ms_per_token"] if alone_ms and figures["ms_per_token"] else None,
    )
    billed = Account(None, reported.comm_s, reported.speedup) if reported else Account(None, None, None)
    return Beside(
        setting,
        int((run.config.get("sampling") or {}).get("top_k") or 0),
        paper.paper,
        reported.table if reported else None,
        billed,
        formula,
        own,
        measured,
        paper.acceptance,
        parts.get("acceptance"),
        never_billed_s,
    )


def _formula(setting: Setting, paper: Reported) -> tuple[Account, float]:
    """The paper's equations with its own acceptance, its forward times and its rows; and the seconds of them that its
    tables leave out: DSSD's rows down."""
    times_ms = _forward_ms(setting.pace)
    if paper.acceptance is None or times_ms is None:
        return Account(None, None, None), 0.0
    draft_ms, target_ms = times_ms
    alpha, gamma = paper.acceptance, setting.draft_length
    per_round = expected_tokens(alpha, gamma)
    rounds = paper.tokens / per_round
    link = (setting.rate_mbps, setting.rtt_ms)
    rows_ms = 0.0
    if setting.system == "dsd":
        round_ms = dsd_round_ms(gamma, draft_ms, target_ms, gamma * paper.row_bytes, *link)
    elif setting.system == "dssd":
        round_ms = dssd_round_ms(alpha, gamma, draft_ms, target_ms, paper.row_bytes, *link)
        rows_ms = rejection_share(alpha, gamma) * transfer_ms(paper.row_bytes, setting.rate_mbps)
    else:
        return Account(None, None, None), 0.0
    comm_ms = round_ms - gamma * draft_ms - target_ms
    return Account(rounds, rounds * comm_ms / 1e3, target_ms * per_round / round_ms), rounds * rows_ms / 1e3


@lru_cache(maxsize=32)
def _forward_ms(pace: str) -> tuple[float, float] | None:
    """Draft's and target's, of a compute profile; None where there is no such profile any more."""
    if pace not in profile_names():
        return None
    return load_pace(pace, "draft").forward_ms, load_pace(pace, "target").forward_ms
