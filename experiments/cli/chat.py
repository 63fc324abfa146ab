"""`dssd chat`: type a prompt, watch its tokens arrive, each in the colour of who made it."""

from __future__ import annotations

import json as jsonlib
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from experiments.cli.answers import KeysDir, Overrides, Plain, note, plain_errors, take_rights_for

if TYPE_CHECKING:
    from experiments.launch import Outcome
    from experiments.schema import Config
    from experiments.store import RunFolder

app = typer.Typer()


@app.command()
def chat(
    config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help="An experiment's YAML file, for its link, models and systems.", metavar="[CONFIG]"),
    ] = None,
    system: Annotated[str, typer.Option(help="Who answers; several: a,b (`/system b` changes).")] = "",
    pair: Annotated[str, typer.Option(help="toy, or two engines: bundled:draft,bundled:target.")] = "",
    link: Annotated[str, typer.Option(help="A profile's name (`dssd netem profiles`) or file; else no shaping.")] = "",
    connect: Annotated[str, typer.Option(help="An edge that listens there, instead of one here.")] = "",
    keys: KeysDir = None,
    plain: Plain = False,
    temperature: Annotated[Optional[float], typer.Option(help="0: greedy.")] = None,  # noqa: UP045
    max_new_tokens: Annotated[Optional[int], typer.Option(help="Of an answer.")] = None,  # noqa: UP045
    seed: Annotated[Optional[int], typer.Option(help="The same seed gives the same tokens.")] = None,  # noqa: UP045
    once: Annotated[Optional[str], typer.Option(help="This prompt alone.", metavar="PROMPT")] = None,  # noqa: UP045
    record: Annotated[bool, typer.Option("--record", help="Keep it all, as a run that can be run again.")] = False,
    out: Annotated[Path, typer.Option("--out", help="With --record: where runs are kept.")] = Path("results"),
    overrides: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="A JSON document a line: each round, each answer.")] = False,
) -> None:
    """Type prompts and watch: who made each token, acceptance, round trip, bytes, watts. Prompts may be piped in."""
    with plain_errors():
        from experiments.chat.screens import JsonScreen, Prompts, TextScreen, stdin_lines, typed_lines
        from experiments.chat.session import chat as talk
        from experiments.chat.settings import chat_config, link_here

        if bool(connect) != (keys is not None or plain):
            raise typer.BadParameter("--connect takes --keys DIR, or --plain for no encryption; both are for it alone")
        if connect and link:
            raise typer.BadParameter("--connect goes over the link that there is: --link is for an edge started here")
        settings = {
            "link": link_here(link), "sampling.temperature": temperature, "seed": seed,
            "workload.max_new_tokens": max_new_tokens,
        }  # fmt: skip
        short = [f"{key}={jsonlib.dumps(value)}" for key, value in settings.items() if value not in ("", None)]
        wanted = [name for name in system.split(",") if name]
        loaded = chat_config(config, [*short, *(overrides or [])], wanted, pair)
        if not connect:
            take_rights_for(loaded.link)
        typing = once is None and sys.stdin.isatty()
        lines = iter([once]) if once is not None else typed_lines() if typing else stdin_lines()
        names = [one.name for one in loaded.compositions]
        prompts = Prompts(lines, names, names[0], note)
        screen = JsonScreen(prompts) if json else TextScreen(prompts)
        with _folder(loaded, out if record else None) as (folder, outcome):
            try:
                talk(loaded, screen, folder.path, outcome, (connect, keys) if connect else None)
                outcome.status = "complete"
            finally:
                screen.close()
        if screen.failed:
            raise typer.Exit(1)


@contextmanager
def _folder(config: Config, results: Path | None) -> Iterator[tuple[RunFolder, Outcome]]:
    """Where the nodes' records go: among the results, summed up at the end, or nowhere that lasts."""
    from experiments.launch import Outcome, RunError
    from experiments.run import recording, sum_up
    from experiments.schema import config_id
    from experiments.store import create_run, make_folder

    if results is None:
        with tempfile.TemporaryDirectory(prefix="dssd-chat-") as nowhere:
            try:
                yield make_folder(Path(nowhere), "chat", config.resolved()), Outcome()
            except RunError as error:
                raise RunError(f"{error}\n(that log is gone with the chat; --record keeps it)") from None
        return
    folder = create_run(results, config.resolved(), config_id(config.resolved()))
    try:
        with recording(config, folder) as outcome:
            yield folder, outcome
    finally:
        if any(not record.warmup for record in folder.requests().records):
            sum_up(folder)
        note(f"\nfiles: {folder.path}")
