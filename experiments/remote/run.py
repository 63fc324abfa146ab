"""One run on two machines: connect, deploy, check, tell, shape, run, collect; and take it all down, whatever happens.

The nodes are the ordinary ones; only where they run differs (see launch.Seat). Records are written over there and
fetched at the end, however that came; what cannot be fetched stays there, and the error says where.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from experiments.launch import Outcome, Progress, Seat, interrupt_as_exit, supervise
from experiments.locks import lock_holder, open_lock, try_lock
from experiments.remote.ask import ask, refuse, same_models
from experiments.remote.deploy import Place, deploy
from experiments.remote.inventory import HostSpec, HostsSpec, Role, bracketed
from experiments.remote.link import CONTROL_PORT, shaped_link
from experiments.remote.ssh import LocalHost, RemoteError, SshHost
from experiments.schema import Config
from netem.journal import undisturbed
from netem.lab import exit_on_sigterm
from nodes.runspec import RunSpec
from transport.keys import make_keys

KEYS_OF: dict[Role, tuple[str, ...]] = {
    "device": ("device.key", "device.pub", "edge.pub"),
    "edge": ("edge.key", "edge.pub", "devices.allow"),
}
NOT_RECORDS = ("run.json", "link.yaml", "keys", "*.pid", "*.log")  # logs come as they are written
NODE_ENDS_WITHIN_S = 20.0
HOSTS_FILE = "hosts.json"
Answer = TypeVar("Answer")


@dataclass
class Machine:
    """One of the two, from connecting to collecting."""

    role: Role
    host: LocalHost
    place: Place = field(default_factory=lambda: Place("", "", "", ""))
    facts: dict[str, Any] = field(default_factory=dict)

    def settle(self, run: str, folder: Path) -> None:
        """Make it ready for the run of this name. Raises RemoteError."""
        self.place = deploy(self.host, run, folder)

    def python(self, *words: str, text: str = "", within_s: float = 60.0) -> str:
        """Run our code there. Raises RemoteError."""
        return self.host.run([self.place.python, *words], self.place.source, text, within_s)


def run_on_hosts(config: Config, folder: Path, progress: Progress, outcome: Outcome) -> None:
    """As `launch.run_nodes`, on the two machines of `config.hosts`. Raises RemoteError besides LinkError, RunError."""
    assert config.hosts is not None
    run = f"{folder.name}-{secrets.token_hex(3)}"
    with exit_on_sigterm(), interrupt_as_exit(), _scratch() as scratch, opened(config.hosts, scratch) as machines:
        progress("connect", {})
        both(machines, lambda machine: machine.host.connect())
        with _removed_if_refused(machines):
            progress("deploy", {})
            both(machines, lambda machine: machine.settle(run, folder))
            _remember(config.hosts, machines, folder)
            progress("doctor", {})
            _examine(config, machines, outcome)
            _tell(config, _spec(config, machines), machines, folder, scratch)
        with _collected(machines, folder, outcome, progress), shaped_link(config, machines, folder, progress, outcome):
            seats = tuple(_seat(config, machine, scratch) for machine in machines)
            bind = f"tcp://{config.hosts.anywhere}:{config.hosts.edge.listen_port}"
            supervise(config, seats, bind, config.hosts.edge_address, folder, progress, outcome)  # type: ignore[arg-type]


def check_hosts(config: Config) -> list[dict[str, Any]]:
    """What both machines answer, as rows `{host, name, ok, detail, remedy}`; nothing is run there, and nothing left but
    the code. Raises RemoteError."""
    assert config.hosts is not None
    run = f"check-{secrets.token_hex(3)}"
    with _scratch() as scratch, opened(config.hosts, scratch) as machines:
        both(machines, lambda machine: machine.host.connect())
        with _removed_if_refused(machines):
            both(machines, lambda machine: machine.settle(run, scratch))
            answers = both(machines, lambda machine: ask(config, machine.role, machine.host, machine.place))
        both(machines, remove)
    return [{"host": m.host.where, **check} for m, answer in zip(machines, answers) for check in answer["checks"]]


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """While the block lasts nobody else fetches what this run records. Raises RemoteError where somebody does."""
    path = folder / HOSTS_FILE
    with open_lock(path) as lock:
        if not try_lock(lock):
            pid = lock_holder(path) or "PID"
            raise RemoteError(
                f"{folder}: process {pid} is at work on this run, and fetches its records at the end: wait for it, or "
                f"stop it (kill {pid})"
            )
        yield


# Both at once ---------------------------------------------------------------------------------------------------------


@contextmanager
def opened(hosts: HostsSpec, scratch: Path) -> Iterator[list[Machine]]:
    """The two machines, device first; their connections end with the block."""
    machines = [Machine(role, make_host(role, spec, scratch)) for role, spec in hosts]
    try:
        yield machines
    finally:
        with undisturbed():
            for machine in machines:
                machine.host.close()


def both(machines: list[Machine], work: Callable[[Machine], Answer]) -> list[Answer]:
    """The same on both at once. Raises RemoteError with what either says. An interrupt ends the connections first, so
    that nothing is waited for."""
    with ThreadPoolExecutor(len(machines)) as pool:
        futures = [pool.submit(work, machine) for machine in machines]
        try:
            errors = [error for future in futures if (error := future.exception()) is not None]
        except BaseException:
            for machine in machines:
                machine.host.close()
            raise
    unforeseen = next((error for error in errors if not isinstance(error, RemoteError)), None)
    if errors:
        raise unforeseen or RemoteError("\n".join(str(error) for error in errors))
    return [future.result() for future in futures]


def make_host(role: Role, spec: HostSpec, scratch: Path) -> LocalHost:
    return LocalHost(role, spec) if spec.local else SshHost(role, spec, scratch)


@contextmanager
def _scratch() -> Iterator[Path]:
    """Sockets and keys: the path of a socket has to be short."""
    with tempfile.TemporaryDirectory(prefix="dssd-", dir="/tmp") as folder:
        yield Path(folder)


# Before ---------------------------------------------------------------------------------------------------------------


@contextmanager
def _removed_if_refused(machines: list[Machine]) -> Iterator[None]:
    """Nothing has been recorded yet, so nothing is kept over there."""
    try:
        yield
    except BaseException:
        with undisturbed():
            for machine in machines:
                with suppress(RemoteError):
                    remove(machine)
        raise


def _examine(config: Config, machines: list[Machine], outcome: Outcome) -> None:
    """Ask both what they are and have; refuse what cannot work, keep what is only to be known."""
    answers = both(machines, lambda machine: ask(config, machine.role, machine.host, machine.place))
    for machine, answer in zip(machines, answers):
        machine.facts = answer["facts"]
        outcome.hosts[machine.role] = {"where": machine.host.where, **answer}
    refuse({machine.host.where: answer["checks"] for machine, answer in zip(machines, answers)})
    same_models(machines[0].facts, machines[1].facts)


def _spec(config: Config, machines: list[Machine]) -> RunSpec:
    """What both nodes are told: the same file, with every model under the name it has on the host that loads it."""
    spec = config.to_runspec()
    device, edge = (machine.host.spec.models for machine in machines)
    boots = {machine.facts["machine"]["boot_id"] for machine in machines}
    draft = spec.edge.draft_engine and renamed(spec.edge.draft_engine, edge)
    return msgspec.structs.replace(
        spec,
        shared_machine=len(boots) == 1,
        device=msgspec.structs.replace(spec.device, engine=renamed(spec.device.engine, device)),
        edge=msgspec.structs.replace(spec.edge, engine=renamed(spec.edge.engine, edge), draft_engine=draft),
    )


def renamed(engine: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {**engine, "engine": names.get(engine["engine"], engine["engine"])}


def _tell(config: Config, spec: RunSpec, machines: list[Machine], folder: Path, scratch: Path) -> None:
    """run.json and each one's keys, which leave this machine by ssh only and are gone from it afterwards."""
    told = msgspec.json.format(msgspec.json.encode(spec), indent=1)
    (folder / "run.json").write_bytes(told)
    if config.transport.security == "curve":
        make_keys(scratch / "all")
    for machine in machines:
        stage = scratch / machine.role
        (stage / "keys").mkdir(parents=True, mode=0o700)
        (stage / "run.json").write_bytes(told)
        if config.transport.security == "curve":
            for name in KEYS_OF[machine.role]:
                shutil.copy2(scratch / "all" / name, stage / "keys" / name)
    both(machines, lambda machine: _send(machine, scratch / machine.role))


def _send(machine: Machine, stage: Path) -> None:
    if isinstance(machine.host, SshHost):
        machine.host.put(stage, machine.place.folder)


def _seat(config: Config, machine: Machine, scratch: Path) -> Seat:
    host, place = machine.host, machine.place
    at_home = not isinstance(host, SshHost)
    keys = scratch / machine.role / "keys" if at_home else Path(place.folder, "keys")
    words = ["--spec", f"{place.folder}/run.json", "--out", place.folder]
    words += ["--keys", str(keys)] if config.transport.security == "curve" else []
    words += _device_words(config, host.spec) if machine.role == "device" else _edge_words(config)
    return Seat(
        machine.role,
        place.python,
        words,
        wrap=lambda argv: host.wrap(["env", "HF_HUB_OFFLINE=1", *argv], place.source),
        leashed=not at_home,
        lost=lambda: _cut_off(machine) if host.lost(within_s=1.0) else "",
    )


def _device_words(config: Config, spec: HostSpec) -> list[str]:
    assert config.hosts is not None
    edge = config.hosts.edge
    words = ["--interface", spec.interface] if spec.interface else []
    if edge.control_address and edge.control_port:
        return [*words, "--control", f"tcp://{bracketed(edge.control_address)}:{edge.control_port}"]
    if config.link.is_shaped:
        port = edge.control_port or CONTROL_PORT
        return [*words, "--control", f"tcp://{config.hosts.edge_address}:{port}", "--control-exempt"]
    return words


def _edge_words(config: Config) -> list[str]:
    assert config.hosts is not None
    port = config.hosts.edge.control_port or (CONTROL_PORT if config.link.is_shaped else 0)
    return ["--control", f"tcp://{config.hosts.anywhere}:{port}"]


def _cut_off(machine: Machine) -> str:
    return (
        f"{machine.role} host {machine.host.where}: the connection was lost during the run; its node ends by itself. "
        "Remedy: look at network and power there, and run again"
    )


# After ----------------------------------------------------------------------------------------------------------------


def _remember(hosts: HostsSpec, machines: list[Machine], folder: Path) -> None:
    """What `dssd remote collect` needs, should this process not come to it."""
    places = {machine.role: msgspec.to_builtins(machine.place) for machine in machines}
    content = {"hosts": hosts.model_dump(mode="json"), "places": places}
    (folder / HOSTS_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _collected(machines: list[Machine], folder: Path, outcome: Outcome, progress: Progress) -> Iterator[None]:
    """However the block ends, records are fetched. Raises RemoteError for what could not be, after the block's own;
    how the run itself ended is then told by the event `not_collected`."""
    try:
        yield
    except BaseException as failure:
        itself = f"failed: {failure}" if isinstance(failure, Exception) else outcome.status
        problems = _collect(machines, folder, outcome, progress, itself)
        if problems and isinstance(failure, Exception):
            raise RemoteError("\n".join([str(failure), *problems])) from failure
        print("\n".join(problems), file=sys.stderr)
        raise
    if problems := _collect(machines, folder, outcome, progress, "complete"):
        raise RemoteError("\n".join(problems))


def _collect(machines: list[Machine], folder: Path, outcome: Outcome, progress: Progress, itself: str) -> list[str]:
    progress("collect", {})
    problems = []
    with undisturbed():
        for machine in machines:
            try:
                fetch(machine, folder)
                remove(machine)
            except RemoteError as error:
                problems.append(
                    f"{error}\n  what the {machine.role} recorded is still there, in {machine.place.folder}; "
                    f"once the host answers: dssd remote collect {folder}"
                )
                event = {"event": "not_collected", "role": machine.role, "why": str(error), "run": itself}
                outcome.events.append(event)
    return problems


def fetch(machine: Machine, folder: Path) -> None:
    """One node's records, when it has ended. Raises RemoteError."""
    host, place = machine.host, machine.place
    if not isinstance(host, SshHost):
        return
    if host.lost():
        host.connect()
    machine.python("-m", "experiments.remote.ended", place.folder, machine.role, str(NODE_ENDS_WITHIN_S))
    host.fetch(place.folder, folder, NOT_RECORDS)


def remove(machine: Machine) -> None:
    """What the run put there, records included."""
    if isinstance(machine.host, SshHost) and machine.place.folder:
        machine.host.run(["rm", "-rf", machine.place.folder])


def collect_again(folder: Path, arrived: Callable[[Role], None]) -> list[str]:
    """For a run whose records could not be fetched when it ended; what was fetched, in words. `arrived` is called for
    each node's before they are removed there. Raises RemoteError, for a run that is still going on too."""
    path = folder / HOSTS_FILE
    if not path.is_file():
        raise RemoteError(f"{folder} has no {HOSTS_FILE}: it is not a run on two machines")
    with held(folder), _scratch() as scratch:
        told = path.read_text(encoding="utf-8")
        if not told:
            raise RemoteError(f"{folder}: the run ended before anything could be recorded on its machines")
        content = json.loads(told)
        with opened(HostsSpec.model_validate(content["hosts"]), scratch) as machines:
            for machine in machines:
                machine.place = Place(**content["places"][machine.role])
            return [line for machine in machines if (line := _collect_one(machine, folder, arrived))]


def _collect_one(machine: Machine, folder: Path, arrived: Callable[[Role], None]) -> str:
    """Empty for this very machine, which has them already."""
    if not isinstance(machine.host, SshHost):
        return ""
    machine.host.connect()
    state = machine.host.run(["sh", "-c", 'test -d "$1" && echo there || echo gone', "sh", machine.place.folder])
    if state.strip() == "gone":
        return f"{machine.role}: nothing is left at {machine.host.where}"
    fetch(machine, folder)
    arrived(machine.role)
    remove(machine)
    return f"{machine.role}: fetched from {machine.host.where}:{machine.place.folder}"
