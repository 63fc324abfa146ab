"""What a link's check measured, drawn over what was declared: round trip, each way, losses, rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from experiments.reading import ConfigError
from experiments.report.figures import METADATA, RC
from netem.distributions import delay_quantile_ms
from netem.judge import expected_delay_ms
from netem.spec import DIRECTIONS, DirectionSpec, LinkSpec

KINDS = (".png", ".pdf", ".svg")
COLOURS = {"rtt": "#3b2f9c", "up": "#1f8fc9", "down": "#d27d00"}
SHARES = [(i + 0.5) / 200 for i in range(200)]
Axes = Any  # matplotlib's, which is imported when a figure is drawn


def require_drawable(path: Path) -> None:
    """Raises ConfigError where the file cannot be one of KINDS, or matplotlib is missing."""
    if path.suffix not in KINDS:
        raise ConfigError(f"--plot {path}: name it .png, .pdf or .svg")
    if not path.parent.is_dir():
        raise ConfigError(f"--plot {path}: there is no folder {path.parent}")
    if find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib: pip install matplotlib")


def write_link_plot(found: Mapping[str, Any], path: Path) -> None:
    """`found` is what a check answers. Raises ConfigError as `require_drawable` does."""
    require_drawable(path)
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    spec = LinkSpec.model_validate(found["declared"]).at_start()
    with mpl.rc_context(RC):
        figure = Figure(figsize=(6.8, 4.4), layout="constrained", dpi=200)
        FigureCanvasAgg(figure)
        round_trip, ways, losses, rates = figure.subplots(2, 2).flat
        _delays(round_trip, found, spec, ("rtt",), "round trip of a probe (ms)")
        _delays(ways, found, spec, DIRECTIONS, "one way (ms)")
        _losses(losses, found["observed"], spec)
        _rates(rates, found["observed"], spec)
        verdict = "off: " + "; ".join(problem.split(":")[0] for problem in found["problems"])
        figure.suptitle(f"{found['backend']}: {verdict if found['problems'] else 'as declared'}", fontsize=7)
        figure.savefig(path, metadata=METADATA.get(path.suffix[1:]))


def _delays(ax: Axes, found: Mapping[str, Any], spec: LinkSpec, which: Sequence[str], label: str) -> None:
    """Shares of the probes below each delay; dashed, the declared law."""
    drawn = [what for what in which if found["delays_ms"].get(what)]
    for what in drawn:
        values = sorted(found["delays_ms"][what])
        shares = [(i + 1) / len(values) for i in range(len(values))]
        ax.step(values, shares, where="post", color=COLOURS[what], label=f"{what}, {len(values)} probes")
        law = _declared_ms(spec, what)
        if law is not None:
            ax.plot(law, SHARES, "--", color=COLOURS[what], linewidth=0.8, label=f"{what}, declared")
    ax.set_xlabel(label if drawn else f"{label}: not measured")
    ax.set_ylabel("share of probes")
    ax.set_ylim(0, 1)
    if drawn:
        ax.legend(loc="best")


def _declared_ms(spec: LinkSpec, what: str) -> list[float] | None:
    """Quantiles of the declared delay; of a round trip only where no more than one way has jitter."""
    sides = [spec.up, spec.down] if what == "rtt" else [spec.up if what == "up" else spec.down]
    if any(side.slot or side.reorder_pct for side in sides) or sum(side.jitter_ms > 0 for side in sides) > 1:
        return None
    columns = [_quantiles_ms(side) for side in sides]
    if any(column is None for column in columns):
        return None
    return [sum(parts) for parts in zip(*columns)]  # type: ignore[arg-type]


def _quantiles_ms(side: DirectionSpec) -> list[float] | None:
    middle_ms = delay_quantile_ms(side, 0.5)
    if middle_ms is None:
        return None
    serialising_ms = expected_delay_ms(side) - middle_ms
    return [(delay_quantile_ms(side, share) or 0.0) + serialising_ms for share in SHARES]


def _losses(ax: Axes, observed: Mapping[str, Any], spec: LinkSpec) -> None:
    for y, which in enumerate(DIRECTIONS):
        seen = observed.get(which, {})
        if "loss_pct" in seen:
            low, high = seen["loss_interval_pct"]
            ax.plot([low, high], [y, y], color=COLOURS[which], linewidth=2.5, alpha=0.4)
            ax.plot(seen["loss_pct"], y, "o", color=COLOURS[which], markersize=4)
        ax.plot(spec.direction(which).mean_loss_pct, y, "k|", markersize=12, markeredgewidth=1.2)
    ax.set_yticks(range(len(DIRECTIONS)), DIRECTIONS)
    ax.set_ylim(len(DIRECTIONS) - 0.5, -0.5)
    ax.set_xlim(left=-0.05)
    confidence = 100 * spec.tolerance.loss_confidence
    ax.set_xlabel(f"loss (%): point and {confidence:g} % interval; black bar: declared")


def _rates(ax: Axes, observed: Mapping[str, Any], spec: LinkSpec) -> None:
    """Measured over declared, in percent, with the tolerance as a band."""
    tolerance = spec.tolerance.rate_pct
    ax.axvspan(100 - tolerance, 100 + tolerance, color="#e3e6ea", zorder=0)
    for y, which in enumerate(DIRECTIONS):
        declared, seen = spec.direction(which).rate_mbps, observed.get(which, {}).get("rate_mbps")
        if declared and seen:
            ax.plot(100 * seen / declared, y, "o", color=COLOURS[which], markersize=4)
            text = f"{seen:.4g} of {declared:g} Mbit/s"
        else:
            text = "no rate declared" if not declared else "not measured"
        ax.annotate(text, (100, y), (0, -12), textcoords="offset points", ha="center", fontsize=6)
    ax.set_yticks(range(len(DIRECTIONS)), DIRECTIONS)
    ax.set_ylim(len(DIRECTIONS) - 0.5, -0.5)
    ax.set_xlim(100 - 2 * tolerance, 100 + 2 * tolerance)
    ax.set_xlabel("rate of a bulk transfer, % of the declared one; grey: tolerated")
