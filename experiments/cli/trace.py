"""`dssd netem trace`: files of conditions over time, shown and made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from experiments.cli.answers import Json, answer, fail, note, plain_errors

app = typer.Typer(help="A link's conditions over time: show a file of them, or make one.", no_args_is_help=True)
make = typer.Typer(help="Make a trace: a CSV, the same for the same seed.", no_args_is_help=True)
app.add_typer(make, name="make")

FIGURES = (".html", ".png", ".svg", ".pdf")
OutFile = Annotated[Path, typer.Argument(help="The CSV to write.", metavar="FILE")]
Seconds = Annotated[float, typer.Option("--seconds", help="How long.")]
StepMs = Annotated[float, typer.Option("--step-ms", help="Between changes; 10 at least.")]
Seed = Annotated[int, typer.Option("--seed", help="Of every draw.")]


@app.command("show")
def trace_show(
    file: Annotated[
        Path, typer.Argument(help="A CSV, a Mahimahi trace, rates a second, or a run.", metavar="FILE|RUN")
    ],
    format: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--format", help="csv, mahimahi or mbps; by default told from the file."),
    ] = None,
    step_ms: Annotated[float, typer.Option("--step-ms", help="What a Mahimahi trace is averaged over.")] = 100.0,
    out: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option("--out", help="Draw it: .html, .png, .svg or .pdf; may be repeated.", metavar="FILE"),
    ] = None,
    json: Json = False,
) -> None:
    """Plot a trace in the terminal, and into files. Of a run's folder: what was applied, at its actual times."""
    with plain_errors():
        from experiments.report.course import read_courses, show_courses

        if format not in (None, "csv", "mahimahi", "mbps"):
            fail(f"--format is csv, mahimahi or mbps, not '{format}'")
        for path in out or []:
            if path.suffix not in FIGURES:
                fail(f"--out {path}: name it {', '.join(FIGURES)}")
        found = read_courses(file, format, step_ms)  # type: ignore[arg-type]
        for path in out or []:
            from experiments.report.course_file import draw_courses

            draw_courses(found, path)
            note(f"drawn: {path}")
        answer(found.describe(), json, lambda _: print("\n".join(show_courses(found))))


@make.command("on-off")
def make_on_off(
    file: OutFile,
    seconds: Seconds = 60.0,
    step_ms: StepMs = 100.0,
    seed: Seed = 0,
    up_s: Annotated[float, typer.Option(help="Mean time for which it is up.")] = 8.0,
    down_s: Annotated[float, typer.Option(help="Mean time for which it is down.")] = 1.0,
    rate_mbps: Annotated[float, typer.Option(help="While it is up.")] = 20.0,
    down_mbps: Annotated[float, typer.Option(help="While it is down; 0: nothing passes.")] = 0.0,
    json: Json = False,
) -> None:
    """Two states, up and down, both of exponential length."""
    _make("on-off", file, seconds, step_ms, seed, json, up_s=up_s, down_s=down_s, rate_mbps=rate_mbps,
          down_mbps=down_mbps)  # fmt: skip


@make.command("walk")
def make_walk(
    file: OutFile,
    seconds: Seconds = 60.0,
    step_ms: StepMs = 100.0,
    seed: Seed = 0,
    low_mbps: Annotated[float, typer.Option(help="Never below.")] = 1.0,
    high_mbps: Annotated[float, typer.Option(help="Never above.")] = 30.0,
    spread: Annotated[float, typer.Option(help="Standard deviation of the rate's natural logarithm.")] = 0.5,
    memory_s: Annotated[float, typer.Option(help="The time in which it forgets where it was.")] = 5.0,
    delay_ms: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="At the high bound; grows as the rate falls. By default the trace says nothing of delay."),
    ] = None,
    json: Json = False,
) -> None:
    """A rate that wanders between two bounds."""
    _make("walk", file, seconds, step_ms, seed, json, low_mbps=low_mbps, high_mbps=high_mbps, spread=spread,
          memory_s=memory_s, delay_ms=delay_ms)  # fmt: skip


@make.command("fading")
def make_fading(
    file: OutFile,
    seconds: Seconds = 60.0,
    step_ms: StepMs = 100.0,
    seed: Seed = 0,
    mean_snr_db: Annotated[float, typer.Option(help="Over the fading.")] = 12.0,
    bandwidth_mhz: Annotated[float, typer.Option(help="Of the channel.")] = 5.0,
    doppler_hz: Annotated[float, typer.Option(help="Largest shift: speed / wavelength.")] = 5.0,
    known_after_ms: Annotated[float, typer.Option(help="How old the sender's knowledge of the channel is.")] = 4.0,
    margin_db: Annotated[float, typer.Option(help="Kept below the known channel's rate.")] = 3.0,
    tries: Annotated[int, typer.Option(help="Times a packet is sent at most.")] = 4,
    json: Json = False,
) -> None:
    """A block-fading radio channel: Shannon's rate, and what is lost still."""
    _make("fading", file, seconds, step_ms, seed, json, mean_snr_db=mean_snr_db, bandwidth_mhz=bandwidth_mhz,
          doppler_hz=doppler_hz, known_after_ms=known_after_ms, margin_db=margin_db, tries=tries)  # fmt: skip


@make.command("handover")
def make_handover(
    file: OutFile,
    seconds: Seconds = 60.0,
    step_ms: StepMs = 100.0,
    seed: Seed = 0,
    rate_mbps: Annotated[float, typer.Option(help="In the middle of a cell.")] = 30.0,
    rim_mbps: Annotated[float, typer.Option(help="At its rim.")] = 4.0,
    delay_ms: Annotated[float, typer.Option(help="In the middle of a cell.")] = 20.0,
    rim_delay_ms: Annotated[float, typer.Option(help="At its rim.")] = 40.0,
    cell_s: Annotated[float, typer.Option(help="Time in a cell, a fifth more or less.")] = 15.0,
    gap_s: Annotated[float, typer.Option(help="In which nothing passes.")] = 0.2,
    json: Json = False,
) -> None:
    """Cells passed one after another: worse toward the rim, a gap, better again."""
    _make("handover", file, seconds, step_ms, seed, json, rate_mbps=rate_mbps, rim_mbps=rim_mbps, delay_ms=delay_ms,
          rim_delay_ms=rim_delay_ms, cell_s=cell_s, gap_s=gap_s)  # fmt: skip


def _make(kind: str, file: Path, seconds: float, step_ms: float, seed: int, json: bool, **options: Any) -> None:
    with plain_errors():
        from experiments.report.course import read_courses, show_courses
        from netem.traces.files import write_csv
        from netem.traces.generate import KINDS, Grid
        from netem.traces.trace import TraceError

        if file.suffix != ".csv":
            fail(f"{file}: a trace is made as a .csv")
        if file.exists():
            fail(f"{file} is there already: name another, or remove it")
        points = KINDS[kind](Grid(seconds, step_ms / 1e3, seed), **options)
        said = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in options.items() if value is not None)
        comment = f"dssd netem trace make {kind} --seconds {seconds:g} --step-ms {step_ms:g} --seed {seed} {said}"
        try:
            write_csv(file, points, comment)
        except OSError as error:
            raise TraceError(f"{file} cannot be written: {error.strerror}") from None
        found = read_courses(file)
        answer(found.describe(), json, lambda _: print("\n".join(show_courses(found))))
