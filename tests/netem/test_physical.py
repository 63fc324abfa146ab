"""A real interface of a whole machine (a user-mode Linux guest), shaped in there, measured from outside.

The guest runs this project's own code on its own kernel; 35 ms are declared, the bare cable has less than one.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import need
from guest import PROJECT, Guest, GuestError, python_line

from netem.physical import Shaping
from netem.script import interface_script, lab_script
from netem.spec import LinkSpec

pytestmark = pytest.mark.lab

LINK = "--set link.up.delay_ms=10 --set link.down.delay_ms=25"
UP = f"dssd netem up --iface {Guest.INTERFACE} --peer {Guest.PEER} {LINK}"
SPEC = LinkSpec(up={"delay_ms": 10}, down={"delay_ms": 25})
SHAPED_MS, BARE_MS = 35.0, 20.0  # at least, and at most
API = f"""
import os, signal, time
from netem import physical
from netem.journal import started_ticks, state_dir
from netem.physical import interface
from netem.spec import LinkSpec
FOLDER = state_dir() / "@{Guest.INTERFACE}"
SPEC = LinkSpec(up={{"delay_ms": 10}}, down={{"delay_ms": 25}})
def wish(**more):
    return physical.Shaping(**{{"interface": "{Guest.INTERFACE}", "peer": "{Guest.PEER}", "spec": SPEC, **more}})
def guard():
    return int((FOLDER / "guard.pid").read_text())
"""


@pytest.fixture(scope="module")
def machine() -> Iterator[Guest]:
    need("uml")
    with Guest() as guest:
        yield guest


@pytest.fixture
def guest(machine: Guest) -> Iterator[Guest]:
    """The guest, which has to look afterwards as it did before."""
    before = machine.state()
    yield machine
    assert machine.state() == before


def down(guest: Guest) -> str:
    return guest.run(f"dssd netem down --iface {guest.INTERFACE}")


def test_the_peer_gets_the_link_and_nobody_else_and_down_takes_it_back(guest: Guest) -> None:
    before = guest.state()
    shaped = json.loads(guest.run(f"{UP} --json").splitlines()[-1])
    assert shaped["applied"]["egress"]["delay_ms"] == 10 and shaped["applied"]["ingress"]["delay_ms"] == 25
    assert shaped["problems"] == [] and 100 < shaped["left_s"] <= 121 and not shaped["confirmed"]
    assert guest.ping_ms(guest.PEER) >= SHAPED_MS
    assert guest.ping_ms(guest.OTHER) < BARE_MS
    assert guest.knock_ms(5555) >= SHAPED_MS
    assert guest.knock_ms(22) < BARE_MS  # SSH, though it is the peer's
    status, said = guest.try_run(UP)
    assert status == 1 and "shaped already" in said
    found = json.loads(guest.run("dssd netem status --json").splitlines()[-1])
    assert [state["interface"] for state in found["interfaces"]] == [guest.INTERFACE] and found["labs"] == []
    assert found["interfaces"][0]["declared"] == shaped["declared"]
    down(guest)
    assert guest.state() == before
    status, said = guest.try_run(f"dssd netem down --iface {guest.INTERFACE}")
    assert status == 1 and "is not shaped" in said


def test_only_the_ports_asked_for(guest: Guest) -> None:
    guest.python(API + "physical.shape(wish(ports=(5555,)))")
    assert guest.knock_ms(5555) >= SHAPED_MS
    assert guest.knock_ms(5556) < BARE_MS and guest.ping_ms() < BARE_MS and guest.knock_ms(5555, guest.OTHER) < BARE_MS
    guest.python(API + "physical.restore(interface='vec0')")


@pytest.fixture
def over_ipv6(guest: Guest) -> Iterator[Guest]:
    guest.outside(["ip", "address", "add", "fd55::2/64", "dev", "cable", "nodad"])
    guest.run("ip address add fd55::1/64 dev vec0 nodad")
    guest.knock_ms(9, "fd55::2", "fd55::1", 1)
    yield guest
    guest.run("ip address del fd55::1/64 dev vec0")
    guest.outside(["ip", "address", "del", "fd55::2/64", "dev", "cable"])


@pytest.mark.slow
def test_one_way_at_the_edges_end_to_an_ipv6_peer(over_ipv6: Guest) -> None:
    """What leaves an edge is `down`: 25 ms; the other way is left to the device."""
    guest = over_ipv6
    guest.python(API + "physical.shape(wish(peer='fd55::2', role='edge', only='egress'))")
    assert SHAPED_MS > guest.knock_ms(9, "fd55::2", "fd55::1") >= 25 and guest.knock_ms(9) < BARE_MS
    assert guest.knock_ms(22, "fd55::2", "fd55::1") < BARE_MS
    guest.python(API + "physical.restore('vec0')")


def test_ssh_comes_through_a_dead_link_even_where_both_ends_have_forgotten_where_the_other_is(over_ipv6: Guest) -> None:
    guest = over_ipv6
    dead = "LinkSpec(up={'loss_pct': 100}, down={'loss_pct': 100})"
    guest.python(API + f"physical.shape(wish(peer='fd55::2', spec={dead}))")
    guest.run("ip -6 neigh flush dev vec0")
    guest.outside(["ip", "-6", "neigh", "flush", "dev", "cable"])
    guest.knock_ms(22, "fd55::2", "fd55::1")  # raises where nobody is found
    guest.python(API + "physical.restore('vec0')")


@pytest.mark.slow
def test_renewed_then_confirmed_it_outlives_its_time(guest: Guest) -> None:
    guest.python(
        API + "physical.shape(wish()); physical.renew('vec0', 10); assert physical.renew('vec0')['left_s'] > 100"
    )
    guest.python(API + "state = physical.confirm('vec0'); assert state['confirmed'] and state['left_s'] is None")
    time.sleep(10)
    assert guest.ping_ms() >= SHAPED_MS
    guest.python(API + "physical.restore('vec0')")


def test_unconfirmed_it_is_undone_though_the_caller_was_killed(guest: Guest) -> None:
    before = guest.state()
    caller = "physical.shape(wish(), dead_man_s=600); os.kill(os.getpid(), signal.SIGKILL)"
    status, _ = guest.try_run(python_line(API + caller))
    assert status == 128 + signal.SIGKILL
    assert guest.ping_ms() >= SHAPED_MS
    # Only now the short time, so that a slow machine's ping comes before its end.
    guest.python(API + "assert physical.renew('vec0', 5)['left_s'] <= 6")
    guest.wait_for_state(before)


KILLED = """
real, count = interface.execute, 0
def execute(argv):
    global count
    count += 1
    if count == {step}:
        {act}
    return real(argv)
interface.execute = execute
physical.shape(wish(), dead_man_s=600)
"""


def test_a_caller_killed_half_way_leaves_nothing_without_anybodys_help(guest: Guest) -> None:
    """The guard sees it, long before the time is over."""
    before = guest.state()
    code = API + KILLED.format(step=5, act="os.kill(os.getpid(), signal.SIGKILL)")
    assert guest.try_run(python_line(code))[0] == 128 + signal.SIGKILL
    guest.wait_for_state(before)


@pytest.mark.slow
def test_where_the_guard_was_killed_too_the_doctor_cleans(guest: Guest) -> None:
    before = guest.state()
    code = API + KILLED.format(step=9, act="os.killpg(guard(), 9); os.kill(os.getpid(), signal.SIGKILL)")
    assert guest.try_run(python_line(code))[0] == 128 + signal.SIGKILL
    assert guest.state() != before
    assert "removed" in guest.run("dssd doctor --clean")
    assert guest.state() == before


UNWATCHED = """
def until(over):
    while not over(): time.sleep(0.01)
def problems(*_):
    {act}
    return []
interface._problems = problems
physical.shape(wish())
"""


@pytest.mark.parametrize(
    ("act", "complaint"),
    [
        ("pid = guard(); os.killpg(pid, 9); until(lambda: started_ticks(pid) == -1)", "has ended"),
        pytest.param(
            "(FOLDER / 'deadline').write_text('0'); until(lambda: not FOLDER.exists())",
            "the time is over",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["killed", "time over"],
)
def test_no_link_comes_up_that_nobody_watches_over(guest: Guest, act: str, complaint: str) -> None:
    """Its guard was killed before it was up, or had to undo it by then."""
    before = guest.state()
    status, said = guest.try_run(python_line(API + UNWATCHED.format(act=act)))
    assert status == 1 and "LinkError: " in said and complaint in said
    assert guest.state() == before


def test_a_command_that_fails_undoes_those_before(guest: Guest) -> None:
    code = API + KILLED.format(step=10, act="argv = ['tc', 'nonsense']")
    status, said = guest.try_run(python_line(code))
    assert status == 1 and "nonsense" in said


FAILING = """
from netem.plan import Plan, Step
real, wrong, stuck = interface.plan, Step("here", ("tc", "nonsense")), Step("here", ("test", "-e", "/run/mended"))
def plan(*wish):
    planned = real(*wish)
    return Plan((*planned.steps, wrong), (*planned.undo, stuck))
interface.plan = plan
physical.shape(wish(), dead_man_s=600)
"""


def test_what_a_failed_link_could_not_undo_is_said_and_kept(guest: Guest) -> None:
    status, said = guest.try_run(python_line(API + FAILING))
    assert (
        status == 1 and "nonsense" in said and "not restored completely:\n  command failed: test -e /run/mended" in said
    )
    guest.run("touch /run/mended; dssd netem down --iface vec0; rm /run/mended")


TAKEN_BACK = """
physical.shape(wish()); physical.confirm("vec0")
from netem import journal
{guards_fate}
real, count = journal.execute, 0
def strike(*argv):
    global count
    count += 1
    if count == {moment}: os.kill(os.getpid(), signal.{signal})
    return real(*argv)
journal.execute = journal.select.select = strike
physical.restore("vec0")
"""


@pytest.mark.parametrize(
    ("signal_name", "moment", "guards_fate"),
    [
        ("SIGKILL", 1, ""),
        pytest.param("SIGHUP", 2, "os.killpg(guard(), 9)", marks=pytest.mark.slow),
    ],
    ids=["killed", "hung up, without a guard"],
)
def test_whatever_ends_it_half_way_down_takes_all_back(
    guest: Guest, signal_name: str, moment: int, guards_fate: str
) -> None:
    """No timer any more, and nobody who runs another command."""
    before = guest.state()
    code = API + TAKEN_BACK.format(signal=signal_name, moment=moment, guards_fate=guards_fate)
    assert guest.try_run(python_line(code))[0] == 128 + getattr(signal, signal_name)
    guest.wait_for_state(before)


@pytest.mark.parametrize("made", ["root fq", "handle ffff: ingress"])
def test_what_somebody_else_made_is_refused_and_left(guest: Guest, made: str) -> None:
    guest.run(f"tc qdisc add dev {guest.INTERFACE} {made}")
    theirs = guest.state()
    code = API + "import sys\ntry: physical.shape(wish())\nexcept interface.LinkError as error: sys.exit(str(error))"
    status, said = guest.try_run(python_line(code))
    place = made.split()[-1] if "ingress" in made else "root"
    assert status == 1 and f"tc qdisc del dev {guest.INTERFACE} {place}" in said
    assert guest.state() == theirs
    guest.run(f"tc qdisc del dev {guest.INTERFACE} {place}")


@pytest.mark.slow
def test_the_kernels_own_queues_come_back_as_they_were(guest: Guest) -> None:
    """One older than today's default, several queues (mq), none at all."""
    guest.run("ip link add several numtxqueues 3 type ifb && ip link set several up")
    guest.run("ip link add none type veth peer name end && ip link set none up && ip link set end up")
    guest.run("sysctl -q -w net.core.default_qdisc=fq_codel")
    before = guest.state()
    assert '"kind":"mq"' in before["qdiscs"] and '"kind":"noqueue"' in before["qdiscs"]
    names = "('vec0', 'several', 'none')"
    guest.python(API + f"for name in {names}: physical.shape(wish(interface=name))")
    during = guest.state()
    assert during["qdiscs"].count('"handle":"d55f:"') == 6 and during["features"] != before["features"]
    guest.python(API + f"for name in {names}: physical.restore(name)")
    assert guest.state() == before
    guest.run("sysctl -q -w net.core.default_qdisc=pfifo_fast; ip link del several; ip link del none")


@pytest.mark.slow
def test_the_way_one_logs_in_by_stays_open_and_a_broken_line_undoes(guest: Guest, tmp_path: Path) -> None:
    """SSH on another port than 22, from the peer itself; the line is cut while the link is up."""
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    server = f"/usr/sbin/sshd -p 2222 -h {key} -o AuthorizedKeysFile={key}.pub -o StrictModes=no -o UsePAM=no"
    guest.run(f"mkdir -p /run/sshd; {server} -o PidFile=/run/sshd.pid -o PermitRootLogin=yes")
    before = guest.state()
    options = [
        "-p",
        "2222",
        "-i",
        str(key),
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        f"UserKnownHostsFile={tmp_path}/known",
    ]
    login = guest.enter_outside(["ssh", *options, "-b", guest.PEER, f"root@{guest.ADDRESS}"])
    tunables = guest.run("echo $GLIBC_TUNABLES").strip()  # what sshd does not pass on and programs here need
    path = f"PATH={Path(sys.executable).parent}:/usr/sbin:$PATH"
    work = f"export PYTHONPATH={PROJECT} GLIBC_TUNABLES={tunables} {path}; {UP} --json && sleep 60"
    with subprocess.Popen([*login, work], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as line:
        assert line.stdout is not None
        said = [line.stdout.readline()]
        while not said[-1].startswith("{") and said[-1] != "":
            said.append(line.stdout.readline())
        assert said[-1] != "", "".join(said)
        shaped = json.loads(said[-1])
        assert shaped["exempt_ports"] == [22, 2222]
        assert guest.knock_ms(2222) < BARE_MS and guest.knock_ms(5555) >= SHAPED_MS
        guest.run(f"dssd netem renew --iface {guest.INTERFACE} --seconds 3")  # no sooner: a slow machine has to measure
        line.kill()
    guest.wait_for_state(before)
    guest.run("kill $(cat /run/sshd.pid)")


@pytest.fixture
def scripted(tmp_path: Path) -> Callable[[int], Path]:
    """The link as a script with a timer of so many seconds; a timer that is no longer needed sleeps on to its end."""

    def script(dead_man_s: int) -> Path:
        path = tmp_path / f"{dead_man_s}.sh"
        path.write_text(interface_script(Shaping(Guest.INTERFACE, Guest.PEER, SPEC), dead_man_s))
        path.chmod(0o755)
        return path

    return script


@pytest.mark.slow
def test_the_interfaces_script_does_the_same_without_python(guest: Guest, scripted: Callable[[int], Path]) -> None:
    before, script, short = guest.state(), scripted(600), scripted(5)
    guest.run(f"{script} up")
    assert guest.ping_ms() >= SHAPED_MS and guest.ping_ms(guest.OTHER) < BARE_MS and guest.knock_ms(22) < BARE_MS
    assert "netem" in guest.run(f"{script} status")
    with pytest.raises(GuestError, match="up already"):
        guest.run(f"{script} up")
    guest.run(f"{short} renew && {short} confirm")
    time.sleep(6)
    assert guest.ping_ms() >= SHAPED_MS
    guest.run(f"{short} renew")
    guest.wait_for_state(before)
    guest.run(f"{script} up; {script} down")
    assert guest.state() == before
    script.write_text(script.read_text().replace("INGRESS='", "INGRESS='nonsense "))
    with pytest.raises(GuestError, match="undone, because"):
        guest.run(f"{script} up")


def test_the_scripts_timer_undoes_when_it_is_told_to_end_and_an_old_one_does_not(
    guest: Guest, scripted: Callable[[int], Path]
) -> None:
    before, script = guest.state(), scripted(700)

    def wait_for(words: str, count: int) -> None:
        until_s = time.monotonic() + 40
        while guest.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").count(words) != count:
            assert time.monotonic() < until_s, words
            time.sleep(0.1)

    def end_timer() -> None:
        wait_for("sleep 700", 1)
        guest.run("kill $(grep -al '[t]imer.700./run/dssd-link' /proc/[0-9]*/cmdline | cut -d/ -f3)")
        wait_for("timer 700", 0)

    guest.run(f"{script} up; {script} confirm")
    shaped = guest.state()
    end_timer()
    assert guest.state() == shaped
    guest.run(f"{script} renew")
    end_timer()
    guest.wait_for_state(before)


@pytest.mark.slow
def test_the_labs_script_builds_its_link_and_takes_it_down(guest: Guest, tmp_path: Path) -> None:
    before, script = guest.state(), tmp_path / "lab.sh"
    script.write_text(lab_script(SPEC, "scripted", "cubic"))
    guest.run(f"sh {script} up && sh {script} status")
    edge = guest.run("ip -n dssd-scripted-edge -br -4 address show link0").split()[2].partition("/")[0]
    device = guest.run("ip -n dssd-scripted-device -br -4 address show link0").split()[2].partition("/")[0]
    assert guest.knock_inside_ms("dssd-scripted-device", device, edge) >= SHAPED_MS
    guest.run(f"sh {script} down")
    assert guest.state() == before
