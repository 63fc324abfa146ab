"""A run's folder. What was recorded is never lost or overwritten; what is derived from it may be made again.

results/<name>/<time>-<hash>/
  config.yaml manifest.json               what was asked for; on what, with what (before anything starts)
  rounds.jsonl requests.jsonl             the device's records, as they happen
  power.device.jsonl power.edge.jsonl     the samplers' traces, as they happen
  tcp.device.jsonl tcp.edge.jsonl         their connections as the kernel sees them, as they happen
  power.jsonl *.parquet summary.json      derived: long-format samples, columns for analysis, what tables show
results/<name>/latest                     a link to the newest
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import yaml

from experiments.clocks import edge_clock, round_on_device_clock, sample_on_device_clock
from nodes.probes import ProbeError
from nodes.probes.sampler import Sample, read_records, read_samples
from nodes.records import RequestRecord, RoundRecord
from nodes.runspec import RunSpec, read_runspec
from nodes.tcp_trace import TcpSample

Record = TypeVar("Record", RoundRecord, RequestRecord, TcpSample)
FOLDER_FORMAT = 1  # of a run's folder, in its manifest: raised whenever what another version wrote would be misread
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where libyaml is there
MAKES_AGAIN = {  # what is derived may be missing
    "quality.json": "remove it, `dssd quality RUN` makes it again",
    "summary.json": "remove it, `dssd report RUN` makes it again",
}


class StoreError(RuntimeError):
    """A folder that is not a run's, or that cannot be written; the message names it."""


@dataclass(frozen=True)
class Read(Generic[Record]):
    """The records of a file, and how many lines of it could not be read (a killed process leaves half a
    line)."""

    records: list[Record]
    damaged: int


class RunFolder:
    """An existing run's folder. Raises StoreError where there is none."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not (self.path / "config.yaml").is_file():
            raise StoreError(f"{self.path} is not the folder of a run: it has no config.yaml")

    @property
    def run_id(self) -> str:
        return self.path.resolve().name

    # Reading -----------------------------------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        path = self.path / "config.yaml"
        try:
            config = yaml.load(path.read_text(encoding="utf-8"), LOADER)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise StoreError(f"{path} is not YAML ({str(error).splitlines()[0]}): restore it") from None
        if not isinstance(config, dict) or not isinstance(config.get("systems", []), list):
            raise StoreError(f"{path} is not a configuration, a mapping of keys with a list of systems: restore it")
        return config

    def spec(self) -> RunSpec:
        """What the nodes were told."""
        path = self.path / "run.json"
        try:
            return read_runspec(path)
        except OSError:
            raise StoreError(f"{self.path} has no run.json: the run did not get that far") from None
        except msgspec.ValidationError as error:
            raise self._other_version(path, str(error)) from None
        except msgspec.DecodeError as error:
            raise StoreError(f"{path} is not JSON ({error}): restore it") from None

    def require_own_format(self) -> None:
        """Raises StoreError for a folder that a version of this program wrote whose files are to be read otherwise."""
        manifest = self.manifest() if (self.path / "manifest.json").is_file() else {}
        found = manifest.get("format", FOLDER_FORMAT)  # before there were formats, it was the first
        if found != FOLDER_FORMAT:
            what = f"its manifest says format {found}, this program reads {FOLDER_FORMAT}"
            raise self._other_version(self.path, what)

    def cut_short(self) -> list[str]:
        """Names of what was being recorded that end within a line, as a kill leaves them."""
        recorded = (path for path in sorted(self.path.glob("*.jsonl")) if path.name != "power.jsonl")
        return [path.name for path in recorded if not _ends_with_a_line(path)]

    def manifest(self) -> dict[str, Any]:
        return self._json("manifest.json")

    def summary(self) -> dict[str, Any]:
        return self._json("summary.json")

    def node(self, name: str) -> dict[str, Any]:
        """What a node left when it ended well (its engine, its counters); empty where it did not."""
        return self._json(f"{name}.json") if (self.path / f"{name}.json").is_file() else {}

    def link(self) -> dict[str, Any]:
        """Declared, applied and observed, as the launcher left it; empty where it did not get that far."""
        return self._json("link.json") if (self.path / "link.json").is_file() else {}

    def quality(self) -> dict[str, Any]:
        """What the target said of the answers; empty where it was not asked."""
        return self._json("quality.json") if (self.path / "quality.json").is_file() else {}

    def rounds(self) -> Read[RoundRecord]:
        """All their instants on the device's clock, where the edge's was compared with it."""
        read, clock = self._records("rounds.jsonl", RoundRecord), edge_clock(self.path)
        if clock is None:
            return read
        return Read([round_on_device_clock(record, clock) for record in read.records], read.damaged)

    def requests(self) -> Read[RequestRecord]:
        return self._records("requests.jsonl", RequestRecord)

    def tcp(self) -> list[TcpSample]:
        """Both nodes' samples of their connections, each with its system, on the device's clock where the edge's was
        compared with it. A sample of a connection whose other end is not known (another machine translated its port)
        has the system ""."""
        device, edge = (self._records(f"tcp.{node}.jsonl", TcpSample).records for node in ("device", "edge"))
        systems, clock = {sample.local_port: sample.system for sample in device}, edge_clock(self.path)
        for sample in edge:
            sample.system = systems.get(sample.remote_port, "")
            sample.t_ns = clock.to_local_ns(sample.t_ns) if clock else sample.t_ns
        return [*device, *edge]

    def traces(self) -> list[Path]:
        """The samplers' own files, one a node."""
        return sorted(self.path.glob("power.*.jsonl"))

    def samples(self, broken: list[str] | None = None) -> Iterator[Sample]:
        """All nodes' samples, on the device's clock where the edge's was compared with it. A trace with a broken line
        ends there, which is written to `broken`."""
        clock = edge_clock(self.path)
        for trace in self.traces():
            try:
                for sample in read_samples(trace):
                    yield sample if clock is None else sample_on_device_clock(sample, clock)
            except ProbeError as error:
                if broken is not None:
                    broken.append(f"{error}; what was sampled from there on is left out, the file is left as it is")
            except (KeyError, IndexError, TypeError) as error:
                raise self._other_version(trace, f"no {error} where one is wanted") from None

    def energy_sources(self) -> dict[str, dict[str, Any]]:
        """By node: the probes whose joules count, their status, and why these."""
        headers = (_trace_header(trace) for trace in self.traces())
        try:
            return {header["node"]: header["energy_source"] for header in headers if header}
        except KeyError as error:
            raise self._other_version(self.path / "power.*.jsonl", f"no {error} in a trace's header") from None

    def trace_header(self, node: str) -> dict[str, Any]:
        """Of a node's trace: its probes, its clock beside the wall's; empty where there is none."""
        path = self.path / f"power.{node}.jsonl"
        return _trace_header(path) if path.is_file() else {}

    # Writing -----------------------------------------------------------------------------------------------

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Written when a run starts, and again, with what came to be known, when it ends."""
        _replace(self.path / "manifest.json", json.dumps(manifest, indent=1, default=str) + "\n")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Raises ValueError for a number that is not finite: JSON has none such; StoreError where a newer version of
        this program has summed up."""
        try:
            before = self.summary().get("format", 0)
        except StoreError:  # one that is missing, or damaged
            before = 0
        if before > summary.get("format", 0):
            raise StoreError(
                f"{self.path / 'summary.json'} was made by a newer version of this program: use that one, or remove "
                "the file, and it is made again as far as this version knows"
            )
        _replace(self.path / "summary.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")

    def write_quality(self, quality: dict[str, Any]) -> None:
        _replace(self.path / "quality.json", json.dumps(quality, indent=1, allow_nan=False) + "\n")

    def close(self) -> list[Path]:
        """Derive the long-format power.jsonl and, where pyarrow is installed, Parquet; returns what was
        written."""
        written = [self._merge_power()] if self.traces() else []
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            return written
        return written + [
            _to_parquet(path)
            for name in ("rounds.jsonl", "requests.jsonl", "power.jsonl", "tcp.device.jsonl", "tcp.edge.jsonl")
            if (path := self.path / name).is_file() and path.stat().st_size
        ]

    def _merge_power(self) -> Path:
        path = self.path / "power.jsonl"
        encoder = msgspec.json.Encoder()
        with replacing(path) as temporary, temporary.open("wb") as out:
            for sample in self.samples():
                out.write(encoder.encode(sample._asdict()) + b"\n")
        return path

    def _records(self, name: str, kind: type[Record]) -> Read[Record]:
        """Half a line, as a kill leaves it, is counted; a whole one that is no such record is another version's."""
        path = self.path / name
        if not path.is_file():
            return Read([], 0)
        decoder = msgspec.json.Decoder(kind)
        known = {field.encode_name for field in msgspec.structs.fields(kind)}
        records: list[Record] = []
        damaged = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    record = decoder.decode(line)
                except msgspec.ValidationError as error:
                    raise self._other_version(path, f"line {number}: {error}") from None
                except msgspec.DecodeError:
                    damaged += 1
                    continue
                if not records and (unknown := msgspec.json.decode(line).keys() - known):
                    raise self._other_version(path, f"line {number}: it has {', '.join(sorted(unknown))}")
                records.append(record)
        return Read(records, damaged)

    def _other_version(self, path: Path, what: str) -> StoreError:
        git = (self.manifest().get("software") or {}).get("git", {}) if (self.path / "manifest.json").is_file() else {}
        commit = f"commit {git['commit'][:12]}" if git.get("commit") else "a commit its manifest does not name"
        return StoreError(
            f"{path}: {what}: written by another version of this program ({commit}), and read as it is by that one "
            f"only; the records are untouched. Remedy: `git worktree add ../then {git.get('commit', 'COMMIT')[:12]}`, "
            "and there `make setup` and its `dssd`"
        )

    def _json(self, name: str) -> dict[str, Any]:
        remedy = MAKES_AGAIN.get(name, "restore it")
        try:
            found = json.loads((self.path / name).read_text(encoding="utf-8"))
        except OSError:
            raise StoreError(f"{self.path} has no {name}: the run did not get that far") from None
        except ValueError as error:
            raise StoreError(f"{self.path / name} is not JSON ({error}): {remedy}") from None
        if not isinstance(found, dict):
            raise StoreError(f"{self.path / name} is not what a run leaves there: {remedy}")
        return found


def create_run(root: Path, config: dict[str, Any], config_id: str) -> RunFolder:
    """A new folder `<root>/<name>/<time>-<config_id>` with its config.yaml, and `latest` pointing at it.
    Never an existing one. Raises StoreError where it cannot be made."""
    parent = Path(root) / str(config["name"])
    folder = make_folder(parent, f"{datetime.now():%Y%m%d-%H%M%S}-{config_id}", config)
    point_latest(parent, folder.path.name)
    return folder


def make_folder(parent: Path, stem: str, config: dict[str, Any]) -> RunFolder:
    """A new folder in `parent` called `stem`, or `stem-2` and so on, with its config.yaml. Raises StoreError."""
    try:
        return begin_run(fresh_folder(parent, stem), config)
    except OSError as error:
        raise StoreError(f"cannot make a run's folder in {parent}: {error.strerror}") from None


def begin_run(path: Path, config: dict[str, Any]) -> RunFolder:
    """Make an empty folder a run's."""
    (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return RunFolder(path)


def fresh_folder(parent: Path, stem: str) -> Path:
    """A new one in `parent`, called `stem`, or `stem-2` and so on."""
    parent.mkdir(parents=True, exist_ok=True)
    return _first_free(parent, stem)


def take_folder(path: Path) -> Path:
    """The one that somebody names for new records. Raises StoreError where there are some: they would mix."""
    path.mkdir(parents=True, exist_ok=True)
    if (path / "config.yaml").exists() or any(path.glob("*.jsonl")):
        raise StoreError(f"{path} has records already, and new ones would mix with them: name another folder")
    return path


def find_run(path: Path) -> RunFolder:
    """The run at `path`, or the latest of the experiment whose folder it is. Raises StoreError."""
    path = Path(path)
    if not (path / "config.yaml").is_file() and (path / "latest" / "config.yaml").is_file():
        path = (path / "latest").resolve()
    run = RunFolder(path)
    run.require_own_format()
    return run


def _first_free(parent: Path, stem: str) -> Path:
    for number in range(1, 10_000):
        path = parent / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir()
            return path
        except FileExistsError:  # two runs within a second
            continue
    raise StoreError(f"{parent} holds ten thousand runs of this very second")


def point_latest(parent: Path, target: str) -> None:
    """A convenience: a file system without links, or a folder of that name, is left as it is."""
    link = parent / "latest"
    temporary = link.with_name(f".latest-{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        temporary.replace(link)
    except OSError:
        temporary.unlink(missing_ok=True)


def _to_parquet(path: Path) -> Path:
    """The columns of a JSONL file. Lines that a kill cut short are left out, as everywhere."""
    import pyarrow.json
    import pyarrow.parquet

    lines = [line for line in path.read_bytes().splitlines(keepends=True) if _is_json(line)]
    data = b"".join(lines)
    options = pyarrow.json.ReadOptions(block_size=max(1 << 20, min(len(data) + 1, 1 << 30)))
    table = pyarrow.json.read_json(pyarrow.BufferReader(data), read_options=options)
    target = path.with_suffix(".parquet")
    with replacing(target) as temporary:
        pyarrow.parquet.write_table(table, temporary)
    return target


def damage(run: RunFolder) -> list[str]:
    """A line for each file that a kill cut short."""
    return [
        f"{run.path / name}: ends within a line, as a kill leaves it. That line is left out, all before it counts, the "
        "file is left as it is; nothing needs mending"
        for name in run.cut_short()
    ]


def _ends_with_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if file.read(1) in (b"", b"\n"):
            return True
        file.seek(0)
        return _is_json(deque(file, maxlen=1).pop())  # all of it but its end


def _trace_header(path: Path) -> dict[str, Any]:
    """The first that is whole; empty where there is none."""
    try:
        return next((record["header"] for record in read_records(path) if "header" in record), {})
    except ProbeError:
        return {}


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except msgspec.DecodeError:
        return False
    return True


def _replace(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place when all of it is written: readers see the old one or the new
    one."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
