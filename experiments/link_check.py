"""A link measured by itself: built for the purpose, or one that `dssd netem up` keeps."""

from __future__ import annotations

from typing import Any

from experiments.cli.answers import note, table
from experiments.report.link_rows import HEADINGS, link_rows
from netem.check import check_link
from netem.keeper import attached
from netem.lab import exit_on_sigterm, open_lab
from netem.spec import LinkSpec


def check_new(spec: LinkSpec) -> dict[str, Any]:
    """Build the link, measure it, take it down."""
    with exit_on_sigterm(), open_lab(spec) as lab:
        return {"backend": lab.backend, **check_link(lab).to_dict()}


def check_kept(name: str) -> dict[str, Any]:
    """Measure a kept lab as it is now. Raises LinkError where there is none of that name."""
    with attached(name) as lab:
        return {"backend": lab.backend, **check_link(lab).to_dict()}


def show_check(found: dict[str, Any]) -> None:
    """Declared, applied and observed as a table, and the verdict."""
    table([dict(zip(HEADINGS, row)) for row in link_rows(found)], list(HEADINGS))
    for line in found["skipped"]:
        note(f"not judged: {line}")
    for line in found["problems"]:
        note(f"off: {line}")
    print(
        f"{found['backend']}: {'off' if found['problems'] else 'as declared'}, measured in {found['duration_s']:.1f} s"
    )
