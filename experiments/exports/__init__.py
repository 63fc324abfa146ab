"""Results for other programs: tables in Parquet, requests as aiperf writes them, figures in MLflow.

Every exporter reads run folders, changes nothing in them, and replaces nothing unless it is told to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from experiments.store import StoreError, replacing


@contextmanager
def files_for(targets: Sequence[Path], force: bool) -> Iterator[list[Path]]:
    """Where to write what shall become `targets`: all of them appear when all are written, none if anything fails.
    Raises StoreError for one that is there already, unless `force`."""
    there = [str(path) for path in targets if path.exists()]
    if there and not force:
        raise StoreError(f"{', '.join(there)}: there already; --force replaces, or give another --out")
    with ExitStack() as stack:
        try:
            for path in targets:
                path.parent.mkdir(parents=True, exist_ok=True)
            yield [stack.enter_context(replacing(path)) for path in targets]
        except OSError as error:
            raise StoreError(f"{targets[0].parent}: cannot be written: {error.strerror or error}") from None
