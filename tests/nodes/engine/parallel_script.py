"""What test_hf_parallel.py runs under torchrun: the first process plays a script on the engine and writes what it was
answered, the others follow. `python parallel_script.py MODEL PROCESSES ANSWERS`."""

from __future__ import annotations

import os
import sys

import numpy as np

from nodes.engine import EngineError, SessionRefused
from nodes.engine.make import follow_engine, make_engine
from nodes.sampling import Sampling
from nodes.session import Session


def play(engine) -> dict[str, np.ndarray]:
    """Prompts together, drafts verified and rolled back, a session forgotten, another one refused, a long one."""
    first, second, third = (Session(Sampling()) for _ in range(3))
    told: list[np.ndarray] = []
    states: list[np.ndarray] = []

    def feed(*fed: tuple[Session, list[int], int]) -> None:
        for session, tokens, rows in fed:
            session.become(tokens)
            session.rewind(rows)
        answers = engine.forward([session for session, _, _ in fed], [rows for _, _, rows in fed])
        told.extend(answer.row(i) for answer in answers for i in range(len(answer)))
        states.extend(answer.hidden(i) for answer in answers for i in range(len(answer)))

    feed((first, [5, 6, 7], 1), (second, [1, 2, 3, 4, 8, 9], 2))
    feed((first, [5, 6, 7, 11, 12, 13], 4))
    feed((first, [5, 6, 7, 11, 40], 2), (second, [1, 2, 3, 4, 8, 9, 10], 1))  # of three drafted, one was accepted
    engine.release(second)
    feed((second, [30, 31], 1), (third, list(range(80)), 3))
    third.become([*third.tokens, 5000])
    try:
        engine.forward([third, first], [1, 1])
        raise AssertionError("a token that there is not was fed")
    except SessionRefused:
        third.become(third.tokens[:-1])
    feed((first, [5, 6, 7, 11, 41, 42], 1), (third, list(range(70)), 1))
    return {"rows": np.stack(told), "states": np.stack(states)}


def main() -> None:
    model, processes, answers = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    spec = {"engine": f"hf:{model}", "device": "cpu", "threads": 1, "tensor_parallel": processes}
    try:
        if os.environ["RANK"] != "0":
            follow_engine(spec)
            return
        np.savez(answers, **play(make_engine(spec, "target")))
    except EngineError as error:
        sys.exit(f"refused: {error}")


if __name__ == "__main__":
    main()
