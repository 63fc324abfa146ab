"""`tensor_parallel: N`: the edge's target is held by N processes, which torchrun starts and watches.

The edge's process becomes torchrun's own and starts itself N times; the first of them (rank 0) is the edge node that
everybody knows, the others only compute (hf_parallel.py). On several machines torchrun is called by hand, and each of
its processes finds itself in such a group already. Knows no torch until a group is started.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from nodes.engine import EngineError

LOOPBACK = "127.0.0.1"
STOP_WITHIN_S = 8  # after SIGTERM; then torchrun kills
END_ALONE_AFTER_S = 5.0


def processes(engine: Mapping[str, Any]) -> int:
    """How many hold the engine of this section."""
    return int(engine.get("tensor_parallel") or 1)


def rank(engine: Mapping[str, Any]) -> int | None:
    """Which of them this process is; None where they have not been started yet. Raises EngineError for a group of
    another size."""
    wanted, found = processes(engine), int(os.environ.get("WORLD_SIZE", "1"))
    if "RANK" not in os.environ:
        return 0 if wanted == 1 else None
    if wanted != found:
        raise EngineError(
            f"torchrun started {found} processes and the configuration says tensor_parallel: {wanted}: make them the "
            "same (torchrun starts nnodes times nproc-per-node)"
        )
    return int(os.environ["RANK"])


def start(count: int, module: str, argv: Sequence[str], device: str) -> None:
    """Run `python -m module argv` `count` times on this machine, as one group, until all have ended or SIGTERM or
    SIGINT comes. Raises EngineError naming the process that died."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # they are all here, whatever the host's name resolves to
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # `threads` of the configuration says how many, later
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # transformers takes an accelerator where it sees one
    os.environ |= {"PET_SHUTDOWN_TIMEOUT": str(STOP_WITHIN_S), "PET_SIGNALS_TO_HANDLE": ",".join(_heeded())}
    options = ["--standalone", "--local-addr", LOOPBACK, "--nproc-per-node", str(count)]
    arguments = parse_args([*options, "-m", module, *argv])
    try:
        run(arguments)
    except SignalException:
        return
    except ChildFailedError as error:
        codes = {number: failure.exitcode for number, failure in error.failures.items()}
        number = first_to_die(codes)
        raise EngineError(
            f"process {number} of the {count} that hold the target (pid {error.failures[number].pid}) "
            f"{_how(codes[number])}; the others were ended. The log above says more"
        ) from None


def first_to_die(codes: Mapping[int, int]) -> int:
    """Of those found ended at the same time, the one whose end the others' followed from: it was killed, where they
    have lost a peer and said so. `codes`: the exit code by rank, minus a signal's number."""
    return min(codes, key=lambda number: (codes[number] >= 0 or codes[number] == -signal.SIGTERM, number))


def _heeded() -> list[str]:
    """The signals that end a group, but those which `nohup` or a shell's `&` has this process ignore."""
    stops = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return [number.name for number in stops if signal.getsignal(number) != signal.SIG_IGN]


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    return f"was killed by signal {-code} ({signal.Signals(-code).name})"


def obey_rank_0() -> None:
    """SIGTERM and SIGINT go to all at once, and rank 0 may be in the midst of a forward: the others end with it, or a
    while later."""
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)  # of all threads to come

    def leave() -> None:
        signal.sigwait(stops)
        time.sleep(END_ALONE_AFTER_S)
        os._exit(0)

    threading.Thread(target=leave, name="leave", daemon=True).start()
