from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from netem import backend, doctor, initramfs, rootless
from netem.apply import execute
from netem.errors import BackendError, CommandError
from netem.spec import LinkSpec


def test_a_failed_command_is_named_with_what_it_said() -> None:
    with pytest.raises(CommandError, match=r"command failed: ls /no/such[\s\S]*No such file"):
        execute(["ls", "/no/such"])
    with pytest.raises(CommandError, match="'no-such-tool' is not installed"):
        execute(["no-such-tool"])


@pytest.mark.parametrize(
    ("netns", "uml", "link", "chosen"),
    [
        (None, None, {}, "loopback"),
        (None, None, {"rtt_ms": 1}, "netns"),
        ("no netem", None, {"rtt_ms": 1}, "uml"),
        (None, None, {"tcp": {"initcwnd": 4}}, "netns"),
        ("no netem", None, {"backend": "uml"}, "uml"),
    ],
)
def test_choice(monkeypatch: pytest.MonkeyPatch, netns, uml, link: dict, chosen: str) -> None:
    monkeypatch.setattr(backend, "why_not", lambda name, shaped=True: {"netns": netns, "uml": uml}[name])
    assert backend.choose_backend(LinkSpec(**link)) == chosen


@pytest.mark.parametrize("missing", [None, "tbf", "plug"])
def test_a_traced_rate_takes_a_kernel_that_has_a_bucket_and_a_gate(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str | None
) -> None:
    def kernel(argv: Sequence[str]) -> str:
        if missing in argv:
            raise CommandError(argv, "Error: Specified qdisc kind is unknown.")
        return ""

    monkeypatch.setattr(backend, "why_not", lambda name, shaped=True: None)
    monkeypatch.setattr(backend, "execute", kernel)
    for column, needs in (("rate_mbps", True), ("delay_ms", False)):
        (tmp_path / "trace.csv").write_text(f"t_s,{column}\n0,1\n1,2\n")
        link = {"trace": str(tmp_path / "trace.csv")}
        assert backend.choose_backend(LinkSpec(**link)) == ("uml" if missing and needs else "netns")
        if missing and needs:
            with pytest.raises(BackendError, match=f"this kernel has no sch_{missing} .*modprobe sch_{missing}"):
                backend.choose_backend(LinkSpec(backend="netns", **link))


def test_no_way_says_what_was_tried_and_what_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "why_not", lambda name, shaped=True: f"broken: apt install {name}")
    with pytest.raises(BackendError, match=r"netns: broken: apt install netns\n  uml: broken: apt install uml"):
        backend.choose_backend(LinkSpec(rtt_ms=1))
    with pytest.raises(BackendError, match="uml: broken"):
        backend.choose_backend(LinkSpec(rtt_ms=1, backend="uml"))


def test_without_root_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(rootless, "AS_ROOT_OF_OWN", ("false",))
    with pytest.raises(BackendError, match=r"an ordinary user may not make namespaces.*sysctl -w .*or run with sudo"):
        backend.choose_backend(LinkSpec(rtt_ms=1))


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initramfs, "find_tool", lambda name: None)
    with pytest.raises(BackendError, match=r"linux.uml, busybox, tc, ip, ethtool: apt install user-mode-linux"):
        initramfs.inputs()


def test_the_archive_is_a_cpio_that_others_can_read(tmp_path: Path) -> None:
    if initramfs.find_tool("busybox") is None:
        pytest.skip("busybox is not installed: apt install busybox-static")
    image = tmp_path / "image.cpio"
    image.write_bytes(initramfs.archive({"sbin/tool": b"seven77", "lib/x/y.so": b""}))
    listing = subprocess.run(["busybox", "cpio", "-t"], stdin=image.open(), capture_output=True, text=True, check=True)
    names = listing.stdout.split()
    assert {"init", "sbin/tool", "lib/x/y.so", "lib/x", "dev/console", "proc"} <= set(names)
    assert names.index("lib") < names.index("lib/x") < names.index("lib/x/y.so")


def test_the_doctor_always_answers() -> None:
    findings = doctor.diagnose()
    assert {"netem in this kernel", "leftovers", "backend for a shaped link"} <= {f["name"] for f in findings}
    for finding in findings:
        assert set(finding) == {"name", "ok", "detail", "remedy"}
        assert finding["ok"] is (finding["remedy"] == "") and finding["detail"]


@pytest.mark.parametrize(
    ("release", "command"),
    [
        ("ID=ubuntu\nID_LIKE=debian\n", "linux-modules-extra"),
        ('ID=rocky\nID_LIKE="rhel centos fedora"\n', "kernel-modules-extra"),
        ("ID=void\n", "your distribution's"),
    ],
)
def test_remedy_fits_the_distribution(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, release: str, command: str
) -> None:
    (tmp_path / "os-release").write_text(release)
    monkeypatch.setattr(backend, "OS_RELEASE", tmp_path / "os-release")
    assert command in backend.modules_command()


def test_a_seed_is_refused_where_it_would_be_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    knows = CommandError(["tc"], "... netem [ limit PACKETS ] [ seed SEED ]")
    for said, kernel, missing in [
        ("... netem", "6.8.0", "^tc cannot"),
        (knows.said, "6.1.176", "^Linux 6.1.176, where"),
    ]:
        monkeypatch.setattr(backend, "execute", lambda argv, said=said: said)
        assert re.search(missing, backend.why_no_seed(kernel) or "")
    assert backend.why_no_seed("6.6.0-rc1") is None
