"""A lab that outlives its command: made, found, checked and changed by other processes, taken down."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from conftest import need

from netem import check, keeper
from netem.errors import CommandError, LinkError
from netem.journal import clean_leftovers, journals
from netem.lab import open_lab
from netem.spec import LinkSpec


@pytest.mark.lab
@pytest.mark.parametrize("backend", ["netns", pytest.param("uml", marks=pytest.mark.slow)])
def test_up_attach_change_down(backend: str) -> None:
    need(backend, shaped=False)
    spec = LinkSpec(backend=backend, **({"rtt_ms": 30} if backend == "uml" else {}))
    said = keeper.up(spec, f"kept-{backend}")
    try:
        assert said["backend"] == backend and said["declared"] == spec.model_dump()
        with keeper.attached(said["name"]) as lab:
            assert lab.applied == said["applied"] and lab.tcp == said["tcp"]
            assert check._ask(lab, 20, 2.0).answers
            with pytest.raises(CommandError, match=r"nosuch|not found"):
                lab.on_router(["nosuch"])
            if backend == "uml":
                lab.change(LinkSpec(backend=backend, rtt_ms=10))
        with keeper.attached(said["name"]) as lab:
            assert lab.spec.base_rtt_ms == (10 if backend == "uml" else 0)
            check.check_link(lab).require()
        with pytest.raises(LinkError, match="is up already"):
            keeper.up(spec, said["name"])
    finally:
        keeper.down(said["name"])
    assert said["name"] not in [journal.lab_id for journal in journals()]
    assert not list(Path("/run/netns").glob(f"dssd-{said['name']}-*"))


@pytest.mark.lab
def test_a_kept_lab_whose_keeper_was_killed_is_a_leftover() -> None:
    need("netns", shaped=False)
    keeper.up(LinkSpec(backend="netns"), "kept-killed")
    (journal,) = [journal for journal in journals() if journal.lab_id == "kept-killed"]
    os.kill(journal.pid, signal.SIGKILL)
    while journal.owner_lives():
        time.sleep(0.01)
    assert "kept-killed" in clean_leftovers()
    with pytest.raises(LinkError, match="no lab named 'kept-killed'"):
        keeper.down("kept-killed")


@pytest.mark.lab
def test_only_kept_labs_are_taken_down_from_outside() -> None:
    need("netns", shaped=False)
    with open_lab(LinkSpec(backend="netns"), name="not-kept") as lab:
        with pytest.raises(LinkError, match=rf"running process {os.getpid()}"):
            keeper.down("not-kept")
        with pytest.raises(LinkError, match="not one that `up` made"), keeper.attached("not-kept"):
            pass
        assert check._ask(lab, 5, 2.0).answers


def test_there_is_nothing_to_keep_of_loopback() -> None:
    with pytest.raises(LinkError, match="nothing is declared"):
        keeper.up(LinkSpec(), "nothing")
