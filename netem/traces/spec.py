"""`trace:` and `outages:` of a link: which file, how it is played, when the link is cut."""

from __future__ import annotations

import hashlib
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from netem.impairments import Strict
from netem.traces.files import Format, Side, parse_trace, read_content
from netem.traces.trace import Point, Trace

FASTEST_S = 0.01  # changes closer together would be late, each takes about a millisecond


class TraceSpec(Strict):
    """A direction's trace. Its time begins as `link.clock` says; until then its first point holds.

    The file is read once, when the configuration is: what is checked, played, pinned and kept is the same.
    """

    file: str = Field(description="a relative path is taken from the configuration's folder")
    side: Side = Field(default="up", description="whose columns of a csv; by default the direction's own")
    format: Format | None = Field(default=None, description="None: told by the first line, see `dssd netem trace show`")
    loop: bool = Field(default=True, description="begin again at the end; false: the last point goes on")
    offset_s: float = Field(default=0.0, ge=0, description="of the trace's own time, where playing begins")
    speed: float = Field(default=1.0, gt=0, le=1000, description="2: twice as fast")
    step_ms: float = Field(default=100.0, ge=10, le=10_000, description="what a Mahimahi trace is averaged over")
    sha256: str | None = Field(default=None, description="of the file, to be told if it is another one")

    @field_validator("file")
    @classmethod
    def _file_from_the_folder(cls, value: str, info: ValidationInfo) -> str:
        return str(Path((info.context or {}).get("folder", "."), Path(value).expanduser()).resolve())

    @cached_property
    def content(self) -> bytes:
        return read_content(Path(self.file))

    @cached_property
    def trace(self) -> Trace:
        return _parsed(self.file, self.content, self.format, self.side, self.step_ms)

    @cached_property
    def file_sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def start(self) -> Point:
        """The first point, from `offset_s` on, that lets anything through: what the check measures."""
        return next(point for _, point in self.trace.changes(self.loop, self.offset_s) if point.lets_through)

    @model_validator(mode="after")
    def _can_be_played(self) -> TraceSpec:
        if self.sha256 is not None and self.sha256 != self.file_sha256:
            raise ValueError(
                f"trace {self.file} is not the file this configuration was written for (its sha256 is"
                f" {self.file_sha256}, not {self.sha256}): bring that back, or remove sha256 to use this"
            )
        trace = self.trace
        if self.offset_s >= trace.period_s:
            raise ValueError(f"trace {self.file}: offset_s ({self.offset_s:g}) is beyond its {trace.period_s:g} s")
        if not any(point.lets_through for point in trace.points):
            raise ValueError(f"trace {self.file}: lets nothing through at any time")
        if not self.loop and not any(point.lets_through for _, point in trace.changes(False, self.offset_s)):
            raise ValueError(
                f"trace {self.file}: lets nothing through from offset_s ({self.offset_s:g}) on, and is not to begin"
                " again: begin earlier, or leave loop out"
            )
        if len(trace.points) > 1 and trace.finest_s / self.speed < FASTEST_S - 1e-9:
            raise ValueError(
                f"trace {self.file}: changes every {1e3 * trace.finest_s / self.speed:.3g} ms, faster than the"
                f" {1e3 * FASTEST_S:g} ms in which the link can follow: lower speed, or thin the trace out"
            )
        return self


class OutageSpec(Strict):
    """The link is cut, and mended after `for_s`. Times count as `link.clock` says."""

    at_s: float = Field(ge=0)
    for_s: float = Field(gt=0)
    direction: Literal["both", "up", "down"] = "both"

    @property
    def directions(self) -> tuple[Side, ...]:
        return ("up", "down") if self.direction == "both" else (self.direction,)


@lru_cache(maxsize=16)
def _parsed(file: str, content: bytes, format: Format | None, side: Side, step_ms: float) -> Trace:
    return parse_trace(Path(file), content, format, side, step_ms)
