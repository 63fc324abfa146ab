"""How sure a run's headline figures are, and how its systems compare on the same prompts and coins."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

from experiments.statistics import compare, outliers, ratio_interval, sums_by, units
from nodes.records import RequestRecord, RoundRecord

Figures = Mapping[str, Any]


def intervals(
    requests: Sequence[RequestRecord],
    rounds: Sequence[RoundRecord],
    verified: Sequence[RoundRecord],
    lengths: Sequence[int],
) -> dict[str, Any]:
    """95 % intervals of a system's headline figures, over its counted requests, their rounds, and those of these in
    which a draft was verified, with their acceptance lengths; `intervals_over` says what was drawn."""
    drawn, keys = units([r.prompt_id for r in requests], [r.request_id for r in requests])
    unit = {request.request_id: key for request, key in zip(requests, keys)}
    tokens = _column(keys, [r.output_tokens for r in requests])
    seconds = _column(keys, [r.e2e_ms / 1e3 for r in requests])
    answered = [r for r in requests if r.output_tokens]
    answered_keys = [unit[r.request_id] for r in answered]
    round_keys = [unit[r.request_id] for r in verified]
    rate = ratio_interval(tokens, seconds)
    several = [r for r in requests if r.tpot_ms is not None]
    several_keys = [unit[r.request_id] for r in several]
    bytes_keys = [*keys, *(unit[r.request_id] for r in rounds)]  # a request without a round sent nothing
    none = [0] * len(requests)
    return {
        "intervals_over": drawn,
        "tokens_per_s_ci95": rate,
        "ms_per_token_ci95": [1e3 / rate[1], 1e3 / rate[0]] if rate and rate[0] > 0 else None,
        "ttft_ms_ci95": ratio_interval(
            _column(answered_keys, [r.ttft_ms for r in answered]), _column(answered_keys, [1] * len(answered))
        ),
        "tpot_ms_ci95": ratio_interval(
            _column(several_keys, [r.tpot_ms or 0.0 for r in several]), _column(several_keys, [1] * len(several))
        ),
        **{
            f"bytes_{way}_per_token_ci95": ratio_interval(
                _column(bytes_keys, [*none, *(getattr(r, f"{way}_wire_bytes") for r in rounds)]), tokens
            )
            for way in ("up", "down")
        },
        "mean_acceptance_length_ci95": ratio_interval(
            _column(round_keys, lengths), _column(round_keys, [1] * len(verified))
        ),
    }


def apart(requests: Sequence[RequestRecord]) -> list[str]:
    """The requests that stand apart from the system's others; they count like these."""
    answered = [request for request in requests if request.output_tokens]
    marked = outliers([request.e2e_ms / request.output_tokens for request in answered])
    return [request.request_id for request, far in zip(answered, marked) if far]


def comparisons(requests: Sequence[RequestRecord], systems: Sequence[str]) -> list[dict[str, Any]]:
    """Every two systems on the prompts and coins that both answered: `ratio` is the first's time per token over the
    other's."""
    sums: dict[str, dict[tuple[str, int], tuple[float, float]]] = {system: {} for system in systems}
    for request in requests:
        if request.output_tokens and request.e2e_ms > 0 and request.system in sums:
            sums[request.system][request.prompt_id, request.repeat] = (request.e2e_ms, request.output_tokens)
    found = []
    for one, other in combinations(sums, 2):
        both = [key for key in sums[one] if key in sums[other]]
        if both:
            drawn, keys = units([prompt for prompt, _ in both], both)
            ours = [_column(keys, [sums[one][key][i] for key in both]) for i in (0, 1)]
            theirs = [_column(keys, [sums[other][key][i] for key in both]) for i in (0, 1)]
            result = asdict(compare(ours[0], ours[1], theirs[0], theirs[1]))
            found.append({"system": one, "other": other, **result, "requests": len(both), "units": drawn})
    return found


def paired(found: Sequence[Mapping[str, Any]], system: str, other: str) -> dict[str, Any] | None:
    """The comparison of these two, whichever was written first: `ratio` is `system`'s time per token over `other`'s."""
    for pair in found:
        if (pair["system"], pair["other"]) == (system, other):
            return dict(pair)
        if (pair["system"], pair["other"]) == (other, system):
            return {
                **pair,
                "system": system,
                "other": other,
                "ratio": 1 / pair["ratio"],
                "ci95": _inverse(pair["ci95"]),
            }
    return None


def beside(figures: Figures, base: Figures | None, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A system beside the edge alone: how many times its tokens per second on the requests that both answered, with
    interval, p-value and their number; without any such request the ratio of the two rates, and no interval."""
    keys = ("speedup_over_edge_ar", "speedup_over_edge_ar_ci95", "speedup_p_value", "speedup_requests")
    if not base or not figures["tokens_per_s"]:
        return dict.fromkeys(keys)
    pair = paired(found, figures["system"], base["system"])
    if pair is None:
        requests = base["requests"] if figures["system"] == base["system"] else 0
        return dict(zip(keys, (figures["tokens_per_s"] / base["tokens_per_s"], None, None, requests)))
    return dict(zip(keys, (1 / pair["ratio"], _inverse(pair["ci95"]), pair["p_value"], pair["requests"])))


def _column(keys: Sequence[Hashable], values: Sequence[float]) -> list[float]:
    return list(sums_by(keys, values).values())


def _inverse(interval: Sequence[float] | None) -> list[float] | None:
    return [1 / interval[1], 1 / interval[0]] if interval and interval[0] > 0 else None
