"""Trains a decision head of WISV: play the device and the edge, look at every mismatch, label it, fit, write a card.

Liu et al. 2026 (WISV, arXiv 2604.17701) relabel with a view to cost; how, their abstract does not say: this is ours. At
a mismatch the device drafted x where the edge drew y. What keeping x costs is the target's own view: by how many nats x
and the target's greedy continuation after it are less probable to the target than y and the continuation after that
(at temperature 1, nothing cut). What turning it down costs is a round on the link, t = round-trip time + bits / rate.
A mismatch is acceptable on a link if it costs no more than BUDGET_NATS x t / (t + T_HALF_MS): near nothing is forgiven
on a link that costs nothing, at most BUDGET_NATS on the slowest. Every mismatch is labelled for several links.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.quality import LEAST, OWN
from experiments.schema import Config
from experiments.training.network import auc, fit_network
from nodes.engine import Engine, EngineError
from nodes.engine.make import unpaced_pair
from nodes.engine.weights import model_id
from nodes.heads import RATE_MBPS, RTT_MS, Floats, Head, Model, inputs, write_head
from nodes.runspec import Prompt, conversation_id
from nodes.sampling import Coins, Sampling, sample
from nodes.session import Session

BUDGET_NATS, T_HALF_MS = 4.0, 50.0
DRAFT_LENGTH = 4
CONTINUED = 6  # tokens of the target's greedy continuation
LINKS = 6  # drawn for each mismatch, evenly in the logarithms of time and rate
TOGETHER = 16  # prompts in a forward
TESTED = 4  # every so many groups of prompts are kept for the test
FEWEST = 200  # mismatches on either side of the split
COMMON_LINK = (50.0, 10.0)  # ms and Mbit/s, for which the card tells the figures too


@dataclass(frozen=True)
class Mismatch:
    group: str  # prompts of one source stay together, on one side of the split
    draft: Floats  # [hidden] state that x was drawn from
    target: Floats  # [hidden] state after reading x
    loss_nats: float  # of keeping x


def train_head(config: Config, prompts: Sequence[Prompt], source: str, rounds: int, out: Path) -> Head:
    """For the pair and the sampling of `config`. Raises EngineError where there is too little to learn from."""
    device, edge = unpaced_pair(config.device_engine, config.edge_engine)
    sampling = Sampling(**config.sampling.model_dump(), seed=config.seed)
    seen: list[Mismatch] = []
    for start in range(0, len(prompts), TOGETHER):
        seen += mismatches(device, edge, sampling, prompts[start : start + TOGETHER], rounds)
    groups = sorted({mismatch.group for mismatch in seen})
    tested = set(groups[::TESTED])
    fitted_on = [mismatch for mismatch in seen if mismatch.group not in tested]
    test = [mismatch for mismatch in seen if mismatch.group in tested]
    if min(len(fitted_on), len(test)) < FEWEST:
        raise EngineError(
            f"{len(fitted_on)} mismatches to learn from and {len(test)} to test on are too few, {FEWEST} each are "
            "wanted: give more prompts, of at least two categories, or more rounds"
        )
    round_bytes = DRAFT_LENGTH * (4 + 2 * device.hidden_size)
    rng = np.random.default_rng(config.seed)
    weights = fit_network(*labelled(fitted_on, draw_links(len(fitted_on), rng), round_bytes), rng)
    data = {
        "prompts": len(prompts),
        "of": source,
        "sampling": config.sampling.model_dump(),
        "draft_length": DRAFT_LENGTH,
        "mismatches_fitted_on": len(fitted_on),
        "mismatches_tested_on": len(test),
        "sources_tested": len(tested),
        "links_each": LINKS,
        "round_bytes": round_bytes,
    }
    labels = (
        f"ours: keeping the token costs at most {BUDGET_NATS:g} nats x t / (t + {T_HALF_MS:g} ms), t = a round on the "
        f"link; cost by the target, the token and {CONTINUED} of its greedy continuation against its own draw's"
    )
    about = {
        "draft": Model(device.name, model_id(device), device.hidden_size),
        "target": Model(edge.name, model_id(edge), edge.hidden_size),
        "labels": labels,
        "data": data,
        "made": datetime.now(timezone.utc).date(),
    }
    head = write_head(out, weights, held_out={}, **about)
    held_out = test_figures(head, test, rng, round_bytes)
    return write_head(out, weights, held_out=held_out, **about)


# Mismatches -----------------------------------------------------------------------------------------------------------


def mismatches(
    device: Engine, edge: Engine, sampling: Sampling, prompts: Sequence[Prompt], rounds: int
) -> Iterator[Mismatch]:
    """Those of `rounds` rounds after each prompt, played as `wisv` plays them while it accepts no mismatch."""
    texts = [edge.tokenizer.encode(prompt.text) for prompt in prompts]
    coins = [Coins(sampling.seed, conversation_id(prompt.id, 0)) for prompt in prompts]
    drafting, verifying = ([Session(sampling) for _ in prompts] for _ in range(2))
    judging = [Session(OWN) for _ in prompts]
    for number in range(rounds):
        drafts: list[list[int]] = [[] for _ in prompts]
        states: list[list[Floats]] = [[] for _ in prompts]
        for _ in range(DRAFT_LENGTH):
            for session, text, draft in zip(drafting, texts, drafts):
                session.become([*text, *draft])
            for i, dists in enumerate(device.forward(drafting, [1] * len(drafting))):
                at = len(texts[i]) + len(drafts[i])
                drafts[i].append(sample(dists.row(0), coins[i].at_epoch(number)("draft", at)))
                states[i].append(dists.hidden(0))
        for session, text, draft in zip(verifying, texts, drafts):
            session.become([*text, *draft])
            session.rewind(DRAFT_LENGTH + 1)
        targets = edge.forward(verifying, [DRAFT_LENGTH + 1] * len(verifying))
        owns = [
            [sample(target.row(j), coins[i].fixed("final", len(texts[i]) + j)) for j in range(DRAFT_LENGTH + 1)]
            for i, target in enumerate(targets)
        ]
        for j in range(DRAFT_LENGTH):
            apart = [i for i in range(len(prompts)) if drafts[i][j] != owns[i][j]]
            before = [[*texts[i], *drafts[i][:j]] for i in apart]
            sessions = [judging[i] for i in apart]
            kept = path_logprobs(edge, sessions, before, [drafts[i][j] for i in apart])
            drawn = path_logprobs(edge, sessions, before, [owns[i][j] for i in apart])
            for i, loss in zip(apart, drawn - kept):
                group = prompts[i].category or prompts[i].id
                yield Mismatch(group, states[i][j], targets[i].hidden(j + 1), float(loss))
        for i, (draft, own) in enumerate(zip(drafts, owns)):
            n = next((j for j in range(DRAFT_LENGTH) if draft[j] != own[j]), DRAFT_LENGTH)
            texts[i] = [*texts[i], *draft[:n], own[n]]
    for session in drafting:
        device.release(session)
    for session in (*verifying, *judging):
        edge.release(session)


def path_logprobs(
    edge: Engine, sessions: Sequence[Session], before: Sequence[list[int]], tokens: Sequence[int]
) -> NDArray[np.float64]:
    """[N] log-probability, to the target, of each token after its text and of its greedy continuation after that."""
    total = np.zeros(len(sessions))
    if not sessions:
        return total
    for session, text, token in zip(sessions, before, tokens):
        session.become([*text, token])
        session.rewind(2)
    rows = [dists.row(i) for dists in edge.forward(sessions, [2] * len(sessions)) for i in (0, 1)]
    total += np.log([max(row[token], LEAST) for row, token in zip(rows[::2], tokens)])
    last = rows[1::2]
    for step in range(CONTINUED):
        total += np.log([row.max() for row in last])
        if step < CONTINUED - 1:
            for session, row in zip(sessions, last):
                session.become([*session.tokens, int(row.argmax())])
            last = [dists.row(0) for dists in edge.forward(sessions, [1] * len(sessions))]
    return total


# Labels and figures ---------------------------------------------------------------------------------------------------


def draw_links(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """[n, LINKS, 2] round-trip times and rates."""
    low, high = np.log10([RTT_MS, RATE_MBPS]).T
    return 10 ** rng.uniform(low, high, (n, LINKS, 2))


def budget_nats(links: NDArray[np.float64], round_bytes: int) -> NDArray[np.float64]:
    """[...] of links [..., 2]."""
    round_ms = links[..., 0] + round_bytes * 8e-3 / links[..., 1]
    return BUDGET_NATS * round_ms / (round_ms + T_HALF_MS)


def labelled(
    seen: Sequence[Mismatch], links: NDArray[np.float64], round_bytes: int
) -> tuple[Floats, NDArray[np.float64]]:
    """What the head reads of N mismatches on L links each, [N * L, inputs], and whether it should accept, [N * L]."""
    each = links.shape[1]
    draft = np.repeat([mismatch.draft for mismatch in seen], each, axis=0)
    target = np.repeat([mismatch.target for mismatch in seen], each, axis=0)
    loss = np.array([mismatch.loss_nats for mismatch in seen])
    labels = loss[:, None] <= budget_nats(links, round_bytes)
    return inputs(draft, target, links.reshape(-1, 2).astype(np.float32)), labels.ravel().astype(float)


def test_figures(head: Head, test: Sequence[Mismatch], rng: np.random.Generator, round_bytes: int) -> dict[str, float]:
    """On texts of sources that nothing was fitted on; `common` is one link for all, where the link tells nothing."""
    figures = {}
    common = np.broadcast_to(np.array(COMMON_LINK), (len(test), 1, 2))
    for name, links in (("", draw_links(len(test), rng)), ("_common_link", common)):
        rows, labels = labelled(test, links, round_bytes)
        scores = head.probabilities(rows)
        figures[f"auc{name}"] = auc(scores, labels)
        figures[f"accuracy{name}"] = float(((scores > 0.5) == (labels > 0.5)).mean())
        figures[f"acceptable{name}"] = float(labels.mean())
        figures[f"accepted{name}"] = float((scores > 0.5).mean())
    return {name: round(value, 4) for name, value in figures.items()}
