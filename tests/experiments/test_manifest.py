"""What a run says of its circumstances: everything asked for is there, and it is JSON."""

from __future__ import annotations

import json
import subprocess

from experiments.manifest import end_manifest, git_state, start_manifest
from experiments.schema import Config


def test_a_manifest_says_on_what_and_with_what():
    config = Config(name="mine", systems=["dssd"]).resolved()
    start = start_manifest(config, "id")
    assert start["machine"]["kernel"] and start["machine"]["cores_usable"] >= 1
    assert "net.ipv4.tcp_slow_start_after_idle" in start["machine"]["sysctl"]
    assert {"numpy", "pyzmq", "msgspec"} <= set(start["software"]["packages"])
    assert (start["seed"], start["status"], start["ended"]) == (0, "running", None)
    link = {"applied": {"device": []}, "observed": {"rtt_ms": 50.1}}
    end = end_manifest(start, status="complete", link=link, models={"edge": {"sha256": "ab"}}, events=[])
    assert end["link"] == {"declared": config["link"], **link}
    assert end["models"] == {"edge": {"sha256": "ab"}}
    assert end["ended"] >= end["started"]
    json.dumps(end, allow_nan=False)


def test_the_commit_and_whether_it_was_changed(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    assert git_state(tmp_path) == {}
    git("init")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "one")
    clean = git_state(tmp_path)
    assert len(clean["commit"]) == 40 and not clean["dirty"]
    (tmp_path / "file").write_text("two")
    assert git_state(tmp_path) == {**clean, "dirty": True}
