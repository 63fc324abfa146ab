"""Figures in MLflow, through its own library: an MLflow run for each system of each run.

parameters   the configuration, flattened, and the system
metrics      the numbers of the system's flat record in summary.json
tags         dssd.run, dssd.system, dssd.exact and what else tells runs apart
artifact     report.html
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from experiments.collection import Collection, Row, Run
from experiments.store import StoreError

REMEDY = "pip install 'dssd-testbed[mlflow]'"
LONGEST_PARAM = 6000  # characters that every store of MLflow's takes
PARAMS_AT_ONCE, METRICS_AT_ONCE = 100, 1000  # of one log_batch, by MLflow's limits


def write_mlflow(found: Collection, uri: str, experiment: str, force: bool) -> list[dict[str, str]]:
    """Returns a row for each MLflow run. One that is there for the same run and system is replaced by `force` only.
    Raises StoreError."""
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise StoreError(f"MLflow is not installed: {REMEDY}") from None
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    try:
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        known = client.get_experiment_by_name(experiment)
        experiment_id = known.experiment_id if known else client.create_experiment(experiment)
        before = {name: _logged(client, experiment_id, *name) for name in _names(found)}
        if (there := [f"{run}/{system}" for (run, system), ids in before.items() if ids]) and not force:
            raise StoreError(f"{uri} has these in {experiment!r} already: {', '.join(there)}; --force replaces them")
        rows = []
        for row in found.rows:
            run = found.runs[row.run]
            run_id = _log(client, experiment_id, run, row)
            for old in before[_name(run, row)]:  # only now: what fails above leaves what there was
                client.delete_run(old)
            rows.append({"run": run.label, "system": row.system, "mlflow_run": run_id})
        return rows
    except MlflowException as error:
        raise StoreError(f"MLflow at {uri}: {str(error).splitlines()[0]}") from None


def _names(found: Collection) -> Iterator[tuple[str, str]]:
    return (_name(found.runs[row.run], row) for row in found.rows)


def _name(run: Run, row: Row) -> tuple[str, str]:
    return run.path.name, row.system


def _logged(client: Any, experiment_id: str, run: str, system: str) -> list[str]:
    where = f"tags.`dssd.run` = '{run}' and tags.`dssd.system` = '{system}'"
    return [one.info.run_id for one in client.search_runs([experiment_id], filter_string=where)]


def _log(client: Any, experiment_id: str, run: Run, row: Row) -> str:
    from mlflow.entities import Metric, Param

    started_ms, ended_ms = (_epoch_ms(run.manifest.get(key)) for key in ("started", "ended"))
    name, system = _name(run, row)
    tags = {
        "dssd.run": name,
        "dssd.system": system,
        "dssd.kind": row.kind,
        "dssd.exact": str(row.figures.get("exact")).lower(),
        "dssd.labels": ",".join(run.summary.get("labels", [])),
        "dssd.host": run.host,
        "dssd.status": str(run.manifest.get("status", "")),
    }
    made = client.create_run(experiment_id, start_time=started_ms, tags=tags, run_name=f"{run.label} {system}")
    run_id = str(made.info.run_id)
    own: dict[str, Any] = next((one for one in run.config.get("systems", []) if one.get("as") == system), {})
    settings = {**dict(_flat(row.axes)), **dict(_flat({**run.config, "system": system, "systems": own}))}
    params = [Param(key, _short(value)) for key, value in settings.items()]
    metrics = [Metric(key, value, ended_ms or 0, 0) for key, value in _numbers(row.figures)]
    for i in range(0, len(params), PARAMS_AT_ONCE):
        client.log_batch(run_id, params=params[i : i + PARAMS_AT_ONCE])
    for i in range(0, len(metrics), METRICS_AT_ONCE):
        client.log_batch(run_id, metrics=metrics[i : i + METRICS_AT_ONCE])
    if (report := run.path / "report.html").is_file():
        client.log_artifact(run_id, str(report))
    client.set_terminated(run_id, "FINISHED" if run.manifest.get("status") == "complete" else "FAILED", ended_ms)
    return run_id


def _flat(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        path = f"{above}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{path}.")
        elif value not in (None, [], {}):
            yield path, value if isinstance(value, str) else json.dumps(value, default=str)


def _short(value: str) -> str:
    return value if len(value) <= LONGEST_PARAM else f"{value[: LONGEST_PARAM - 2]} …"


def _numbers(figures: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """Nested mappings by dotted names; of a list its elements by number; an interval is its two ends."""
    for key, value in figures.items():
        path = f"{above}{key}"
        if isinstance(value, bool) or value is None:
            continue
        if isinstance(value, int | float):
            yield path, float(value)
        elif isinstance(value, Mapping):
            yield from _numbers(value, f"{path}.")
        elif isinstance(value, list):
            yield from _numbers({str(i): item for i, item in enumerate(value)}, f"{path}.")


def _epoch_ms(text: Any) -> int | None:
    try:
        return int(datetime.fromisoformat(str(text)).timestamp() * 1000)
    except ValueError:
        return None
