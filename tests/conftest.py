"""For all tests. What was not tried is said at the end, and why: a silent skip would hide what a machine lacks."""

from __future__ import annotations

import signal
from collections import Counter, defaultdict

import pytest

# A shell starts a background job (`make test &`) with SIGINT ignored, and what a test starts would ignore it as well.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Every skipped test by its reason, and how many were left for `make test-all`."""
    tests: dict[str, Counter[str]] = defaultdict(Counter)
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        tests[reason.removeprefix("Skipped: ")][report.nodeid.partition("::")[0]] += 1
    left = len(terminalreporter.stats.get("deselected", []))
    if not tests and not left:
        return
    terminalreporter.section("not tried")
    for reason, files in sorted(tests.items()):
        where = ", ".join(f"{file} ({count})" for file, count in sorted(files.items()))
        terminalreporter.write_line(f"{reason}\n    {where}")
    if left:
        terminalreporter.write_line(f"{left} tests that were not asked for, such as the slow ones: make test-all")
