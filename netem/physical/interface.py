"""Shapes a real interface, watched over by a process that undoes it all unless it is told to let it be.

    shape(Shaping("eth0", "10.0.0.2", LinkSpec(rtt_ms=40)), dead_man_s=120)
    renew("eth0")        # another 120 seconds
    confirm("eth0")      # it stays until
    restore("eth0")      # and everything is as it was

On disk before the first change, in one folder under the state directory: the journal, the same undo as a shell script,
and the guard that runs it (guard.sh). Who owns it: while it is being set up this process, so that a SIGKILL leaves
something to clean up; afterwards the guard.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from shlex import join
from typing import Any

from netem.apply import applied_values, differences, execute
from netem.errors import BackendError, LinkError
from netem.journal import Journal, clean_leftovers, journals, network_namespace, state_dir, write_whole
from netem.physical.found import look_at, make_ifb_possible, qdiscs_of, snapshot
from netem.physical.plan import NETEM, ifb_name, plan
from netem.physical.shaping import Shaping, Way, timer_s
from netem.plan import Plan

BACKEND = "physical"
DEAD_MAN_S = 120.0
GUARD_START_S = 10.0
LAST_MOMENT_S = 1.0  # before the time is over: then the guard may be at work already
STATE, DEADLINE, BEFORE, UNDO, GUARD = "state.json", "deadline", "before.json", "undo.sh", "guard.sh"
NEVER = "never"
UNDO_HEAD = """\
# Takes everything back. What is gone already is no trouble; anything else is kept in undo.log.
failed=0
run() {
    "$@" 2>said && return
    grep -Eq 'Invalid handle|Cannot find|No such' said && return
    echo "$*: $(cat said)" >>undo.log
    failed=1
}
"""


def shape(shaping: Shaping, dead_man_s: float = DEAD_MAN_S) -> dict[str, Any]:
    """Put the link on the interface; returns what `status` does.

    Raises LinkError, with nothing changed, when the interface is shaped already, by us or by anybody; BackendError or
    CommandError, with everything undone, when the kernel does not do as it is told.
    """
    if os.geteuid() != 0:
        raise BackendError("shaping an interface takes root: run it with sudo")
    dead_man_s = timer_s(dead_man_s)
    with suppress(LinkError):  # somebody else's trouble; the doctor will tell
        clean_leftovers()
    folder = _folder(shaping.interface)
    if folder.exists():
        raise LinkError(f"{shaping.interface} is shaped already: dssd netem down --iface {shaping.interface}")
    planned = plan(shaping, look_at(shaping.interface))
    undo = [list(step.argv) for step in planned.undo]
    journal = Journal(folder.name, [], undo, BACKEND, network=network_namespace())
    journal.write()
    try:
        _write_beside(folder, shaping, planned, dead_man_s)
        guard = _start_guard(folder)
        if shaping.ingress.is_shaped:
            make_ifb_possible()
        for step in planned.steps:
            execute(step.argv)
        if problems := _problems(shaping, _applied(shaping)):
            raise LinkError("the kernel did not take the link as declared:\n  " + "\n  ".join(problems))
        _set_timer(folder, _ends_in(dead_man_s))  # too late for that: the guard has been taking it back meanwhile
        write_whole(folder / STATE, json.dumps({**shaping.describe(), "dead_man_s": dead_man_s}, indent=1))
        journal.hand_over(guard)
    except BaseException as error:
        if problems := journal.close():
            raise LinkError(f"{str(error) or repr(error)}\n{_not_restored(shaping.interface, problems)}") from error
        raise
    return status(shaping.interface)


def renew(interface: str, seconds: float | None = None) -> dict[str, Any]:
    """The timer starts again, by default with its first length. Raises LinkError when it is too late."""
    folder, state = _shaped(interface)
    _set_timer(folder, _ends_in(timer_s(state["dead_man_s"] if seconds is None else seconds)))
    return status(interface)


def confirm(interface: str) -> dict[str, Any]:
    """No timer any more: the link stays until `restore`. Raises LinkError when it is too late."""
    folder, _ = _shaped(interface)
    _set_timer(folder, NEVER)
    return status(interface)


def restore(interface: str) -> None:
    """Take the link off the interface. Raises LinkError when there is none, or when something is not as it was."""
    folder = _folder(interface)
    journal = next((found for found in journals() if found.lab_id == folder.name), None)
    if journal is None:
        raise LinkError(f"{interface} is not shaped{_others(interface)}")
    if journal.owner_lives() and not (folder / STATE).exists():
        raise LinkError(f"{interface} is being set up by the running process {journal.pid}: wait for it, or end it")
    before = json.loads((folder / BEFORE).read_text()) if (folder / BEFORE).exists() else None
    if problems := journal.close():
        raise LinkError(_not_restored(interface, problems))
    if before is not None and (changed := _changed(before, snapshot(interface))):
        raise LinkError(f"the link is off {interface}, but not all is as it was before:\n  " + "\n  ".join(changed))


def status(interface: str) -> dict[str, Any]:
    """`{interface peer ports exempt_ports role only declared dead_man_s applied problems confirmed left_s guard}`.

    applied: per way, as the kernel tells now. left_s: seconds until all is undone, None once confirmed. problems: what
    is not as declared any more. guard: its pid, None when it was killed: then the next `up` or `doctor --clean` undoes.
    """
    folder, state = _shaped(interface)
    shaping = Shaping.from_description(state)
    applied = _applied(shaping)
    deadline = (folder / DEADLINE).read_text().strip() if (folder / DEADLINE).exists() else "0"
    journal = next(found for found in journals() if found.lab_id == folder.name)
    return {
        **state,
        "applied": applied,
        "problems": _problems(shaping, applied),
        "confirmed": deadline == NEVER,
        "left_s": None if deadline == NEVER else max(0.0, round(int(deadline) - uptime_s(), 1)),
        "guard": journal.pid if journal.owner_lives() else None,
    }


def shaped_interfaces() -> list[str]:
    return [journal.lab_id.removeprefix("@") for journal in journals() if journal.backend == BACKEND]


def uptime_s() -> float:
    """The clock the guard goes by: seconds since boot, sleep included."""
    return float(Path("/proc/uptime").read_text().split()[0])


def undo_script(undo: Sequence[Sequence[str]]) -> str:
    return UNDO_HEAD + "".join(f"run {join(argv)}\n" for argv in undo) + "exit $failed\n"


def _folder(interface: str) -> Path:
    return state_dir() / f"@{interface}"  # no lab has such a name


def _shaped(interface: str) -> tuple[Path, dict[str, Any]]:
    folder = _folder(interface)
    try:
        return folder, json.loads((folder / STATE).read_text())
    except OSError:
        raise LinkError(f"{interface} is not shaped{_others(interface)}") from None


def _others(interface: str) -> str:
    others = [name for name in shaped_interfaces() if name != interface]
    return f": {', '.join(others)} is" if others else ", and no other interface is"


def _not_restored(interface: str, problems: Sequence[str]) -> str:
    left = "".join(f"\n  {problem}" for problem in problems)
    return f"{interface} was not restored completely:{left}\nonce that is mended: dssd netem down --iface {interface}"


def _write_beside(folder: Path, shaping: Shaping, planned: Plan, dead_man_s: float) -> None:
    write_whole(folder / BEFORE, json.dumps(snapshot(shaping.interface)))
    write_whole(folder / UNDO, undo_script([step.argv for step in planned.undo]))
    write_whole(folder / GUARD, Path(__file__).with_name(GUARD).read_text())
    write_whole(folder / DEADLINE, _ends_in(dead_man_s))


def _start_guard(folder: Path) -> int:
    """A shell of its own session whose parent is init: nothing that ends us ends it. Returns its pid."""
    execute_at = ["setsid", "--fork", "sh", GUARD, str(folder), str(os.getpid())]
    silent: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    try:
        subprocess.run(execute_at, cwd=folder, check=True, **silent)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BackendError(f"the guard of the interface did not start ({error}): apt install util-linux") from None
    until_s = time.monotonic() + GUARD_START_S
    while time.monotonic() < until_s:
        with suppress(OSError, ValueError):
            return int((folder / "guard.pid").read_text())
        time.sleep(0.01)
    raise BackendError(f"the guard of the interface did not start within {GUARD_START_S:g} s: nothing was changed")


def _set_timer(folder: Path, deadline: str) -> None:
    old = (folder / DEADLINE).read_text().strip() if (folder / DEADLINE).exists() else "0"
    if old != NEVER and int(old) - uptime_s() < LAST_MOMENT_S:
        raise LinkError("too late: the time is over and the interface is being restored")
    write_whole(folder / DEADLINE, deadline)


def _ends_in(seconds: float) -> str:
    return str(math.ceil(uptime_s() + seconds))


def _applied(shaping: Shaping) -> dict[Way, dict[str, Any]]:
    places: dict[Way, str] = {"egress": shaping.interface, "ingress": ifb_name(shaping.interface)}
    applied: dict[Way, dict[str, Any]] = {}
    for way, device in places.items():
        applied[way] = {}
        if shaping.way(way).is_shaped:
            ours = [q for q in qdiscs_of(device) if (q["kind"], q["handle"]) == ("netem", NETEM)]
            applied[way] = applied_values(ours[0] if ours else None)
    return applied


def _problems(shaping: Shaping, applied: dict[Way, dict[str, Any]]) -> list[str]:
    return [
        f"{way} ({which}): {text}"
        for way, which in shaping.directions.items()
        for text in differences(shaping.way(way), applied[way])
    ]


def _changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    parts = [part for part in ("qdiscs", "filters") if before[part] != after[part]]
    found = [f"{part}: {before[part]} then {after[part]}" for part in parts]
    for name, was in before["features"].items():
        now = after["features"].get(name, {})
        if was["active"] != now.get("active"):
            found.append(f"{name}: {was} then {now}")
    return found
