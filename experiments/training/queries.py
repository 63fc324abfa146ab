"""What the bundled pair's small parts are trained on: pieces of standard-library files that the pair never saw."""

from __future__ import annotations

import numpy as np

from nodes.runspec import Prompt

LINES = 10  # of a file, in one query
FEWEST_CHARACTERS = 160  # blank lines and the like ask nothing
SEED = 20_240_414


def held_out_queries(n: int) -> tuple[list[Prompt], str]:
    """n prompts, spread evenly over the held-out files, the file as their category; and what they are, in words."""
    from experiments.pair.data import split, standard_library

    files = [file for file in split(standard_library()).held_out if file.text.count("\n") > 3 * LINES]
    rng = np.random.default_rng(SEED)
    queries: list[Prompt] = []
    while len(queries) < n:
        file = files[len(queries) % len(files)]
        lines = file.text.splitlines(keepends=True)
        start = int(rng.integers(len(lines) - LINES))
        text = "".join(lines[start : start + LINES])
        if len(text.strip()) >= FEWEST_CHARACTERS:
            queries.append(Prompt(f"{file.name}:{start + 1}", text, file.name))
    what = f"{LINES} lines each of {len(files)} files of the Python standard library that the pair was not trained on"
    return queries, what
