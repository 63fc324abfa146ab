"""`dssd chat`: real processes, asked line by line. What it shows is what a run of the same prompts records."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from experiments.chat.watts import Watts
from experiments.store import RunFolder
from netem.journal import leftovers
from nodes.records import RoundRecord, makers

ROOT = Path(__file__).parent.parent.parent
DSSD = [sys.executable, "-m", "experiments.cli"]
SYSTEMS = ["dssd", "dsd", "edge_ar", "colocated_sd", "device_ar", "hlm", "coupled", "dssd_lookahead"]
TIMEOUT_S = 120.0


def environment(tmp_path: Path) -> dict[str, str]:
    """Temporary folders of this test alone, so that what is left is seen."""
    temporary = tmp_path / "tmp"
    temporary.mkdir(exist_ok=True)
    return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TMPDIR": str(temporary), "TERM": "xterm",
            "COLUMNS": "100", "LINES": "40"}  # fmt: skip


def dssd(tmp_path: Path, *words: object, stdin: str = "") -> subprocess.CompletedProcess:
    return subprocess.run([*DSSD, *map(str, words)], cwd=tmp_path, env=environment(tmp_path), input=stdin, text=True,
                          capture_output=True, timeout=TIMEOUT_S)  # fmt: skip


def documents(done: subprocess.CompletedProcess) -> list[dict]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def mine(tmp_path: Path) -> list[psutil.Process]:
    """Processes that were started under this test's folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(tmp_path) in word for word in process.info["cmdline"] or []):
            found.append(process)
    return found


def require_nothing_left(tmp_path: Path) -> None:
    until = time.monotonic() + 20
    while mine(tmp_path) and time.monotonic() < until:
        time.sleep(0.05)
    assert not mine(tmp_path)
    assert not list((tmp_path / "tmp").glob("dssd-*"))


def test_every_system_answers_as_in_a_run_and_says_who_made_each_token(tmp_path):
    text = "t1 t2"
    lines = "".join(f"/system {system}\n{text}\n" for system in SYSTEMS)
    told = documents(dssd(tmp_path, "chat", "--pair", "toy", "--system", ",".join(SYSTEMS), "--json", "--seed", 7,
                          "--max-new-tokens", 24, stdin=lines))  # fmt: skip
    config = tmp_path / "same.yaml"
    workload = {"prompts": [text] * len(SYSTEMS), "max_new_tokens": 24}
    config.write_text(yaml.safe_dump({"engine": "toy", "seed": 7, "systems": SYSTEMS, "workload": workload}))
    assert dssd(tmp_path, "run", config).returncode == 0
    records = RunFolder(tmp_path / "results" / "same" / "latest").requests().records
    ran = {(record.system, record.prompt_id): record for record in records if not record.warmup}
    answers = [one for one in told if one["event"] == "answer"]
    assert [answer["system"] for answer in answers] == SYSTEMS
    seen: dict[str, set[str]] = {}
    for answer in answers:
        same = ran[answer["system"], answer["prompt_id"]]
        assert (answer["tokens"], answer["text"]) == (same.tokens, same.text)
        rounds = [one for one in told if one["event"] == "round" and one["request_id"] == answer["request_id"]]
        tokens = [token for one in rounds for token in one["tokens"]]
        assert [token["id"] for token in tokens] == answer["tokens"]
        assert "".join(token["text"] for token in tokens) == answer["text"]
        assert len(rounds) == answer["rounds"]
        made = [token["maker"] for token in tokens]
        assert made.count("unverified") == sum(one["n_unverified"] for one in rounds)
        assert made.count("accepted") == sum(min(one["n_accepted"], one["n_emitted"]) for one in rounds)
        seen[answer["system"]] = set(made)
    assert seen["edge_ar"] == {"target"} and seen["device_ar"] == {"unverified"}
    assert {"accepted", "corrected"} <= seen["dssd"] | seen["dsd"] <= {"accepted", "corrected", "bonus", "target"}
    require_nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("round", "expected"),
    [
        ({"n_drafted": 4, "n_accepted": 2, "n_emitted": 3}, ["accepted", "accepted", "corrected"]),
        ({"n_drafted": 2, "n_accepted": 2, "n_emitted": 3}, ["accepted", "accepted", "bonus"]),
        ({"n_drafted": 4, "n_accepted": 4, "n_emitted": 2}, ["accepted", "accepted"]),  # the end fell within the draft
        ({"n_emitted": 1}, ["target"]),
        ({"n_drafted": 2, "n_emitted": 2, "n_unverified": 2}, ["unverified", "unverified"]),
    ],
)
def test_a_round_tells_who_made_its_tokens(round, expected):
    assert makers(RoundRecord("any", "any/p1/0", 0, False, 1, 0, 0, 0, **round)) == expected


@pytest.mark.slow
def test_the_bundled_pair_answers_and_what_was_recorded_can_be_run_again(tmp_path):
    told = documents(dssd(tmp_path, "chat", "--once", "def add(a, b):\n    ", "--max-new-tokens", 16, "--json",
                          "--temperature", 0.7, "--record"))  # fmt: skip
    answer = told[-1]
    assert answer["event"] == "answer" and answer["output_tokens"] == len(answer["tokens"]) == 16
    folder = RunFolder(tmp_path / "results" / "chat" / "latest")
    assert folder.manifest()["status"] == "complete"
    assert (folder.path / "report.html").is_file()
    done = dssd(tmp_path, "run", folder.path / "config.yaml", "--set", "name=again")
    assert done.returncode == 0, done.stderr
    again = RunFolder(tmp_path / "results" / "again" / "latest").requests().records
    assert [record.tokens for record in again if not record.warmup] == [answer["tokens"]]


def test_in_a_pipe_the_answer_is_plain_text_and_nothing_is_kept(tmp_path):
    done = dssd(tmp_path, "chat", "--pair", "toy", "--max-new-tokens", 5, stdin="t3\n")
    assert re.fullmatch(r"t\d+( t\d+){4}\n", done.stdout)
    assert "accepted" in done.stderr and "\x1b" not in done.stdout + done.stderr
    assert not (tmp_path / "results").exists()
    require_nothing_left(tmp_path)


def test_watts_are_those_declared_for_the_machine(tmp_path):
    watts = {"idle_w": 3.0, "full_w": 9.0}
    told = documents(dssd(tmp_path, "chat", "--pair", "toy", "--once", "t1", "--json", "--max-new-tokens", 400,
                          "--set", f"energy.device={json.dumps(watts)}", "--set", "pace={forward_ms: 4}",
                          "--set", "edge.probes=[psutil_trace]"))  # fmt: skip
    answer = told[-1]
    assert answer["energy_sources"]["device"]["status"] in ("modelled", "estimated")
    assert 3.0 <= answer["watts"]["device"] <= 9.0 * psutil.cpu_count()
    assert answer["watts"]["edge"] is None and answer["energy_sources"]["edge"]["status"] == "unsupported"


def test_watts_survive_half_a_line_and_a_sampler_that_began_again(tmp_path):
    trace = tmp_path / "power.edge.jsonl"
    header = {"header": {"columns": [[["cpu", "j", "measured", True]]], "energy_source": {"status": "measured"}}}

    def read(second: float, joules: float) -> str:
        return json.dumps({"p": 0, "t": int(second * 1e9), "v": [joules]}) + "\n"

    trace.write_text(json.dumps(header) + "\n" + read(1, 10) + read(1.5, 12)[:9])
    assert Watts(tmp_path).now() == {"edge": None}
    with trace.open("a") as file:
        file.write("\n" + json.dumps(header) + "\n" + read(5, 0) + read(5.5, 4) + read(6, 5))
    assert Watts(tmp_path).now() == {"edge": 5.0}


def test_an_edge_elsewhere_answers(tmp_path):
    config = tmp_path / "edge.yaml"
    config.write_text(yaml.safe_dump({"engine": "toy", "systems": ["dssd"]}))
    edge = subprocess.Popen(
        [*DSSD, "edge", "serve", str(config), "--plain", "--bind", "tcp://127.0.0.1:0", "--out", str(tmp_path / "e")],
        cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert edge.stdout is not None
        where = json.loads(edge.stdout.readline())["endpoint"]
        here = ["chat", "--pair", "toy", "--once", "t1 t2", "--json", "--max-new-tokens", 9]
        there = documents(dssd(tmp_path, *here, "--connect", where, "--plain"))
        assert there[-1]["tokens"] == documents(dssd(tmp_path, *here))[-1]["tokens"]
        refused = dssd(tmp_path, *here, "--connect", where, "--plain", "--temperature", 0.5)
        assert refused.returncode == 1 and "temperature" in refused.stderr and "0.5" in refused.stderr
        assert "--record keeps it" in refused.stderr
    finally:
        edge.terminate()
        edge.wait(20)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--system", "dssd_lookahed"], "did you mean `dssd_lookahead`"),
        (["--pair", "bundled:draft"], "a comma between"),
        (["--connect", "tcp://127.0.0.1:1"], "--keys DIR"),
        (["--connect", "tcp://127.0.0.1:1", "--plain", "--link", "lte"], "over the link that there is"),
        (["--link", "ltte"], "ltte"),
        (["--temperature", "-1"], "sampling.temperature"),
        (["--link", "./mine.yaml"], "link profile HERE/mine.yaml"),
        (["--pair", "hf:./mine,hf:./mine"], "no model at HERE/mine"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(tmp_path, words, said):
    (tmp_path / "mine.yaml").write_text("up: {delay_ms: long}")
    done = dssd(tmp_path, "chat", "--once", "t1", *words)
    told = " ".join(done.stderr.replace("│", " ").split())
    assert done.returncode in (1, 2) and said.replace("HERE", str(tmp_path)) in told
    require_nothing_left(tmp_path)


def test_a_prompt_that_is_no_text_is_said(tmp_path):
    done = dssd(tmp_path, "chat", "--pair", "toy", "--once", "a\udcffb")
    assert done.returncode == 1 and "the prompt: " in done.stderr and "Traceback" not in done.stderr
    require_nothing_left(tmp_path)


@pytest.mark.slow
def test_a_prompt_too_long_is_refused_and_the_next_is_answered(tmp_path):
    long = "x = 1; " * 5000
    done = dssd(tmp_path, "chat", "--json", "--max-new-tokens", 3, stdin=f"{long}\nx = 1\n")
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1 and "takes at most" in told[0]["error"], done.stderr
    assert [one["event"] for one in told if one["event"] != "round"] == ["refused", "answer"]


class Terminal:
    """A chat on a pseudo terminal, with somebody at it."""

    def __init__(self, tmp_path: Path, *words: str) -> None:
        self.master, terminal = pty.openpty()
        self.process = subprocess.Popen(
            [*DSSD, "chat", *words], cwd=tmp_path, env=environment(tmp_path), stdin=terminal, stdout=terminal,
            stderr=terminal, preexec_fn=self._as_a_login,
        )  # fmt: skip
        os.close(terminal)
        self._bytes, self._past = b"", 0  # all that was shown; characters of it that were looked for

    @staticmethod
    def _as_a_login() -> None:
        """This terminal is the session's own, and Ctrl-C on it means what it does anywhere."""
        os.setsid()
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def read_until(self, pattern: str, seconds: float = 60.0) -> str:
        """What was shown up to and with `pattern`, and no more of it again."""
        until = time.monotonic() + seconds
        while (found := re.search(pattern, self.shown, re.S)) is None:
            left = until - time.monotonic()
            assert left > 0, f"no {pattern!r} in {self.shown[-3000:]!r}"
            assert self._read(min(left, 0.2)), f"ended before {pattern!r}: {self.shown[-3000:]!r}"
        text = self.shown[: found.end()]
        self._past += found.end()
        return text

    @property
    def shown(self) -> str:
        return self._bytes.decode(errors="replace")[self._past :]

    def _read(self, seconds: float) -> bool:
        """False: the other end is closed."""
        if select.select([self.master], [], [], seconds)[0]:
            try:
                self._bytes += os.read(self.master, 65536)
            except OSError:
                return False
        return True

    def wait(self, seconds: float = 30.0) -> int:
        until = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < until and self._read(0.05):
            pass
        return self.process.wait(seconds)

    def wait_until_it_waits(self, seconds: float = 30.0) -> None:
        """CPython's input() does not see a signal that comes between showing its prompt and waiting for a key."""
        until = time.monotonic() + seconds
        while psutil.Process(self.process.pid).status() != psutil.STATUS_SLEEPING:
            assert time.monotonic() < until
            time.sleep(0.01)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)


@pytest.fixture
def terminal(tmp_path):
    opened = []

    def open_one(*words: str) -> Terminal:
        opened.append(Terminal(tmp_path, *words))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def test_on_a_terminal_tokens_have_the_colour_of_their_maker(tmp_path, terminal):
    screen = terminal("--pair", "toy", "--max-new-tokens", "40", "--set", "pace={forward_ms: 2}")
    screen.read_until("›")
    screen.type("t1 t2\n")
    shown = screen.read_until("first token after")
    assert re.search(r"\x1b\[32m *t\d+", shown), "accepted: green"
    assert re.search(r"\x1b\[1;33m *t\d+", shown), "corrected: bold yellow"
    assert re.search(r"accepted \d+ of \d+ \(\d+ %\) · RTT \d+\.\d ms", shown)
    screen.read_until("›")
    screen.type("\x04")
    assert screen.wait() == 0
    require_nothing_left(tmp_path)


def test_ctrl_c_ends_the_answer_then_the_chat_and_leaves_nothing(tmp_path, terminal):
    screen = terminal("--pair", "toy", "--max-new-tokens", "100000", "--set", "pace={forward_ms: 5}")
    screen.read_until("›")
    for _ in range(2):  # the session that was given up is not in the way of the next
        screen.type("t1 t2\n")
        screen.read_until(r"accepted \d+ of")
        screen.type("\x03")
        screen.read_until(r"interrupted")
        screen.read_until("›")
    screen.wait_until_it_waits()
    screen.type("\x03")
    assert screen.wait() == 0
    require_nothing_left(tmp_path)


def start_endless(tmp_path: Path, *words: str) -> subprocess.Popen:
    """A chat in a pipe whose answer does not end, with Ctrl-C as a terminal's shell leaves it."""
    chat = subprocess.Popen(
        [*DSSD, "chat", "--pair", "toy", "--once", "t1", "--json", "--max-new-tokens", "1000000", *words],
        cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert chat.stdout is not None and json.loads(chat.stdout.readline())["event"] == "round"
    return chat


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_mid_answer_leaves_nothing(tmp_path, how):
    chat = start_endless(tmp_path, "--set", "pace={forward_ms: 5}")
    assert mine(tmp_path)
    chat.send_signal(how)
    out, err = chat.communicate(timeout=30)
    if how == signal.SIGINT:  # the answer ends, and with it the only prompt
        assert json.loads(out.splitlines()[-1])["finish_reason"] == "interrupted"
        assert chat.returncode == 0, err
    else:
        assert chat.returncode == 128 + how
    require_nothing_left(tmp_path)


@pytest.mark.slow
@pytest.mark.lab
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_over_a_shaped_link_its_delay_is_seen_and_a_signal_takes_it_down(tmp_path, how):
    link = {"rtt_ms": 40}
    chat = start_endless(tmp_path, "--set", f"link={json.dumps(link)}")
    assert chat.stdout is not None
    assert json.loads(chat.stdout.readline())["network_ms"] >= link["rtt_ms"]
    chat.send_signal(how)
    _, err = chat.communicate(timeout=60)
    assert chat.returncode == (0 if how == signal.SIGINT else 128 + how), err
    require_nothing_left(tmp_path)
    assert not leftovers()
