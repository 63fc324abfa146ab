"""`device:`, `edge:` and `energy:` of a configuration, and how their shorthands become one engine each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema, field_validator, model_validator

from experiments.reading import Strict, unknown
from nodes.engine import EngineError
from nodes.engine.make import make_engine, parse
from nodes.limits import LEAST_SHARE
from nodes.policies.batch import make_batch
from nodes.probes import ProbeError, make_probe, parse_probe, probe_names
from nodes.probes.radio_model import declared_radio


def _spell(value: Any, info: ValidationInfo) -> Any:
    """A name becomes a mapping, and a model's relative path is taken from the configuration's folder."""
    spec = {"engine": value} if isinstance(value, str) else value
    name = spec.get("engine") if isinstance(spec, dict) else None
    return {**spec, "engine": located(name, _folder(info))} if isinstance(name, str) else spec


def located(engine: str, folder: Path) -> str:
    """The engine whose model's folder, if it is a relative one, begins there."""
    return f"hf:{Path(folder, engine.removeprefix('hf:')).resolve()}" if engine.startswith("hf:.") else engine


def _folder(info: ValidationInfo) -> Path:
    return Path((info.context or {}).get("folder", "."))


Spelled = Annotated[
    dict[str, Any],
    BeforeValidator(_spell),
    WithJsonSchema({"type": ["string", "object"]}),
]
"""An engine: its name, or a mapping `{engine: name, option: value}`."""


class ModelsSpec(Strict):
    draft: str
    target: str

    @field_validator("*")
    @classmethod
    def _folders_are_located(cls, value: str, info: ValidationInfo) -> str:
        return located(value, _folder(info))


class NodeSection(Strict):
    """What both nodes have. `pace`, `threads` and `dtype` may also stand in the engine's own mapping."""

    engine: Spelled | None = Field(default=None, description="bundled:draft, bundled:target, hf:<id or folder>, toy")
    pace: str | dict[str, Any] | None = Field(default=None, description="a compute profile's name, or its numbers")
    threads: int | None = Field(default=None, ge=1, le=1024, description="of the compute library; by default 1")
    dtype: str | None = None
    probes: list[str] = Field(
        default=[], description="each a name, or name:option=value,option=value; empty: all that work on this machine"
    )

    @field_validator("probes")
    @classmethod
    def _probes_can_be_made(cls, value: list[str]) -> list[str]:
        seen = set()
        for spec in value:
            name = check_probe(spec)
            if name in seen:
                raise ValueError(f"probe {name} is there twice: keep one of them")
            seen.add(name)
        return value


class DeviceSpec(NodeSection):
    """A device may be held to a part of this machine, so that a server stands in for a smaller one."""

    cpus: list[Annotated[int, Field(ge=0)]] = Field(default=[], description="the cores it may use; empty: all")
    cpu_share: float | None = Field(
        default=None, ge=LEAST_SHARE, description="of one core's time: 0.25 is a quarter of a core (cgroup v2 quota)"
    )
    cpu_max_mhz: float | None = Field(default=None, gt=0, description="the clock of its cores at most (cpufreq, root)")


class EdgeSpec(NodeSection):
    draft_engine: Spelled | None = Field(
        default=None, description="for systems that draft at the edge; default: the device's"
    )
    tensor_parallel: int | None = Field(
        default=None, ge=1, le=1024, description="processes that hold the target between them, one a GPU"
    )
    batch: str | dict[str, Any] = Field(default="immediate", description="when a forward fires: immediate, size, age")
    max_sessions: int = Field(default=256, ge=1)
    restarts: int = Field(default=1, ge=0, description="times the edge is started again if it dies")

    @field_validator("batch")
    @classmethod
    def _batch_can_be_made(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        make_batch(value)
        return value


class WattsSpec(Strict):
    """What the node's machine draws, from its datasheet or a plug meter. Without it nothing is estimated."""

    idle_w: float | None = Field(default=None, ge=0)
    full_w: float | None = Field(default=None, gt=0, description="all cores busy, or the paced machine computing")

    @model_validator(mode="after")
    def _both_or_neither(self) -> WattsSpec:
        if (self.idle_w is None) != (self.full_w is None):
            raise ValueError("idle_w and full_w are needed together: power is drawn between the two")
        if self.idle_w is not None and self.full_w is not None and self.idle_w > self.full_w:
            raise ValueError(f"idle_w ({self.idle_w:g}) is above full_w ({self.full_w:g}): exchange them")
        return self


class RadioSpec(Strict):
    """The device's radio, modelled: netem consumes no radio power. Nothing is assumed without it."""

    technology: Literal["", "lte", "wifi", "5g"] = Field(default="", description="whose published coefficients")
    coefficients: dict[str, float] = Field(default={}, description="that replace some, or are all of another radio")
    source: str = Field(default="", description="of the coefficients")
    unit_w: float | None = Field(default=None, description="5g: what the radio draws in deep sleep")
    tx_mbps: float | None = Field(default=None, description="5g: rate of the air while it sends")
    rx_mbps: float | None = Field(default=None, description="5g: rate of the air while it receives")

    @model_validator(mode="after")
    def _radio_can_be_made(self) -> RadioSpec:
        declared_radio(**self.model_dump())
        return self


class EnergySpec(Strict):
    device: WattsSpec = WattsSpec()
    edge: WattsSpec = WattsSpec()
    radio: RadioSpec | None = Field(default=None, description="of the device: {technology: lte}, say")
    baseline_s: float = Field(
        default=2.0, ge=0, le=600, description="of rest before and after the requests, where joules are measured"
    )
    carbon_kg_per_kwh: float | None = Field(default=None, ge=0, description="for emissions.csv; none is assumed")
    interval_ms: float = Field(default=50.0, ge=1, le=60_000, description="between two reads of the probes")

    @field_validator("radio", mode="before")
    @classmethod
    def _an_empty_mapping_is_no_radio(cls, value: Any) -> Any:
        return None if value == {} else value


def check_probe(spec: str) -> str:
    """The name of a probe that is told as `--probe` is, if there is one and takes these options. Raises ValueError."""
    name = spec.partition(":")[0]
    if name not in probe_names():
        raise ValueError(unknown("probe", name, probe_names()))
    try:
        make_probe(name, **parse_probe(spec)[1]).close()
    except ProbeError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # whatever a probe's own code says of a value that it cannot take
        raise ValueError(f"probe {spec}: {type(error).__name__}: {error}") from None
    return name


def engine_spec(
    node: NodeSection,
    both: dict[str, Any] | None,
    model: str | None,
    pace: str | dict[str, Any] | None,
    default: str,
    section: str,
) -> dict[str, Any]:
    """One engine from the node's section and the shorthands for both nodes. Raises ValueError where an option
    is given twice."""
    spec = dict(node.engine or both or {"engine": model or default})
    spelled = "engine" if node.engine is None and both else f"{section}.engine"
    for key, value, at in (
        ("pace", node.pace, f"{section}.pace"),
        ("pace", pace, "pace"),
        ("threads", node.threads, f"{section}.threads"),
        ("dtype", node.dtype, f"{section}.dtype"),
        ("tensor_parallel", getattr(node, "tensor_parallel", None), f"{section}.tensor_parallel"),
    ):
        if value is None:
            continue
        if spec.get(key) is not None:
            raise ValueError(f"{at} and {spelled}.{key} both say the same thing: keep one of them")
        spec[key] = value
    spec.setdefault("threads", 1)
    return spec


def check_engine(spec: dict[str, Any], role: Literal["draft", "target"], where: str) -> None:
    """What its owner can tell without loading a model. Raises ValueError naming the key."""
    try:
        if parse(spec, role).engine == "toy":
            make_engine(spec, role)  # tables: made in no time, and it checks its numbers itself
    except EngineError as error:
        raise ValueError(f"{where}: {str(error).removeprefix(f'{role}: ')}") from None
