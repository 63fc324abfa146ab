"""`dssd study`: relations that the papers report, fitted on a pair of models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from experiments.cli.answers import Json, Overrides, answer, note, plain_errors

app = typer.Typer(help="Relations that the papers report, fitted on a pair of models.", no_args_is_help=True)


@app.callback()
def study() -> None:
    """A group even while it has one command."""


@app.command("uncertainty")
def uncertainty(
    config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help="Whose models, sampling, prompts; without one, the bundled pair.", metavar="[CONFIG]"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the JSON and the plot.")] = Path("results/uncertainty"),
    repeats: Annotated[int, typer.Option(min=1, help="Of every prompt.")] = 4,
    new_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 48,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """U-HLM's line: how probably a drafted token is rejected, over how unsure the draft was of it."""
    with plain_errors():
        from experiments.schema import Config, load_config
        from experiments.studies.uncertainty import study, write_study
        from nodes.engine.make import unpaced_pair
        from nodes.sampling import Sampling

        bundled = {"name": "uncertainty", "systems": ["u_hlm"]}
        loaded = load_config(config, overrides or []) if config else Config.model_validate(bundled)
        draft, target = unpaced_pair(loaded.device_engine, loaded.edge_engine)
        sampling = Sampling(**loaded.sampling.model_dump(), seed=loaded.seed)
        found = study(draft, target, sampling, loaded.prompts, repeats, new_tokens)
        for path in write_study(found, out):
            note(str(path))
        answer({key: value for key, value in found.items() if key != "levels"}, json, _show)


def _show(found: dict[str, Any]) -> None:
    slope, intercept = (_with_interval(found, name) for name in ("slope", "intercept"))
    print(f"rejection = {slope} u + {intercept}, r² {found['r2']:.3f} ({found['r2_of_means']:.3f} of the means)")
    print(f"over {found['tokens']} tokens of {found['answers']} answers, mean rejection {found['mean_rejection']:.3f}")
    print(f"paper: {found['paper']['slope']:g} u + {found['paper']['intercept']:g} ({found['paper']['source']})")


def _with_interval(found: dict[str, Any], name: str) -> str:
    interval = found[f"{name}_ci95"]
    return f"{found[name]:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")
