"""The runs to be exported, each with its records; what could not be read is told, never passed over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from experiments.collection import Collection, Run
from experiments.store import RunFolder, StoreError, damage
from nodes.records import Maker, RequestRecord, RoundRecord, makers


@dataclass(frozen=True)
class Recorded:
    """A run and what its device recorded, warm-up and failed requests included."""

    run: Run
    folder: RunFolder
    requests: list[RequestRecord]
    rounds: dict[str, list[RoundRecord]]  # by request, in order
    damaged_lines: int
    prompts: dict[str, str]  # by id


def recorded(found: Collection, told: list[str]) -> Iterator[Recorded]:
    """Run by run; into `told` goes a line for every run that was left out and for every line that was cut short.
    Raises StoreError when none is left."""
    told += [f"left out: {line}" for line in found.left_out]
    read = 0
    for run in found.runs:
        try:
            one = read_recorded(run)
        except StoreError as error:
            told.append(f"left out: {error}")
            continue
        told += damage(one.folder)
        read += 1
        yield one
    if not read:
        raise StoreError("\n  ".join(["none of these runs can be exported:", *told]))


def read_recorded(run: Run) -> Recorded:
    folder = RunFolder(run.path)
    requests, rounds = folder.requests(), folder.rounds()
    by_request: dict[str, list[RoundRecord]] = {record.request_id: [] for record in requests.records}
    for record in rounds.records:
        by_request.setdefault(record.request_id, []).append(record)
    prompts = {prompt.id: prompt.text for prompt in folder.spec().prompts}
    return Recorded(run, folder, requests.records, by_request, requests.damaged + rounds.damaged, prompts)


def token_makers(request: RequestRecord, rounds: Sequence[RoundRecord]) -> list[tuple[int | None, Maker | None]]:
    """The round of each output token and who made it; unknown throughout where rounds are missing."""
    made: list[tuple[int | None, Maker | None]] = [
        (record.round, maker) for record in rounds for maker in makers(record)
    ]
    return made if len(made) == request.output_tokens else [(None, None)] * request.output_tokens
