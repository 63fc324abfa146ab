"""What a user can mend: errors that are told in one line instead of a traceback."""

from __future__ import annotations

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


def expected_failures() -> tuple[type[Exception], ...]:
    """Evaluated when an exception is on its way: only modules that were imported can have raised one."""
    return tuple(
        getattr(sys.modules[module], name) for module, names in OURS.items() if module in sys.modules for name in names
    )
