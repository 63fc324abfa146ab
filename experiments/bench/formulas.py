"""What a round of each system weighs, beside its formula: paced engines of a real vocabulary's width on a real link.

    formula   what the method sends, as its paper would count it: FORMULAS below, 4 bytes an id, a count, a probability
    framing   what the same message takes besides: magic, header, msgpack's own bytes; ids are shorter than 4 bytes

The nodes count what they really send; the two are compared way by way, round by round, over all rounds but each
request's first, which carries the prompt. Where a draft adapts its length to the clock it is fixed here, and nothing is
routed away: what is left is the exchange.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from experiments.bench.framing import framing_bytes
from experiments.bench.records import record
from experiments.launch import Outcome, run_nodes
from experiments.schema import Config
from nodes.composition import System, load_system, system_names
from nodes.drafting import Drafter
from nodes.engine import Engine
from nodes.engine.make import make_unpaced
from nodes.methods import Draft, Method
from nodes.policies.stop import make_stop
from nodes.records import RequestRecord, RoundRecord
from nodes.runspec import RunSpec, conversation_id
from nodes.sampling import Coins, Row
from nodes.session import Session

T = TypeVar("T")
WITHIN_PCT = 3.0
LINK = {"rtt_ms": 50, "rate_mbps": 10}
PACE = "qwen3-0.6b-32b"  # of 151,936 tokens

# g = drafted tokens, c = committed tokens that the edge has not seen, r = 1 after a rejection, t = tokens streamed,
# V = vocabulary, U and D = bytes of a row as the up and the down codec write one whose every entry is above zero,
# k = entries that cu_hlm's bound keeps, K = draws, H = hidden state's numbers, m = mismatches asked about
FORMULAS = {  # method: up, down; what is printed is what is computed
    "device_ar": ("0", "0"),
    "edge_ar": ("0", "4 + 4*t"),  # up, the prompt once a request
    "colocated_sd": ("0", "4 + 4 + 4*t"),
    "dsd": ("4*(g + c) + U*g", "4 + 4"),
    "hlm": ("4*(g + c) + U*g", "4 + 4*r"),
    "cu_hlm": ("4*(g + c) + 7*k", "4 + 4*r"),
    "dssd": ("4*(g + c) + 4*g", "4 + 4*(1 - r) + D*r"),
    "dssd_as_printed": ("4*(g + c) + 4*g", "4 + 4*(1 - r) + D*r"),
    "dssd_truncated": ("4*(g + c) + 4*g", "4 + 4*(1 - r) + D*r"),
    "dssd_sampled": ("4*(g + c) + 4*g + 4", "4 + 4*(1 - r) + 8*K*r"),
    "token_match": ("4*(g + c)", "4 + 4"),
    "coupled": ("4*(g + c)", "4 + 4"),
    "wisv": ("4*(g + c) + 2*H*g + 8", "4 + 4"),
    "wisv_mismatch_first": ("4*(g + c) + 8 + 2*H*m", "4 + 4 + (4 + 4)*m"),
}
ROWS = {  # codec: bytes of a row whose every entry is above zero
    "DenseFp32": lambda v, codec: 4 * v,
    "Sparse": lambda v, codec: 1 + 4 * v,  # where all are, it is written as a dense one
    "TopK": lambda v, codec: 1 + 7 * codec.k,
    "Lattice": lambda v, codec: 4 * min(codec.resolution, codec.k or v),
}
FINISHES_ON_DEVICE = ("dssd", "dssd_as_printed", "dssd_truncated", "dssd_sampled")


@dataclass(frozen=True)
class Counted:
    """A round, and what the formulas and framing say of it."""

    record: RoundRecord
    letters: Mapping[str, int]
    framing: Mapping[str, float]  # by way


def measure(
    vocab_size: int, requests: int = 1, max_new_tokens: int = 12, link: Mapping[str, Any] = LINK, pace: Any = PACE
) -> list[dict[str, Any]]:
    """A record a system and way: by how many percent what was sent is off formula and framing."""
    config = Config.model_validate(
        {
            "name": "bench",
            "systems": [_entry(load_system(name)) for name in system_names()],
            "engine": {"engine": "toy", "vocab_size": vocab_size, "acceptance": 0.6},
            "pace": pace,
            "workload": {"prompts": ["t1 t2"], "requests": requests, "max_new_tokens": max_new_tokens},
            "warmup": 0,
            **({"link": dict(link)} if link else {}),
        }
    )
    with tempfile.TemporaryDirectory(prefix="dssd-bench-") as folder:
        run_nodes(config, Path(folder), lambda stage, fields: None, Outcome())
        rounds = _read(Path(folder) / "rounds.jsonl", RoundRecord)
        requests_made = _read(Path(folder) / "requests.jsonl", RequestRecord)
    spec = config.to_runspec()
    draft = make_unpaced(spec.device.engine, "draft")
    records = []
    for system in spec.systems:
        mine = [request for request in requests_made if request.system == system.name]
        records += _compare(
            system, spec, draft, [(r, [x for x in rounds if x.request_id == r.request_id]) for r in mine]
        )
    return records


def _entry(system: System) -> dict[str, Any]:
    fixed = {"policy": "fixed", "length": 1 if system.method == "wisv_mismatch_first" else 2}  # 1: m is 0 or 1
    adapts = make_stop(system.stop).adapts or system.stop == "fixed"
    route = {} if system.method == "device_ar" else {"route": {"policy": "always"}}
    return {"system": system.name, **route, **({"stop": fixed} if adapts else {})}


def _compare(
    system: System, spec: RunSpec, draft: Engine, served: Sequence[tuple[RequestRecord, Sequence[RoundRecord]]]
) -> list[dict[str, Any]]:
    method = system.build(draft.vocab_size)
    counted = [one for request, rounds in served for one in _count(system.method, method, spec, draft, request, rounds)]
    records = []
    for way, formula in zip(("up", "down"), FORMULAS[system.method]):
        sent = sum(getattr(one.record, f"{way}_wire_bytes") for one in counted)
        payload = sum(eval(formula, {}, dict(one.letters)) for one in counted)
        framing = sum(one.framing[way] for one in counted)
        expected, n = payload + framing, max(1, len(counted))
        off_pct = 100 * abs(sent / expected - 1) if expected else 100.0 * bool(sent)
        said = sum(getattr(one.record, f"{way}_ideal_bytes") for one in counted)
        note = f"{sent / n:.1f} B sent a round; {formula} = {payload / n:.1f}, framing {framing / n:.1f}; {n} rounds"
        if abs(said - payload) > 1e-3 * payload:  # two counts of a lattice may fall on one token
            note += f"; the nodes count {said / n:.1f} B of payload"
        records.append(record(f"bytes: {system.name} {way}, off its formula", off_pct, "%", f"<= {WITHIN_PCT:g}", note))
    return records


def _count(
    name: str, method: Method, spec: RunSpec, draft: Engine, request: RequestRecord, rounds: Sequence[RoundRecord]
) -> Iterator[Counted]:
    """Of a request's rounds those that asked the edge, but for the first of all. What was drafted is not recorded, so
    it is drawn again, by the same coins."""
    prompt = next(prompt for prompt in spec.prompts if prompt.id == request.prompt_id)
    tokens = [*draft.tokenizer.encode(prompt.text), *request.tokens]
    coins = Coins(spec.sampling.seed, conversation_id(prompt.id, request.repeat))
    at, unseen, residence_ms = request.prompt_tokens, 0, 0.0
    for now in rounds:
        residence_ms = now.edge_ms + (residence_ms if method.streams else 0.0)
        asked_again = name == "dssd_sampled" and now.legs > 1  # how often is chance: a formula has it once
        if (now.sent_ns or method.streams) and now.round > 1 and not asked_again:
            drafted = Draft(at, [], [], [], [])
            if method.drafts and now.n_drafted:
                drafter = Drafter(draft, method, make_stop({"policy": "fixed", "length": now.n_drafted}))
                prefix = tokens[:at]
                drafted = drafter.draft(Session(spec.sampling), prefix, coins.at_epoch(now.epoch), now.n_drafted)
            letters = _letters(name, method, now, unseen, drafted, draft)
            made = tokens[at : at + now.n_emitted]
            ids = {
                "up": [*tokens[at - unseen : at], *drafted.tokens],
                "down": made if method.streams else made[now.n_accepted :][: letters["tail"]],
            }
            framing = {way: framing_bytes(method, letters, now, way, ids[way], residence_ms) for way in ids}
            yield Counted(now, letters, framing)
        elif not method.edge and now.round > 1:
            yield Counted(now, {}, {"up": 0.0, "down": 0.0})
        rejected = now.n_accepted < now.n_drafted
        unseen = int(name in FINISHES_ON_DEVICE and rejected) if now.sent_ns else unseen + now.n_emitted
        at += now.n_emitted


def _letters(name: str, method: Method, now: RoundRecord, unseen: int, drafted: Draft, draft: Engine) -> dict[str, int]:
    vocab_size, rejected = draft.vocab_size, now.n_accepted < now.n_drafted
    rows = {
        letter: rule(vocab_size, codec)
        for letter, codec in (("U", method.up), ("D", method.down))
        if (rule := ROWS.get(type(codec).__name__))
    }
    return {
        "g": now.n_drafted if method.drafts else 0,
        "c": unseen,
        "r": int(rejected),
        "t": now.n_emitted,
        "V": vocab_size,
        **rows,
        "tail": _tail(name, method, now),
        "k": sum(_entries_kept(row, method) for row in drafted.dists) if name == "cu_hlm" else 0,
        "K": getattr(method, "draws", 0),
        "H": draft.hidden_size,
        "m": now.legs - 1,
    }


def _tail(name: str, method: Method, now: RoundRecord) -> int:
    """Ids that come down in a verdict."""
    rejected = now.n_accepted < now.n_drafted
    if method.streams:
        return now.n_emitted
    return 0 if name in FINISHES_ON_DEVICE and rejected else int(bool(method.adds or rejected))


def _read(path: Path, kind: type[T]) -> list[T]:
    with path.open("rb") as lines:
        return [msgspec.json.decode(line, type=kind) for line in lines]


def _entries_kept(row: Row, method: Any) -> int:
    """k: the fewest entries of the row that was drawn from that leave at most the tolerance to its tail."""
    return int(np.searchsorted(np.cumsum(np.sort(row)[::-1], dtype=np.float64), 1 - method.short.tolerance)) + 1
