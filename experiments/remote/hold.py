"""Holds a shaped interface, on its host and as root: `python -m experiments.remote.hold`, a conversation in lines.

    it says      {"why_not": ""}          whether this kernel can shape
    it is told   {interface, peer, role, only, exempt_ports, link}
    it says      {...}                    the interface's status, read back, or {"error": …}
    it is told   anything, now and then   the dead-man timer starts again
    it is told   nothing more             it restores the interface and says so

The end of its input, or too long a silence, restores the interface at once; a SIGKILL leaves that to the timer.
"""

from __future__ import annotations

import json
import os
import select
import sys
from typing import Any

from netem.backend import why_no_netem
from netem.errors import LinkError
from netem.lab import exit_on_sigterm
from netem.physical import Shaping, renew, restore, shape, ssh_ports
from netem.spec import LinkSpec

DEAD_MAN_S = 120.0
SILENCE_S = 60.0  # half the timer's time: it is renewed by every line that comes


def say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


def shaping(order: dict[str, Any]) -> Shaping:
    never = tuple(sorted({*ssh_ports(), *order["exempt_ports"]}))
    spec = LinkSpec(**order["link"])
    return Shaping(order["interface"], order["peer"], spec, (), never, order["role"], order["only"])


def still_there() -> bool:
    return bool(select.select([0], [], [], SILENCE_S)[0]) and bool(os.read(0, 64))


def main() -> None:
    with exit_on_sigterm():
        say({"why_not": why_no_netem() or "", "root": os.geteuid() == 0})
        line = sys.stdin.readline()
        if not line.strip():
            return
        order = json.loads(line)
        try:
            say(shape(shaping(order), DEAD_MAN_S))
            try:
                while still_there():
                    renew(order["interface"])
            finally:
                restore(order["interface"])
            say({"restored": order["interface"]})
        except LinkError as error:
            say({"error": str(error)})


if __name__ == "__main__":
    main()
