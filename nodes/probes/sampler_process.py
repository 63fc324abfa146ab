"""A node's sampler in a process of its own: it shares neither the node's interpreter nor what the node is held to.

    node                                    its sampler (no torch, no zmq)
      {out, probes, ...} and busy words ─►    tries the probes, samples
                         ◄─ {energy_source}
      the end of its side ─►                   reads once more, writes the footer
                         ◄─ {footer}

It ends when the node's side of the line does, so a killed node takes its sampler along and loses nothing of the trace.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from nodes.busy import BusyTime
from nodes.probes import EnergySource, ProbeError, make_probe
from nodes.probes.sampler import Sampler

log = logging.getLogger("dssd.sampler")
TRIALS_WITHIN_S = 60.0  # a plug that does not answer takes its time, and so does a loaded machine
STOP_WITHIN_S = 15.0
LONGEST_LINE = 1 << 22
MOST_ENGINES = 16  # of one node
ROOT = str(Path(__file__).resolve().parents[2])


class SamplerProcess:
    """Made before the models are loaded: its interpreter starts meanwhile, and it keeps the cores, the quota and the
    network namespace that this process has now. Also a context manager, which stops it."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.footer: dict[str, Any] = {}
        self._line, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", f"import sys; sys.path.append({ROOT!r}); import {__name__} as it; it.main()"],
                stdin=theirs.fileno(),
                stdout=2,  # this process's own output is its launcher's
            )

    def start(
        self,
        out: Path,
        probes: Mapping[str, Mapping[str, Any]],
        interval_ms: float,
        *,
        required: Collection[str] = (),
        paced: bool = False,
        shared: bool = False,
        busy: Mapping[str, BusyTime] | None = None,
    ) -> EnergySource:
        """Sampling has begun when this returns; the trace is in `out`. `busy`, by engine, is handed to the probe
        paced_model.

        Raises ProbeError for an unknown probe or option and for a `required` one that cannot be read here, OSError
        where the trace cannot be written.
        """
        asked = {
            "node": self.node, "out": str(out), "probes": probes, "interval_ms": interval_ms,
            "required": sorted(required), "paced": paced, "shared": shared, "busy": list(busy or ()),
        }  # fmt: skip
        message = json.dumps(asked).encode() + b"\n"
        self._line.settimeout(TRIALS_WITHIN_S)
        try:
            sent = socket.send_fds(self._line, [message], [word.fd for word in (busy or {}).values()])
            self._line.sendall(message[sent:])
            answer = json.loads(_read_line(self._line) or b"{}")
        except (TimeoutError, ConnectionError) as error:
            raise ProbeError(f"{self.node}: the sampler does not answer ({error}); its log is this node's") from None
        if "failed" in answer:
            raise _ERRORS[answer["failed"]](*answer["arguments"])
        if not answer:
            raise ProbeError(f"{self.node}: the sampler ended with code {self.process.wait()}; its log is this node's")
        source = answer["energy_source"]
        return EnergySource(tuple(source["probes"]), source["status"], source["reason"])

    def stop(self) -> dict[str, Any]:
        """The last reads and the footer, which is returned; empty if sampling never began. Idempotent.

        Raises OSError if a part of the trace could not be written. A sampler that was killed costs the rest of its
        trace, which then has no footer, and not the run.
        """
        if self._line.fileno() < 0:
            return self.footer
        answer: dict[str, Any] = {}
        self._line.settimeout(STOP_WITHIN_S)
        try:
            self._line.shutdown(socket.SHUT_WR)
            answer = json.loads(_read_line(self._line) or b"{}")
            code = self.process.wait(STOP_WITHIN_S)
        except (TimeoutError, ConnectionError, subprocess.TimeoutExpired):
            self.process.kill()
            code = self.process.wait()
        finally:
            self._line.close()
        if "failed" in answer:
            raise _ERRORS[answer["failed"]](*answer["arguments"])
        if code:
            log.error("the sampler of the %s ended with code %d: its trace ends before the node did", self.node, code)
        self.footer = answer.get("footer", {})
        return self.footer

    def __enter__(self) -> SamplerProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


_ERRORS: dict[str, type[Exception]] = {"OSError": OSError, "ProbeError": ProbeError}


def _read_line(line: socket.socket, first: bytes = b"") -> bytes:
    """Up to a newline, or what there was of one when the other side ended."""
    data = first
    while not data.endswith(b"\n") and len(data) < LONGEST_LINE:
        more = line.recv(1 << 16)
        if not more:
            break
        data += more
    return data


def main() -> None:
    """What runs in the process. SIGINT and SIGTERM are the node's to answer: this follows when it has ended."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    line = socket.socket(fileno=0)

    def answer(message: dict[str, Any]) -> None:
        try:
            line.sendall(json.dumps(message).encode() + b"\n")
        except BrokenPipeError:  # the node was killed: the trace is written all the same
            return

    try:
        first, fds, _, _ = socket.recv_fds(line, 1 << 16, MOST_ENGINES)
        asked = json.loads(_read_line(line, first) or b"{}")
        if not asked:
            return
        options: dict[str, dict[str, Any]] = asked["probes"]
        if fds and "paced_model" in options:
            options["paced_model"]["busy_s"] = {name: BusyTime(fd).seconds for name, fd in zip(asked["busy"], fds)}
        probes = [make_probe(name, **given) for name, given in options.items()]
        flags = {"paced": asked["paced"], "shared": asked["shared"]}
        sampler = Sampler(probes, asked["node"], Path(asked["out"]), asked["interval_ms"], **flags)
        for finding in sampler.findings:
            if finding.probe in asked["required"] and not finding.usable:
                raise ProbeError(
                    f"probe {finding.probe} was asked for and is {finding.status}: {finding.detail}. "
                    f"Remedy: {finding.remedy}"
                )
        with sampler:
            source = sampler.energy_source
            answer({"energy_source": {"probes": source.probes, "status": source.status, "reason": source.reason}})
            while line.recv(1 << 10):
                continue
        answer({"footer": sampler.footer})
    except (OSError, ProbeError) as error:
        kind = "OSError" if isinstance(error, OSError) else "ProbeError"
        answer({"failed": kind, "arguments": [a if isinstance(a, int) else str(a) for a in error.args]})


if __name__ == "__main__":
    main()
