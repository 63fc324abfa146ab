"""Runs, systems, requests, rounds and tokens as tables of one Parquet file each, keyed by `run`.

    runs       a row a run: when, where, with what, its place on every axis in which these runs differ
    systems    a row for each system of a run: the flat record of summary.json
    requests   a row a request; rounds: a row a round; tokens: a row an output token, its maker and when it was settled

Warm-up is in there, as `warmup`: nothing is left out that was recorded.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.collection import Collection, link_label
from experiments.exports import files_for
from experiments.exports.reading import Recorded, recorded, token_makers
from nodes.records import RequestRecord, RoundRecord

SCALARS = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
RUN = pa.field("run", pa.string(), nullable=False)
TOKENS = pa.schema(
    [
        RUN,
        ("system", pa.string()),
        ("request_id", pa.string()),
        ("warmup", pa.bool_()),
        ("position", pa.int64()),
        ("token", pa.int64()),
        ("settled_ms", pa.float64()),
        ("round", pa.int64()),
        ("maker", pa.string()),
    ]
)
NAMES = ("runs", "systems", "requests", "rounds", "tokens")


def write_tables(found: Collection, out: Path, force: bool, told: list[str]) -> dict[str, int]:
    """A file a table in `out`; returns their rows. Run by run, so that many runs need no more memory than one. Raises
    StoreError."""
    paths = [out / f"{name}.parquet" for name in NAMES]
    with files_for(paths, force) as temporary:
        by_name = dict(zip(NAMES, temporary))
        rows = dict.fromkeys(NAMES, 0)
        taken: list[Recorded] = []
        schemas = {"requests": _schema_of(RequestRecord, prompt=pa.string()), "rounds": _schema_of(RoundRecord),
                   "tokens": TOKENS}  # fmt: skip
        makes: dict[str, Callable[[Recorded], Iterable[dict[str, Any]]]] = {
            "requests": _requests, "rounds": _rounds, "tokens": _tokens
        }  # fmt: skip
        writers = {name: pq.ParquetWriter(by_name[name], schema) for name, schema in schemas.items()}
        try:
            for one in recorded(found, told):
                taken.append(one)
                for name, make in makes.items():
                    table = pa.Table.from_pylist(list(make(one)), schemas[name])
                    rows[name] += table.num_rows
                    if table.num_rows:
                        writers[name].write_table(table)
                taken[-1] = _without_records(one)
        finally:
            for writer in writers.values():
                writer.close()
        here = {one.run.label for one in taken}
        systems = [{"run": found.runs[row.run].label, "kind": row.kind, **row.axes, **row.figures}
                   for row in found.rows if found.runs[row.run].label in here]  # fmt: skip
        for name, records in (("runs", [_run(one, found) for one in taken]), ("systems", systems)):
            table = _flat(records)
            rows[name] = table.num_rows
            pq.write_table(table, by_name[name])
    return rows


def _without_records(one: Recorded) -> Recorded:
    """What the table of runs needs of it."""
    return Recorded(one.run, one.folder, [], {}, one.damaged_lines, {})


def _run(one: Recorded, found: Collection) -> dict[str, Any]:
    run, manifest = one.run, one.run.manifest
    about = {
        "run": run.label,
        "name": str(manifest.get("name", "")),
        "run_id": run.path.name,
        "folder": str(run.path),
        "status": str(manifest.get("status", "")),
        "started": str(manifest.get("started") or ""),
        "ended": str(manifest.get("ended") or ""),
        "host": run.host,
        "commit": str((manifest.get("software") or {}).get("git", {}).get("commit") or ""),
        "seed": manifest.get("seed"),
        "link": link_label(run.config.get("link") or {}),
        "labels": list(run.summary.get("labels", [])),
        "damaged_lines": one.damaged_lines,
        "config": json.dumps(run.config, default=str),
        "manifest": json.dumps(manifest, default=str),
    }
    return {**{key: run.axes.get(key) for key in found.axes}, **about}


def _requests(one: Recorded) -> Iterable[dict[str, Any]]:
    for request in one.requests:
        yield {"run": one.run.label, **msgspec.to_builtins(request), "prompt": one.prompts.get(request.prompt_id)}


def _rounds(one: Recorded) -> Iterable[dict[str, Any]]:
    for rounds in one.rounds.values():
        for record in rounds:
            yield {"run": one.run.label, **msgspec.to_builtins(record)}


def _tokens(one: Recorded) -> Iterable[dict[str, Any]]:
    for request in one.requests:
        made = token_makers(request, one.rounds[request.request_id])
        for position, (token, settled_ms, (number, maker)) in enumerate(zip(request.tokens, request.token_ms, made)):
            yield {
                "run": one.run.label,
                "system": request.system,
                "request_id": request.request_id,
                "warmup": request.warmup,
                "position": position,
                "token": token,
                "settled_ms": settled_ms,
                "round": number,
                "maker": maker,
            }


def _schema_of(kind: type[msgspec.Struct], **more: pa.DataType) -> pa.Schema:
    """A record's fields as columns, whatever their values: a table without a row has its columns too."""
    hints = typing.get_type_hints(kind)
    fields = [(field.name, _arrow_type(hints[field.name])) for field in msgspec.structs.fields(kind)]
    return pa.schema([RUN, *fields, *more.items()])


def _arrow_type(hint: Any) -> pa.DataType:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _arrow_type(next(one for one in arguments if one is not type(None)))
    if origin is list:
        return pa.list_(_arrow_type(arguments[0]))
    return SCALARS[hint]


def _flat(records: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Records whose columns are known by their values only. Numbers stay numbers and lists of numbers lists; a column
    of anything else, or of several kinds, is text: JSON where it is not text already."""
    names = dict.fromkeys(name for record in records for name in record)
    columns = {}
    for name in names:
        values = [record.get(name) for record in records]
        kind = _column_type([value for value in values if value is not None])
        plain = values if kind is not None else [_text(value) for value in values]
        columns[name] = pa.array(plain, kind or pa.string())
    return pa.table(columns)


def _column_type(values: Sequence[Any]) -> pa.DataType | None:
    kinds = {type(value) for value in values}
    if len(kinds) == 1 and (kind := kinds.copy().pop()) in SCALARS:
        return SCALARS[kind]
    if kinds and kinds <= {int, float}:
        return pa.float64()
    if kinds == {list} and all(type(item) in (int, float) for value in values for item in value):
        return pa.list_(pa.float64())
    if kinds == {list} and all(type(item) is str for value in values for item in value):
        return pa.list_(pa.string())
    return None


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, default=str)
