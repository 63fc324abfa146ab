"""The configuration of an experiment: every key there is, with its default.

    config = load_config(Path("experiments/configs/quickstart.yaml"), ["draft_length=6"])
    config.resolved()     # everything filled in, no shorthand left; saved with the results, reads back alike
    config.to_runspec()   # what the two node processes are told

A section that belongs to somebody (`link`, an engine, a system's parts) is checked by its owner.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from itertools import product
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from experiments.nodes_section import (
    DeviceSpec,
    EdgeSpec,
    EnergySpec,
    ModelsSpec,
    Spelled,
    check_engine,
    engine_spec,
)
from experiments.reading import NAME, ConfigError, Strict, explain, link_by_name, override, read_yaml
from experiments.remote.inventory import HostsSpec
from experiments.sweep.section import SweepSection
from experiments.systems_section import SystemEntry, as_entry
from experiments.workloads import WorkloadSpec
from netem.spec import DIRECTIONS, LinkSpec
from nodes.composition import System, system_names
from nodes.engine.make import known_vocab_size
from nodes.methods import method_class
from nodes.runspec import NodeSpec, ProbeSpec, Prompt, RunSpec, Timing
from nodes.sampling import Sampling

__all__ = ["Config", "ConfigError", "config_id", "json_schema", "load_config"]

UNLIMITED_RATE_MBPS = Timing().rate_mbps


class SamplingSpec(Strict):
    """How both models' distributions are processed before anything is drawn from them."""

    temperature: float = Field(default=1.0, ge=0, description="0: greedy")
    top_k: int = Field(default=0, ge=0, description="0: off")
    top_p: float = Field(default=1.0, gt=0, le=1, description="1: off")


class TransportSpec(Strict):
    security: Literal["curve", "plain"] = "curve"
    retry_after_s: float = Field(
        default=Timing().retry_after_s, gt=0, description="silence after which a round is asked again"
    )
    give_up_after_s: float = Field(default=Timing().give_up_after_s, gt=0)

    @model_validator(mode="after")
    def _retries_before_it_gives_up(self) -> TransportSpec:
        if self.give_up_after_s < self.retry_after_s:
            raise ValueError(
                f"give_up_after_s ({self.give_up_after_s:g}) is shorter than retry_after_s "
                f"({self.retry_after_s:g}), so nothing would ever be retried: raise it"
            )
        return self


class Config(Strict):
    """One experiment. Times and sizes carry their unit in the key's name."""

    name: str = Field(pattern=NAME, description="of the folder under results/; by default the file's name")
    seed: int = Field(default=0, ge=0, description="of every coin; the same seed gives the same tokens")
    systems: list[Annotated[SystemEntry, BeforeValidator(as_entry)]] = Field(min_length=1)
    sampling: SamplingSpec = SamplingSpec()
    draft_length: int | None = Field(
        default=None, ge=1, le=256, description="of all systems with a fixed one of their own"
    )
    models: ModelsSpec | None = Field(default=None, description="short for device.engine and edge.engine")
    engine: Spelled | None = Field(default=None, description="short for the same engine on both nodes, as toy")
    pace: str | dict[str, Any] | None = Field(default=None, description="short for the same pace on both nodes")
    device: DeviceSpec = DeviceSpec()
    edge: EdgeSpec = EdgeSpec()
    workload: WorkloadSpec = WorkloadSpec()
    link: Annotated[LinkSpec, BeforeValidator(link_by_name)] = Field(
        default=LinkSpec(), description="a mapping, or the name of a profile; by default not shaped"
    )
    repeats: int = Field(default=1, ge=1, description="of every prompt, each with its own coins")
    warmup: int = Field(default=1, ge=0, description="requests per system that are not counted")
    energy: EnergySpec = EnergySpec()
    transport: TransportSpec = TransportSpec()
    hosts: HostsSpec | None = Field(default=None, description="two machines, or the file that names them")

    @field_validator("hosts", mode="before")
    @classmethod
    def _hosts_by_file(cls, value: Any, info: ValidationInfo) -> Any:
        folder = (info.context or {}).get("folder", ".")
        return read_yaml(Path(folder, value)) if isinstance(value, str) else value

    @field_validator("link")
    @classmethod
    def _link_lets_something_through(cls, value: LinkSpec) -> LinkSpec:
        for which in DIRECTIONS:
            loss_pct = value.direction(which).long_term_loss_pct
            if loss_pct >= 100:
                raise ValueError(f"{which} loses everything ({loss_pct:g} %), so no request could ever end: lower it")
        return value

    @model_validator(mode="after")
    def _shorthand_stands_alone(self) -> Config:
        """A shorthand beside what it stands for is an error: neither is guessed to be the one meant."""
        spelled = {
            "engine": ["models", "device.engine", "edge.engine"],
            "models": ["device.engine", "edge.engine"],
            "pace": ["device.pace", "edge.pace"],
        }
        for short, longs in spelled.items():
            for long in longs:
                if None not in (getattr(self, short), attrgetter(long)(self)):
                    raise ValueError(f"{short} and {long} both say the same thing: keep one of them")
        return self

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Config:
        names = [system.name for system in self.compositions]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise ValueError(f"systems: {twice} is there twice; give one of them a name of its own: `as: {twice}_2`")
        for where, spec, role in self._engines:
            check_engine(spec, role, where)
            self._require_widths(known_vocab_size(spec, role))
        self._require_time_to_survive()
        if self.energy.radio and self.hosts and self.hosts.device.interface is None:
            raise ValueError("energy.radio pays for the bytes of hosts.device.interface: name the interface there")
        self.prompts  # noqa: B018  read now, so that what is wrong with them is an error of the configuration
        return self

    def _require_time_to_survive(self) -> None:
        """What cuts the link has to end before the device gives up, and to be played where there is a player."""
        give_up_s = self.transport.give_up_after_s
        for outage in self.link.outages:
            if outage.for_s >= give_up_s:
                raise ValueError(
                    f"link.outages: one lasts {outage.for_s:g} s, and after {give_up_s:g} s of silence the device gives"
                    f" up: shorten it, or raise transport.give_up_after_s"
                )
        if self.hosts is not None and self.link.changes_while_it_runs:
            raise ValueError(
                "link.trace and link.outages are played in a lab of one machine, and hosts names two: leave out hosts,"
                " or the trace and the outages"
            )

    def _require_widths(self, vocab_size: int | None) -> None:
        if vocab_size is not None:
            for system in self.compositions:
                system.require_width(vocab_size)

    # What it comes to ---------------------------------------------------------------------------------------

    @cached_property
    def compositions(self) -> list[System]:
        return [entry.compose(self.draft_length) for entry in self.systems]

    @cached_property
    def prompts(self) -> list[Prompt]:
        """A prompt a request, all ids distinct."""
        return self.workload.load()

    @cached_property
    def device_engine(self) -> dict[str, Any]:
        model = self.models.draft if self.models else None
        return engine_spec(self.device, self.engine, model, self.pace, "bundled:draft", "device")

    @cached_property
    def edge_engine(self) -> dict[str, Any]:
        model = self.models.target if self.models else None
        return engine_spec(self.edge, self.engine, model, self.pace, "bundled:target", "edge")

    @cached_property
    def edge_draft_engine(self) -> dict[str, Any] | None:
        """The edge's own draft model: the device's, where a system drafts at the edge and none is named."""
        if self.edge.draft_engine is not None:
            return dict(self.edge.draft_engine)
        at_edge = any(method_class(system.method).edge_drafts for system in self.compositions)
        return dict(self.device_engine) if at_edge else None

    @property
    def _engines(self) -> list[tuple[str, dict[str, Any], Literal["draft", "target"]]]:
        engines: list[tuple[str, dict[str, Any], Literal["draft", "target"]]] = [
            ("device.engine", self.device_engine, "draft"),
            ("edge.engine", self.edge_engine, "target"),
        ]
        if self.edge_draft_engine is not None:
            engines.append(("edge.draft_engine", self.edge_draft_engine, "draft"))
        return engines

    @property
    def timing(self) -> Timing:
        """What sockets and retries are scaled from: slower rate, larger loss, round trip with its jitter."""
        up, down = self.link.up, self.link.down
        return Timing(
            rtt_ms=max(1.0, up.longest_delay_ms + down.longest_delay_ms + up.jitter_ms + down.jitter_ms),
            rate_mbps=min(up.slowest_mbps or UNLIMITED_RATE_MBPS, down.slowest_mbps or UNLIMITED_RATE_MBPS),
            loss_pct=max(up.long_term_loss_pct, down.long_term_loss_pct),
            retry_after_s=self.transport.retry_after_s,
            give_up_after_s=self.transport.give_up_after_s,
        )

    def to_runspec(self) -> RunSpec:
        def probes(node: Literal["device", "edge"]) -> ProbeSpec:
            watts = getattr(self.energy, node)
            radio = self.energy.radio.model_dump() if self.energy.radio and node == "device" else {}
            return ProbeSpec(getattr(self, node).probes, self.energy.interval_ms, watts.idle_w, watts.full_w, radio)

        return RunSpec(
            name=self.name,
            systems=self.compositions,
            sampling=Sampling(**self.sampling.model_dump(), seed=self.seed),
            device=NodeSpec(
                self.device_engine,
                probes("device"),
                cpus=self.device.cpus,
                cpu_share=self.device.cpu_share,
                cpu_max_mhz=self.device.cpu_max_mhz,
            ),
            edge=NodeSpec(
                self.edge_engine,
                probes("edge"),
                self.edge_draft_engine,
                self.edge.batch,
                self.edge.max_sessions,
            ),
            prompts=self.prompts,
            max_new_tokens=self.workload.max_new_tokens,
            stop=self.workload.stop,
            ignore_eos=self.workload.ignore_eos,
            repeats=self.repeats,
            warmup=self.warmup,
            timing=self.timing,
            shaped=self.link.is_shaped,
            baseline_s=self.energy.baseline_s,
        )

    def resolved(self) -> dict[str, Any]:
        """Plain YAML values; `load_config` of them gives this configuration again."""
        plain: dict[str, Any] = self.model_dump(mode="json", exclude={"draft_length", "models", "engine", "pace"})
        plain["systems"] = [e.spell_out(system) for e, system in zip(self.systems, self.compositions)]
        for node, short in product(("device", "edge"), ("pace", "threads", "dtype")):
            del plain[node][short]
        del plain["edge"]["tensor_parallel"]
        plain["device"] |= {"engine": self.device_engine}
        plain["edge"] |= {"engine": self.edge_engine, "draft_engine": self.edge_draft_engine}
        plain["workload"]["sha256"] = self.workload.file_sha256
        for which in DIRECTIONS:
            if (trace := self.link.direction(which).trace) is not None:
                plain["link"][which]["trace"]["sha256"] = trace.file_sha256
        if self.hosts is None:
            del plain["hosts"]
        return msgspec.to_builtins(plain)


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration in a YAML file, with `--set` overrides (`section.key=value`, values are YAML).

    Relative paths are taken from the file's folder. Raises ConfigError.
    """
    path = Path(path)
    data = read_yaml(path)
    data.setdefault("name", path.stem)
    return _checked(data, overrides, str(path), path.resolve().parent)


def open_config(overrides: Sequence[str] = ()) -> Config:
    """For an edge that is told nothing: every published system, on the bundled target. Raises ConfigError."""
    return _checked({"name": "edge", "systems": system_names()}, overrides, "no configuration", Path.cwd())


def _checked(data: dict[str, Any], overrides: Sequence[str], where: str, folder: Path) -> Config:
    for setting in overrides:
        override(data, setting)
    if "sweep" in data:
        raise ConfigError(f"{where}: has a `sweep:`, so it is many experiments; only `dssd run` takes it")
    try:
        return Config.model_validate(data, context={"folder": folder})
    except ValidationError as error:
        lines = explain(error, Config, overrides)
        raise ConfigError("\n".join(f"{where}: {line}" for line in lines)) from None


def config_id(resolved: dict[str, Any]) -> str:
    """8 hex digits that differ where two resolved configurations do."""
    return hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()[:8]


def json_schema() -> dict[str, Any]:
    """For editors: completes and checks a configuration while it is written."""
    schema = Config.model_json_schema(by_alias=True)
    sweep = SweepSection.model_json_schema(by_alias=True)
    return {**schema, "properties": {**schema["properties"], "sweep": sweep}}
