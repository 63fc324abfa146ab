"""Which system wins where: under every condition the best exact system and the best of all, and how far each of the
others is from it. A condition is a link and a place on the runs' other axes; its repeats are averaged (geometric means
of ms per token)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.axes import place
from experiments.collection import Collection, Row, link_label
from experiments.intervals import paired


@dataclass(frozen=True)
class Condition:
    """`ms_per_token` by system; `p_value` of the best exact system beside the second, where one run had both."""

    link: str
    rest: str  # the other axes, in words
    name: str  # both, the link by its own name where it has one
    runs: Sequence[int]
    ms_per_token: dict[str, float]
    exact: dict[str, bool]
    p_value: float | None

    @property
    def ranking(self) -> list[str]:
        """Exact systems, the fastest first."""
        return sorted((name for name in self.ms_per_token if self.exact[name]), key=self.ms_per_token.__getitem__)

    @property
    def best_exact(self) -> str | None:
        return next(iter(self.ranking), None)

    @property
    def best(self) -> str:
        return min(self.ms_per_token, key=self.ms_per_token.__getitem__)

    def behind_pct(self, system: str) -> float | None:
        """How much longer a token takes than with the best exact system; below 0: it is not exact."""
        if self.best_exact is None or system not in self.ms_per_token:
            return None
        return 100 * (self.ms_per_token[system] / self.ms_per_token[self.best_exact] - 1)

    def saved_pct(self, system: str) -> float | None:
        """How much sooner a token comes than from the target alone at the edge; below 0: later."""
        if "edge_ar" not in self.ms_per_token or system not in self.ms_per_token:
            return None
        return 100 * (1 - self.ms_per_token[system] / self.ms_per_token["edge_ar"])


def conditions(collection: Collection) -> list[Condition]:
    """In the order of their axes."""
    links = [link_label((run.summary.get("link") or {}).get("declared") or {}) for run in collection.runs]
    groups: dict[tuple[str, str, str], list[int]] = {}
    for i, (link, run) in enumerate(zip(links, collection.runs)):
        alike = [other.axes for other, label in zip(collection.runs, links) if label == link]
        rest = {  # the label tells the link's other axes
            key: value
            for key, value in run.axes.items()
            if not key.startswith("link.") or any(axes[key] != value for axes in alike)
        }
        words = place(rest)
        name = words if "link" in rest else ", ".join(filter(None, [link, words]))
        groups.setdefault((link, words, name), []).append(i)
    by_run: dict[int, list[Row]] = {}
    for row in collection.rows:
        if row.figures["ms_per_token"]:
            by_run.setdefault(row.run, []).append(row)
    found = []
    for (link, where, name), runs in sorted(groups.items(), key=lambda item: _place_of(collection, item[1][0])):
        times: dict[str, list[float]] = {}
        exact: dict[str, bool] = {}
        for row in (row for i in runs for row in by_run.get(i, [])):
            times.setdefault(row.system, []).append(row.figures["ms_per_token"])
            exact[row.system] = exact.get(row.system, True) and row.figures["exact"]
        if times:
            means = {name: math.exp(sum(map(math.log, mine)) / len(mine)) for name, mine in times.items()}
            condition = Condition(link, where, name, runs, means, exact, None)
            found.append(Condition(link, where, name, runs, means, exact, _p_value(collection, condition)))
    return found


def _place_of(collection: Collection, run: int) -> tuple[int, ...]:
    at = collection.runs[run].axes
    return tuple(list(values).index(at[key]) for key, values in collection.axes.items())


def _p_value(collection: Collection, condition: Condition) -> float | None:
    if len(condition.runs) != 1 or len(condition.ranking) < 2:
        return None
    pair = paired(collection.runs[condition.runs[0]].summary["comparisons"], *condition.ranking[:2])
    return pair["p_value"] if pair else None
