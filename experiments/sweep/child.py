"""One run of a sweep, in a process of its own: nothing leaks from one run into the next, and a crash is one run's.

    python -m experiments.sweep.child RUN_FOLDER PID_OF_THE_SWEEP

It is told everything by the folder: its config.yaml, and whose turn it is in its manifest. A folder that was recorded
to its end is only summed up. If the sweep is killed, this ends as if told to stop: link down, nodes gone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

from experiments.failures import in_a_line
from experiments.run import record_run, tabulate
from experiments.schema import load_config
from experiments.store import RunFolder

PR_SET_PDEATHSIG = 1


def main(path: str, parent: str) -> int:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):  # it died before the line above
        return 1
    try:
        folder = RunFolder(Path(path))
        manifest = folder.manifest()
        if manifest["status"] == "complete":
            folder.close()
        else:
            record_run(load_config(folder.path / "config.yaml"), folder, {"sweep": manifest["sweep"]})
        tabulate(folder)
    except Exception as error:
        if (line := in_a_line(error)) is None:
            raise
        print(f"dssd: {line}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
