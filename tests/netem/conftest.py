"""Labs for the tests: really built, on whatever this machine can."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from netem.backend import why_not
from netem.lab import Lab, open_lab
from netem.spec import LinkSpec

SHAPING_BACKENDS = ("netns", "uml")


def need(backend: str, shaped: bool = True) -> None:
    """Skip the test where the backend cannot work."""
    problem = why_not(backend, shaped)  # type: ignore[arg-type]
    if problem is not None:
        pytest.skip(f"{backend if shaped else f'{backend} (unshaped)'}: {problem}")


@pytest.fixture(scope="session", autouse=True)
def own_state_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The tests' labs are journalled apart, so that they neither see nor clean anybody else's."""
    before = os.environ.get("DSSD_STATE_DIR")
    folder = tmp_path_factory.mktemp("labs")
    os.environ["DSSD_STATE_DIR"] = str(folder)
    yield folder
    os.environ.pop("DSSD_STATE_DIR")
    if before is not None:
        os.environ["DSSD_STATE_DIR"] = before


@pytest.fixture(scope="session")
def _open_labs() -> Iterator[dict[str, Lab]]:
    """One lab per backend for the whole session: a test gives it the shape it wants."""
    labs: dict[str, Lab] = {}
    with contextlib.ExitStack() as stack:
        labs["_stack"] = stack  # type: ignore[assignment]
        yield labs


@pytest.fixture(params=SHAPING_BACKENDS)
def lab(request: pytest.FixtureRequest, _open_labs: dict[str, Lab]) -> Lab:
    """A live, unshaped lab of each backend that can shape here; `lab.change(LinkSpec(...))` shapes it."""
    backend = request.param
    need(backend)
    if backend not in _open_labs:
        stack: contextlib.ExitStack = _open_labs["_stack"]  # type: ignore[assignment]
        _open_labs[backend] = stack.enter_context(open_lab(LinkSpec(backend=backend)))
    lab = _open_labs[backend]
    lab.mend()
    lab.change(LinkSpec(backend=backend))
    return lab
