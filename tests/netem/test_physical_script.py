"""The scripts that stand alone: clean shell, and the very commands that the plans hold."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from shlex import join

import pytest

from netem.apply import execute
from netem.errors import LinkError
from netem.physical import Shaping
from netem.physical.plan import plan
from netem.physical.shaping import Found
from netem.plan import LabNames, netns_plan, shell_lines
from netem.script import FOLDER, interface_script, lab_script
from netem.spec import LinkSpec

SPEC = LinkSpec(profile="lte_fair", up={"gilbert": {"mean_loss_pct": 1, "mean_burst": 3}})
SHAPINGS = [
    {"peer": "10.55.0.2"},
    {"peer": "10.55.0.2", "ports": (5555, 5556), "exempt_ports": (22, 9000), "role": "edge"},
    {"peer": "fd00::2", "only": "egress"},
    {"peer": "10.55.0.2", "only": "ingress"},
]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed: apt install shellcheck")
def test_every_script_is_clean_shell(tmp_path: Path) -> None:
    ours = [*FOLDER.glob("*.sh"), *FOLDER.parent.glob("physical/*.sh"), FOLDER.parents[1] / "setup.sh"]
    scripts = {path.name: path.read_text() for path in ours}
    scripts["filled.sh"] = interface_script(Shaping("eth0", spec=SPEC, **SHAPINGS[1]), 60)
    scripts["lab-filled.sh"] = lab_script(SPEC, "lab", "cubic")
    assert len(scripts) == 6
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
        done = subprocess.run(["shellcheck", "-s", "sh", tmp_path / name], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_the_labs_script_holds_the_plans_commands_in_order() -> None:
    names = LabNames("mine")
    lines = [line.strip() for line in lab_script(SPEC, "mine", "cubic").splitlines()]
    planned = shell_lines(netns_plan(names, SPEC, "cubic").steps, names)
    start = lines.index(planned[0])
    assert lines[start : start + len(planned)] == planned
    assert f"NAMESPACES='{' '.join(names.namespaces)}'" in lines


def test_there_is_no_script_for_no_link() -> None:
    with pytest.raises(LinkError, match="nothing is declared"):
        lab_script(LinkSpec(), "lab", "cubic")


@pytest.fixture
def cable() -> Iterator[str]:
    """A namespace with an interface that nobody shapes."""
    name = f"dssd-script-{os.getpid()}"
    execute(["ip", "netns", "add", name])
    try:
        execute(["ip", "-n", name, "link", "add", "eth7", "type", "veth", "peer", "name", "other"])
        execute(["ip", "-n", name, "link", "set", "eth7", "up"])
        yield name
    finally:
        execute(["ip", "netns", "del", name])


@pytest.mark.lab
@pytest.mark.parametrize("wish", SHAPINGS, ids=["all", "ports", "ipv6", "ingress"])
def test_an_interfaces_script_would_run_what_the_plan_holds(wish: dict, cable: str, tmp_path: Path) -> None:
    """It looks at the interface by itself, so it is asked, on one, what it would run."""
    offloads = dict.fromkeys(("tcp-segmentation-offload", "generic-segmentation-offload"), True)
    shaping = Shaping("eth7", spec=SPEC, **wish)
    script = tmp_path / "link.sh"
    script.write_text(interface_script(shaping, 60))
    said = execute(["nsenter", f"--net=/run/netns/{cable}", "--", "sh", str(script), "commands"])
    planned = plan(shaping, Found("noqueue", None, offloads))
    assert said.splitlines() == [join(step.argv) for step in planned.steps]


@pytest.mark.lab
def test_the_script_refuses_without_a_change_what_the_program_refuses(cable: str, tmp_path: Path) -> None:
    def complaint(interface: str) -> str:
        script = tmp_path / "link.sh"
        script.write_text(interface_script(Shaping(interface, "10.55.0.2", SPEC), 60))
        enter = ["nsenter", f"--net=/run/netns/{cable}", "--", "sh", str(script), "up"]
        done = subprocess.run(enter, capture_output=True, text=True)
        assert done.returncode == 1 and not Path(f"/run/dssd-link-{interface}").exists()
        return done.stderr

    assert "no such interface" in complaint("nosuch0")
    assert "ip link set other up" in complaint("other")
    execute(["ip", "netns", "exec", cable, "tc", "qdisc", "add", "dev", "eth7", "root", "pfifo_fast"])
    assert "somebody made" in complaint("eth7")


def taken_back(undo: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What becomes of a script's `down` that has these lines to run."""
    state, script = folder / "state", folder / "link.sh"
    text = interface_script(Shaping("eth7", "10.55.0.2", SPEC), 60)
    script.write_text(text.replace("/run/dssd-link-$IFACE", str(state)))
    state.mkdir()
    (state / "undo").write_text(undo)
    done = subprocess.run(["sh", script, "down"], capture_output=True, text=True, start_new_session=True)
    assert not state.exists()
    return done


def test_what_the_script_has_begun_to_take_back_it_takes_back_whole(tmp_path: Path) -> None:
    done = taken_back(f"kill -TERM 0\nkill -INT 0\nkill -HUP 0\ntouch {tmp_path}/undone\n", tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and (tmp_path / "undone").exists()


def test_what_the_script_takes_back_is_words_and_no_program(tmp_path: Path) -> None:
    done = taken_back(f"echo a;touch {tmp_path}/undone\necho $(touch {tmp_path}/undone)\n", tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and not (tmp_path / "undone").exists()
