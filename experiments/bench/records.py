"""What a measurement is reported as: a number beside what it had to reach."""

from __future__ import annotations

import operator
from typing import Any

COMPARISONS = {">=": operator.ge, "<=": operator.le}


def record(name: str, value: float, unit: str, bound: str = "", note: str = "") -> dict[str, Any]:
    """{name, value, bound, unit, ok, note}. `bound` is ">= NUMBER" or "<= NUMBER" in `unit`; empty: nothing was
    promised, the number explains another, and `ok` is true."""
    value = round(float(value), 4)
    return {"name": name, "value": value, "bound": bound, "unit": unit, "ok": holds(value, bound), "note": note}


def holds(value: float, bound: str) -> bool:
    """Does `value` keep the bound? A value that is not a number keeps none."""
    if not bound:
        return True
    comparison, limit = bound.split()
    return bool(COMPARISONS[comparison](value, float(limit)))
