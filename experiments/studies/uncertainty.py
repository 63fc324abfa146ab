"""Does a draft's uncertainty foretell its rejection? U-HLM skips the edge on the strength of such a line.

Oh et al. 2024 (arXiv 2412.12687). Their letters: u = share of temperature-perturbed samples that differ from the
drafted token, x, y = draft and target row, d = drafted token, beta = 1 - min(1, y_d / x_d), the probability that d is
rejected; they report beta = a u + b with a about 0.82 and b about -0.06. Here u is the upload policy's own
(`nodes.policies.upload`), beta is taken from the target's row and not from a coin, and the text goes on as HLM's does:
the drafted token where it stands, else a draw from the residual, so every prefix is the target's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.engine import Engine
from nodes.policies.upload import uncertainty
from nodes.runspec import Prompt, conversation_id
from nodes.sampling import Coins, Row, Sampling, residual, sample
from nodes.session import Session

SAMPLES = 20  # their K
PAPER = {"slope": 0.82, "intercept": -0.06}
PAPER_ONE_LINE = "Oh et al. 2024: TinyLlama-1.1B drafting for Llama-2-7B"
RESAMPLES, SEED = 2000, 20_241_217
FEWEST = 5  # answers, for an interval


@dataclass(frozen=True)
class Point:
    answer: int  # tokens of one answer resemble each other: they are resampled together
    uncertainty: float
    rejection: float


def follow(
    draft: Engine, target: Engine, sampling: Sampling, prompts: Sequence[Prompt], repeats: int, new_tokens: int
) -> list[Point]:
    """A point for every token that is drafted on the way."""
    points = []
    for number, (prompt, repeat) in enumerate((prompt, r) for r in range(repeats) for prompt in prompts):
        tokens = target.tokenizer.encode(prompt.text)
        start = len(tokens)
        coins = Coins(sampling.seed, conversation_id(prompt.id, repeat))
        sessions = Session(sampling, tokens), Session(sampling, tokens)
        while len(tokens) < start + new_tokens:
            position = len(tokens)
            draft_row, target_row = (_row_after(e, s, tokens) for e, s in zip((draft, target), sessions))
            drafted = sample(draft_row, coins("draft", position))
            u = uncertainty(draft_row, drafted, coins, position, SAMPLES)
            beta = rejection(draft_row, target_row, drafted)
            points.append(Point(number, u, beta))
            stands = coins("accept", position) >= beta
            token = drafted if stands else sample(residual(target_row, draft_row), coins("final", position))
            tokens = [*tokens, token]
            if token in target.eos_tokens:
                break
        for engine, session in zip((draft, target), sessions):
            engine.release(session)
    return points


def rejection(draft_row: Row, target_row: Row, token: int) -> float:
    """beta."""
    return 1 - min(1.0, float(target_row[token]) / float(draft_row[token]))


def fit_line(points: Sequence[Point]) -> dict[str, Any]:
    """Least squares of beta on u over all tokens, with intervals over answers; and the same over the means of each u
    there is, which hides how far single tokens are off."""
    u = np.array([point.uncertainty for point in points])
    beta = np.array([point.rejection for point in points])
    answers = np.unique([point.answer for point in points], return_inverse=True)[1]
    sums = np.zeros((answers.max() + 1, 5))
    np.add.at(sums, answers, np.column_stack([np.ones_like(u), u, beta, u * u, u * beta]))
    slope, intercept = (float(part[0]) for part in _line(sums.sum(0)[None]))
    draws = (
        np.random.default_rng(SEED).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), RESAMPLES).astype(float)
    )
    enough = len(sums) >= FEWEST
    intervals = [np.percentile(part, [2.5, 97.5]).tolist() if enough else None for part in _line(draws @ sums)]
    levels = [
        {"uncertainty": float(level), "rejection": float(beta[u == level].mean()), "tokens": int((u == level).sum())}
        for level in np.unique(u)
    ]
    means = np.array([[level["uncertainty"], level["rejection"], level["tokens"]] for level in levels])
    return {
        "slope": slope,
        "slope_ci95": intervals[0],
        "intercept": intercept,
        "intercept_ci95": intervals[1],
        "r2": _r2(u, beta, slope, intercept),
        "r2_of_means": _r2(means[:, 0], means[:, 1], slope, intercept, means[:, 2]),
        "mean_rejection": float(beta.mean()),
        "tokens": len(points),
        "answers": len(sums),
        "levels": levels,
    }


def study(
    draft: Engine, target: Engine, sampling: Sampling, prompts: Sequence[Prompt], repeats: int, new_tokens: int
) -> dict[str, Any]:
    points = follow(draft, target, sampling, prompts, repeats, new_tokens)
    return {
        "draft": draft.name,
        "target": target.name,
        "sampling": {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p},
        "samples": SAMPLES,
        "prompts": len(prompts),
        "repeats": repeats,
        "new_tokens": new_tokens,
        **fit_line(points),
        "paper": {**PAPER, "source": PAPER_ONE_LINE},
    }


def write_study(found: dict[str, Any], folder: Path) -> list[Path]:
    """uncertainty.json and the plot, as SVG and PDF."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from experiments.report.figures import COLUMN_IN, METADATA, RC

    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "uncertainty.json"]
    written[0].write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    with mpl.rc_context(RC):
        figure = Figure(figsize=(COLUMN_IN, 2.5), layout="constrained")
        FigureCanvasAgg(figure)
        _draw(figure.add_subplot(), found)
        for kind, metadata in METADATA.items():
            written.append(folder / f"uncertainty.{kind}")
            figure.savefig(written[-1], metadata=metadata)
    return written


def _draw(ax: Any, found: dict[str, Any]) -> None:
    levels = found["levels"]
    u = np.array([level["uncertainty"] for level in levels])
    most = max(level["tokens"] for level in levels)
    sizes = [4 + 60 * level["tokens"] / most for level in levels]
    label = "mean of the tokens of one u (area: how many)"
    ax.scatter(u, [at["rejection"] for at in levels], sizes, color="#1f8fc9", alpha=0.8, linewidths=0, label=label)
    ends = np.array([0.0, 1.0])
    lines = (
        (found, "-", "#882255", f", r² = {found['r2'] or 0:.2f}"),
        (found["paper"], ":", "#5c6470", " (other models)"),
    )
    for line, style, colour, more in lines:
        name = "over the tokens" if line is found else "paper"
        label = f"{name}: {line['slope']:.2f} u {line['intercept']:+.2f}{more}"
        ax.plot(ends, line["slope"] * ends + line["intercept"], color=colour, linestyle=style, label=label)
    ax.set_xlabel("uncertainty u (share of perturbed samples that differ)")
    ax.set_ylabel("rejection probability")
    ax.set_ylim(-0.1, 1)
    ax.legend(loc="upper left")


def _row_after(engine: Engine, session: Session, tokens: list[int]) -> Row:
    session.become(tokens)
    return engine.forward([session], [1])[0].row(0)


def _line(sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(slopes, intercepts) from [R, 5] sums of 1, u, beta, u^2, u beta; a slope of 0 where u never varies."""
    n, u, beta, uu, ub = sums.T
    spread = uu - u * u / n
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(spread > 1e-12 * n, (ub - u * beta / n) / spread, 0.0)
    return slope, (beta - slope * u) / n


def _r2(
    u: NDArray[np.float64], beta: NDArray[np.float64], slope: float, intercept: float, weights: Any = None
) -> float | None:
    """Share of the variance that the line explains; None where there is none."""
    total = np.average((beta - np.average(beta, weights=weights)) ** 2, weights=weights)
    left = np.average((beta - slope * u - intercept) ** 2, weights=weights)
    return float(1 - left / total) if total > 0 else None
