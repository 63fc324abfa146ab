"""The doctor names what the tests cannot try, and what mends it."""

from __future__ import annotations

from experiments import doctor


def finding(monkeypatch, path: str) -> dict:
    monkeypatch.setattr(doctor, "TOOL_PATH", path)
    [found] = [each for each in doctor.diagnose() if each["name"] == "tools of the tests"]
    return found


def test_a_tool_that_tests_need_is_named_with_what_is_not_tried(monkeypatch, tmp_path):
    names = [tool.names[0] for tool in doctor.TEST_TOOLS]
    missing = finding(monkeypatch, str(tmp_path))
    assert not missing["ok"] and all(name in missing["detail"] for name in names)
    assert missing["remedy"] == "apt install shellcheck openssh-server chromium"
    for name in names:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    here = finding(monkeypatch, str(tmp_path))
    assert here["ok"] and here["remedy"] == ""
