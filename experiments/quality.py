"""What a system that is not exact costs in quality: how well the target likes its output, beside exact systems'.

After the run the edge's target reads every recorded answer once, teacher forced, and says how probable each token was
to it: the mean log-likelihood per output token, under the target's own distribution (temperature 1, nothing cut),
whatever the run sampled with. Under sampling an exact system's mean is what the target's own output gets, so a gap is
quality lost; or style: a draft sharper than its target can score above it, which is no merit. Where sampling is greedy
the share of tokens that the target would have chosen there is kept as well. Intervals are statistics.py's, paired.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec.structs import replace

from experiments.statistics import difference_interval, ratio_interval, sums_by, units
from experiments.store import RunFolder, StoreError
from nodes.engine import Engine
from nodes.records import RequestRecord
from nodes.runspec import RunSpec
from nodes.sampling import Sampling
from nodes.session import Session

LEAST = 1e-30  # a token of less than this probability counts as this improbable
OWN = Sampling(temperature=1.0, top_k=0, top_p=1.0)
NOTHING: dict[str, Any] = {
    "target_logprob_per_token": None,
    "target_logprob_ci95": None,
    "target_logprob_gap": None,  # to the exact systems of the run
    "target_logprob_gap_ci95": None,
    "greedy_agreement": None,
}


@dataclass
class Scored:
    system: str
    key: tuple[str, int]  # prompt and repeat: what systems are paired by
    logprob: float  # of the whole answer
    tokens: int
    agreed: int | None  # tokens the target would have chosen; None where sampling is not greedy


def measure_quality(folder: RunFolder, seconds: float = 60.0) -> dict[str, Any]:
    """Score the run's answers for at most so many seconds and keep the figures as quality.json. Raises EngineError
    where the target cannot be loaded here, StoreError where nothing was scored."""
    from nodes.engine.make import make_unpaced

    spec = folder.spec()
    requests = [r for r in folder.requests().records if r.output_tokens and not r.warmup and not r.error]
    if not requests:
        raise StoreError(f"{folder.path} has no answers to score")
    engine = make_unpaced(spec.edge.engine, "target")
    scored = score(engine, spec, requests, seconds)
    if not scored:
        raise StoreError(f"{folder.path}: none of {len(requests)} answers was scored in {seconds:g} s: give it more")
    quality = {
        "target": engine.name,
        "scored": len(scored),
        "requests": len(requests),
        "systems": compare(scored, exact_systems(folder)),
    }
    folder.write_quality(quality)
    return quality


def exact_systems(folder: RunFolder) -> dict[str, bool]:
    """By name: exact, and nothing went out unseen in this run."""
    unseen = {record.system for record in folder.rounds().records if record.n_unverified}
    return {system.name: system.exact and system.name not in unseen for system in folder.spec().systems}


def score(engine: Engine, spec: RunSpec, requests: Sequence[RequestRecord], seconds: float) -> list[Scored]:
    """In the order they were made, so that what time leaves out is left out of all systems alike."""
    texts = {prompt.id: prompt.text for prompt in spec.prompts}
    until, scored = time.monotonic() + seconds, []
    for request in requests:
        if time.monotonic() > until:
            break
        prompt = engine.tokenizer.encode(texts[request.prompt_id])
        probs = _probs(engine, OWN, prompt, request.tokens)
        agreed = None
        if spec.sampling.temperature == 0:
            agreed = int((_probs(engine, spec.sampling, prompt, request.tokens) > 0.5).sum())
        logprob = float(np.log(np.maximum(probs, LEAST), dtype=np.float64).sum())
        key = request.prompt_id, request.repeat
        scored.append(Scored(request.system, key, logprob, len(request.tokens), agreed))
    return scored


def compare(scored: Sequence[Scored], exact: Mapping[str, bool]) -> dict[str, dict[str, Any]]:
    """By system. The gap is to all the run's exact systems together, on the same prompts; None without any."""
    reference = [one for one in scored if exact[one.system]]
    figures = {}
    for name in exact:
        mine = [one for one in scored if one.system == name]
        if not mine:
            continue
        record = dict(NOTHING)
        ours = _sums(mine, [one.key for one in mine])
        record["target_logprob_per_token"] = _mean(ours)
        record["target_logprob_ci95"] = ratio_interval(*ours.T)
        both = sorted({one.key for one in mine} & {one.key for one in reference})
        if not exact[name] and both:
            ours, theirs = _sums(mine, both), _sums(reference, both)
            record["target_logprob_gap"] = _mean(ours) - _mean(theirs)
            record["target_logprob_gap_ci95"] = difference_interval(*ours.T, *theirs.T)
        agreed = [one.agreed for one in mine if one.agreed is not None]
        if agreed:
            record["greedy_agreement"] = sum(agreed) / sum(one.tokens for one in mine)
        figures[name] = record
    return figures


def with_quality(figures: Mapping[str, Any], quality: Mapping[str, Any]) -> dict[str, Any]:
    """A system's summary with its figures from quality.json, where there is one."""
    return {**figures, **NOTHING, **quality.get("systems", {}).get(figures["system"], {})}


def asked(quality: Mapping[str, Any]) -> dict[str, Any]:
    """Of quality.json, how many of the run's answers its figures are from; empty where the target was not asked."""
    return {key: quality[key] for key in ("target", "scored", "requests") if key in quality}


def quality_lines(summary: Mapping[str, Any]) -> list[str]:
    """For below the table, of the systems that are not exact."""
    lines = []
    for figures in summary["systems"]:
        if figures["exact"] or figures.get("target_logprob_per_token") is None:
            continue
        parts = []
        if figures["unverified_share"]:
            parts.append(f"{100 * figures['unverified_share']:.0f} % of its tokens the target never saw")
        if figures["greedy_agreement"] is not None:
            parts.append(f"{100 * figures['greedy_agreement']:.1f} % are what the target would have chosen")
        text = f"log-likelihood {figures['target_logprob_per_token']:.3f} a token under the target"
        if figures["target_logprob_gap"] is not None:
            interval = figures["target_logprob_gap_ci95"]
            spread = f" ({interval[0]:+.3f} to {interval[1]:+.3f})" if interval else ""
            text += f", {figures['target_logprob_gap']:+.3f}{spread} beside the exact systems"
        lines.append(f"quality of {figures['system']}: {', '.join([*parts, text])}")
    whole = summary.get("quality") or {}
    if lines and whole.get("scored", 0) < whole.get("requests", 0):
        lines.append(
            f"quality: the target was asked about {whole['scored']} of {whole['requests']} answers, the first made; "
            "`dssd quality RUN` asks about all"
        )
    return lines


def _probs(engine: Engine, sampling: Sampling, prompt: list[int], output: list[int]) -> np.ndarray:
    """[len(output)] the target's probability of each token of the answer, given what stands before it."""
    session = Session(replace(sampling), [*prompt, *output])
    try:
        return np.asarray(engine.forward([session], [len(output) + 1])[0].at(output))
    finally:
        engine.release(session)


def _sums(scored: Sequence[Scored], keys: Sequence[tuple[str, int]]) -> np.ndarray:
    """[units, 2] log-likelihood and tokens of these prompts and repeats; the same units for the same keys."""
    _, drawn = units([prompt for prompt, _ in keys], keys)
    unit = dict(zip(keys, drawn))
    mine = [one for one in scored if one.key in unit]
    its = [unit[one.key] for one in mine]
    logprob, tokens = sums_by(its, [one.logprob for one in mine]), sums_by(its, [one.tokens for one in mine])
    return np.array([(logprob[each], tokens[each]) for each in dict.fromkeys(drawn)])


def _mean(sums: np.ndarray) -> float:
    logprob, tokens = sums.sum(axis=0)
    return float(logprob / tokens)
