"""From a configuration to a table: make the folder, run the nodes, sum up what they wrote; and parts of that alone."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any

from experiments.energy_files import run_energy, write_energy
from experiments.launch import Outcome, Seat, attend, run_nodes, write_link, write_told
from experiments.manifest import end_manifest, start_manifest
from experiments.progress import ProgressBar
from experiments.quality import exact_systems, measure_quality
from experiments.remote.run import collect_again, held, run_on_hosts
from experiments.schema import Config, config_id
from experiments.store import RunFolder, StoreError, create_run
from experiments.summary import finite, summarise_run
from netem.backend import choose_backend, choose_congestion
from netem.plan import LabNames, netns_plan, shell_lines
from netem.spec import DIRECTIONS, LinkSpec
from nodes.device import jobs
from nodes.engine import EngineError

ROOM_BYTES = 1 << 16  # for the manifest that says how a run ended


def run_experiment(config: Config, results: Path) -> tuple[RunFolder, dict[str, Any]]:
    """Run it; returns its folder and summary. Raises LinkError, RunError; what was recorded by then is kept and, as
    far as it goes, summed up."""
    resolved = config.resolved()
    folder = create_run(results, resolved, config_id(resolved))
    with _summed_up_even_so(folder):
        record_run(config, folder)
    return folder, _sum_up_if_recorded(folder)


def record_run(config: Config, folder: RunFolder, about: Mapping[str, Any] | None = None) -> None:
    """Run it with its records in `folder`, and `about` beside what every manifest says. Raises LinkError, RunError."""
    with held(folder.path) if config.hosts else nullcontext(), recording(config, folder, about) as outcome:
        with ProgressBar(config.name, str(folder.path)) as progress:
            run = run_on_hosts if config.hosts else run_nodes
            run(config, folder.path, progress.update, outcome)
        outcome.status = "complete"
        outcome.events += _judge(folder)


def run_device(config: Config, folder: RunFolder, edge: str, words: Sequence[str]) -> dict[str, Any]:
    """The device's half of a run, for an edge that listens at `edge` already; its summary, from what is recorded here.
    `words`: what else the node is told. Raises RunError; what was recorded by then is kept and summed up."""
    with _summed_up_even_so(folder), recording(config, folder) as outcome:
        outcome.link = {"backend": "by hand", "declared": config.link.model_dump()}
        write_link(folder.path, outcome)
        told = ["--spec", str(write_told(config, folder.path)), "--out", str(folder.path)]
        seat = Seat("device", sys.executable, [*told, *words], lambda argv: argv)
        with ProgressBar(config.name, str(folder.path)) as progress:
            attend(seat, edge, folder.path, progress.update)
        outcome.status = "complete"
    return _sum_up_if_recorded(folder)


@contextmanager
def _summed_up_even_so(folder: RunFolder) -> Iterator[None]:
    """Where the block fails, what it recorded until then is summed up."""
    try:
        yield
    except BaseException:
        with besides():
            _sum_up_if_recorded(folder)
        raise


def _sum_up_if_recorded(folder: RunFolder) -> dict[str, Any]:
    return sum_up(folder) if folder.requests().records else {}


@contextmanager
def besides() -> Iterator[None]:
    """For what is still to be done when something has failed: that it fails too is told, and does not take the first
    failure's place."""
    try:
        yield
    except Exception as error:
        print(f"besides: {error}", file=sys.stderr)


@contextmanager
def recording(config: Config, folder: RunFolder, about: Mapping[str, Any] | None = None) -> Iterator[Outcome]:
    """The manifest before what is done inside, and after it with its outcome; then what `RunFolder.close` derives. On a
    disk that fills up meanwhile there is room for that manifest."""
    manifest = {**start_manifest(config.resolved(), folder.run_id), **(about or {})}
    outcome = Outcome()

    def end() -> None:
        room.close()
        folder.write_manifest(_with_outcome(manifest, folder, outcome))
        folder.close()

    with _room(folder.path) as room:
        folder.write_manifest(manifest)
        try:
            yield outcome
        except BaseException as failure:
            if isinstance(failure, Exception):
                outcome.status = f"failed: {failure}"
            with besides():
                end()
            raise
        end()


@contextmanager
def _room(folder: Path) -> Iterator[IO[bytes]]:
    """A file without a name, which holds that much of the disk until it is closed. Raises StoreError."""
    with tempfile.TemporaryFile(dir=folder) as room:
        try:
            os.posix_fallocate(room.fileno(), 0, ROOM_BYTES)
        except OSError as error:
            raise StoreError(f"{folder}: no room for a run's records: {error.strerror}") from None
        yield room


def _with_outcome(manifest: Mapping[str, Any], folder: RunFolder, outcome: Outcome) -> dict[str, Any]:
    """The manifest with that, and with what the nodes left, as far as it can be read."""
    left: dict[str, dict[str, Any]] = {}
    for node in ("device", "edge"):
        with suppress(StoreError):
            left[node] = folder.node(node)
    models = {node: engine for node, found in left.items() if (engine := found.get("engine"))}
    device = left.get("device")
    ended = end_manifest(
        manifest, status=outcome.status, link=outcome.link, models=models, events=outcome.events, device=device
    )
    return {**ended, "hosts": outcome.hosts} if outcome.hosts else ended


def collect_run(folder: RunFolder) -> list[str]:
    """Fetch what its machines still hold of it, and sum up; what was fetched, in words. With all of it here the run is
    what it would have been, had that come when it ended. Raises RemoteError."""
    said = collect_again(folder.path, lambda role: _arrived(folder, role))
    folder.close()
    if folder.requests().records:
        sum_up(folder)
    return said


def _arrived(folder: RunFolder, role: str) -> None:
    """A node's records are here after all: the manifest says so, and when it was written first stays."""
    manifest = folder.manifest()
    awaited = {event["role"]: event for event in manifest.get("events", []) if event["event"] == "not_collected"}
    left = [event for event in manifest.get("events", []) if event is not awaited.get(role)]
    status = str(manifest["status"])
    if status == "running":  # but nobody is at work on it: who started it was killed
        status = "interrupted"
    elif awaited.keys() == {role}:
        status = awaited[role].get("run", status)
    left += _judge(folder) if status == "complete" else []
    now = _with_outcome(manifest, folder, Outcome(status, events=left))
    folder.write_manifest({**now, **{key: manifest.get(key) for key in ("ended", "clock_at_end")}})


def _judge(folder: RunFolder) -> list[dict[str, Any]]:
    """Where a system is not exact, ask the target what it thinks of the answers; events where it cannot be asked."""
    if all(exact_systems(folder).values()):
        return []
    print("  asking the target about the answers: not every system is exact", file=sys.stderr, flush=True)
    try:
        measure_quality(folder)
    except (EngineError, StoreError) as error:
        return [{"event": "quality_not_measured", "why": str(error)}]
    return []


def sum_up(folder: RunFolder) -> dict[str, Any]:
    """What `tabulate` makes, and report.html, figures/ and trace.json: made again whenever asked for."""
    from experiments.report import write_figures, write_report, write_trace

    summary = tabulate(folder)
    write_report(folder, summary)
    write_figures(folder, summary)
    write_trace(folder)
    return summary


def tabulate(folder: RunFolder) -> dict[str, Any]:
    """summary.json, energy.csv and emissions.csv from the records."""
    energy = run_energy(folder)
    write_energy(folder, energy)
    summary = {**summarise_run(folder), "energy": finite(energy.block)}
    folder.write_summary(summary)
    return summary


def describe_run(config: Config) -> dict[str, Any]:
    """What `run` would do, without doing it."""
    spec = config.to_runspec()
    link = config.link
    requests = sum(1 for _ in jobs(spec))
    backend = "hosts" if config.hosts else choose_backend(link)
    lines = [
        f"run        {config.name}: {len(spec.systems)} systems, {requests} requests (warm-up included)",
        f"systems    {' '.join(system.name for system in spec.systems)}",
        f"device     {config.device_engine}",
        f"edge       {config.edge_engine}",
        f"link       {backend}: {link_text(link)}",
    ]
    if config.hosts:
        lines += [f"{role:<11}at {host.where}" for role, host in config.hosts]
    elif link.is_shaped:
        lines += ["", "commands that build such a link in this kernel:", *link_commands(config)]
    return {"config": config.resolved(), "requests": requests, "backend": backend, "lines": lines}


def link_text(link: LinkSpec) -> str:
    """Both directions in words: only what is declared."""
    ways = []
    for which in DIRECTIONS:
        declared = link.direction(which).model_dump(exclude_defaults=True)
        ways.append(f"{which} " + (", ".join(f"{key} {value}" for key, value in declared.items()) or "not shaped"))
    return "; ".join(ways)


def link_commands(config: Config) -> list[str]:
    """The link as shell commands, for a kernel that has netem."""
    names = LabNames("plan")
    plan = netns_plan(names, config.link, choose_congestion(config.link.tcp.congestion))
    return shell_lines(plan.steps, names)
