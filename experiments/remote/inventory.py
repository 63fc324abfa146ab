"""`hosts:` of a configuration: on which machine each node runs, and how to get there.

    hosts:
      device: {address: jetson.lan, user: ada, python: ~/venv/bin/python, interface: eth0, sudo: passwordless}
      edge:   {address: 10.0.0.7, link_address: 192.168.7.1, interface: enp3s0}

The same mapping may be a file of its own: `hosts: lab.yaml`, or `dssd run CONFIG --hosts lab.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, field_validator, model_validator

from experiments.reading import Strict

Role = Literal["device", "edge"]
ROLES: tuple[Role, ...] = ("device", "edge")
HERE_MEANS_NOTHING = ("address", "port", "user", "identity", "ssh_config")


def bracketed(address: str) -> str:
    """As it stands before a port or a path: an IPv6 address has colons of its own."""
    return f"[{address}]" if ":" in address else address


class HostSpec(Strict):
    """A machine as the system's own ssh knows it. What is not named is taken from ~/.ssh/config, as ssh does."""

    local: bool = Field(default=False, description="this very machine: no ssh, nothing deployed")
    address: str | None = Field(default=None, description="host name, address or alias of ~/.ssh/config")
    port: int | None = Field(default=None, ge=1, le=65535, description="of its ssh server")
    user: str | None = None
    identity: str | None = Field(default=None, description="file of the private key")
    ssh_config: str | None = Field(default=None, description="a file for `ssh -F`, in place of ~/.ssh/config")
    python: str | None = Field(
        default=None, description="with the dependencies; ~ is the home over there; default: python3"
    )
    workdir: str = Field(default="~/.dssd", description="over there, for code and records")
    link_address: str | None = Field(
        default=None, description="on the path between the nodes, where it is another than `address`"
    )
    interface: str | None = Field(default=None, description="on that path; needed to shape it and to count its bytes")
    sudo: Literal["no", "passwordless"] = Field(default="no", description="how tc gets its rights; root needs none")
    models: dict[str, str] = Field(default={}, description="engines under another name there: {hf:mine: hf:/data/mine}")

    @field_validator("address", "user", "link_address", "interface", "python", "workdir")
    @classmethod
    def _is_no_option(cls, value: str | None) -> str | None:
        if value is not None and (not value or value.startswith("-") or any(c.isspace() for c in value)):
            raise ValueError(f"{value!r} is no name: it must not be empty, begin with '-' or hold a space")
        return value

    @model_validator(mode="after")
    def _is_somewhere(self) -> HostSpec:
        given = [key for key in HERE_MEANS_NOTHING if getattr(self, key) is not None]
        if self.local and given:
            raise ValueError(f"local: true is this machine, so {', '.join(given)} mean nothing: remove them or `local`")
        if not self.local and self.address is None:
            raise ValueError("a host needs an address, as ssh knows it, or `local: true`")
        return self

    @property
    def where(self) -> str:
        """For messages."""
        return "this machine" if self.local else f"{self.user}@{self.address}" if self.user else str(self.address)


class EdgeHostSpec(HostSpec):
    listen_port: int = Field(default=0, ge=0, le=65535, description="of the edge node; 0: any free one")
    control_port: int = Field(default=0, ge=0, le=65535, description="of the line that compares the clocks")
    control_address: str | None = Field(
        default=None, description="by which the device reaches the edge besides the shaped path, if it does"
    )


class HostsSpec(Strict):
    """Both machines."""

    device: HostSpec
    edge: EdgeHostSpec

    @model_validator(mode="after")
    def _are_two(self) -> HostsSpec:
        if self.device.local and self.edge.local:
            raise ValueError("both nodes are local: leave `hosts` away, and the link is built on this machine")
        if self.edge.local and self.edge.link_address is None:
            raise ValueError("edge is local, so the device has to be told how to reach it: give edge.link_address")
        return self

    def __iter__(self) -> Iterator[tuple[Role, HostSpec]]:  # type: ignore[override]
        for role in ROLES:
            yield role, getattr(self, role)

    @property
    def edge_address(self) -> str:
        """Where the device finds the edge, as it stands before a port."""
        return bracketed(str(self.edge.link_address or self.edge.address))

    @property
    def anywhere(self) -> str:
        """Every address of the edge's machine, of the kinds that the device knows of."""
        known = [self.edge_address, self.edge.control_address or ""]
        return "[::]" if any(":" in address for address in known) else "0.0.0.0"
