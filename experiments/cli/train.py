"""`dssd train`: the small parts of systems that are trained from a pair of models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from experiments.cli.answers import Json, Overrides, answer, make_place, note, plain_errors, table

if TYPE_CHECKING:
    from experiments.schema import Config
    from nodes.runspec import Prompt

app = typer.Typer(help="Train a system's small parts from a pair of models.", no_args_is_help=True)
PairConfig = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Argument(
        help="An experiment's YAML file: its models, sampling and prompts; without one, the bundled pair on pieces of "
        "the standard library that it was not trained on.",
        metavar="[CONFIG]",
    ),
]


@app.callback()
def train() -> None:
    """A group even while it has one command."""


@app.command("router")
def router(
    config: PairConfig = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", help="The router's file; without CONFIG, by default the one that ships."),
    ] = None,
    queries: Annotated[int, typer.Option(min=20, help="Without CONFIG: pieces to ask about.")] = 400,
    answers: Annotated[int, typer.Option(min=1, help="Of each model to every query.")] = 6,
    new_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 32,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """The router of hybrid_llm: which requests may the device answer alone?"""
    with plain_errors():
        from experiments.training.router import train_router, write_router
        from nodes.policies.routing import BUNDLED

        if config and out is None:
            raise typer.BadParameter("--out FILE: where this pair's router goes")
        loaded, prompts, source = _material("router", config, overrides, queries)
        path = out or BUNDLED
        make_place(path)
        trained = train_router(loaded, prompts, source, answers, new_tokens)
        write_router(trained, path)
        note(f"{trained.card['fitted_on']} queries fitted on, {trained.card['tested_on']} tested on: {path}")
        answer({"file": str(path), **trained.card}, json, _show_held_out)


@app.command("head")
def head(
    config: PairConfig = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--out", help="The head's .npz, its card beside it; without CONFIG, by default the one that ships."
        ),
    ] = None,
    queries: Annotated[int, typer.Option(min=2, help="Without CONFIG: pieces to draft after.")] = 320,
    rounds: Annotated[int, typer.Option(min=1, help="Of drafting after each prompt.")] = 4,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """The decision head of wisv: which tokens that the edge would not have drawn may stand?"""
    with plain_errors():
        import msgspec

        from experiments.training.head import train_head
        from nodes.heads import BUNDLED

        if config and out is None:
            raise typer.BadParameter("--out FILE.npz: where this pair's head goes")
        loaded, prompts, source = _material("head", config, overrides, queries)
        path = out or BUNDLED
        if path.suffix != ".npz":
            raise typer.BadParameter(f"{path}: a head's file ends in .npz")
        make_place(path)
        card = msgspec.to_builtins(train_head(loaded, prompts, source, rounds, path).card)
        note(f"{path}, and its card {path.with_suffix('.json')}")
        answer({"file": str(path), **card}, json, lambda made: table([made["held_out"]], list(made["held_out"])))


def _material(
    name: str, config: Path | None, overrides: list[str] | None, queries: int
) -> tuple[Config, Sequence[Prompt], str]:
    """Whose models are trained on what: (configuration, prompts, where those are from)."""
    from experiments.schema import Config, load_config
    from experiments.training.queries import held_out_queries

    if config is not None:
        loaded = load_config(config, overrides or [])
        return loaded, loaded.prompts, f"the prompts of {config.name}"
    if overrides:
        raise typer.BadParameter("--set changes a configuration: name one")
    return Config.model_validate({"name": name, "systems": ["edge_ar"]}), *held_out_queries(queries)


def _show_held_out(card: dict[str, Any]) -> None:
    rows = [{"labels": kind, **figures} for kind, figures in card["held_out"].items()]
    columns = ["labels", "shift", "mean_label", "accuracy", "accuracy_of_the_commoner", "log_loss"]
    table(rows, [*columns, "log_loss_of_the_mean"])
