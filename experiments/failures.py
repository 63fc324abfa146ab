"""What a user can mend: errors that are told in one line instead of a traceback."""

from __future__ import annotations

import errno
import sys

OURS = {
    "experiments.bench": ["BenchError"],
    "experiments.reading": ["ConfigError"],
    "experiments.launch": ["RunError"],
    "experiments.remote.ssh": ["RemoteError"],
    "experiments.report.papers.picture": ["FigureError"],
    "experiments.store": ["StoreError"],
    "netem.errors": ["LinkError"],
    "netem.traces.trace": ["TraceError"],
    "nodes.composition": ["CompositionError"],
    "nodes.engine": ["EngineError"],
    "nodes.probes": ["ProbeError"],
    "transport.keys": ["KeysError"],
    "transport.link": ["LinkError"],
}


DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def in_a_line(error: Exception) -> str | None:
    """None for a bug, which is to show its traceback."""
    if isinstance(error, _expected()):
        return str(error)
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return f"{error.filename or 'while writing'}: {error.strerror}: make room; what was recorded until then stays"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return None


def _expected() -> tuple[type[Exception], ...]:
    """Evaluated when an exception is on its way: only modules that were imported can have raised one."""
    return tuple(
        getattr(sys.modules[module], name) for module, names in OURS.items() if module in sys.modules for name in names
    )
