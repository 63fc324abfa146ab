"""What the literature's formulas say a run should have taken, from the run's own measured parts, beside what it took.

    formulas.py    the formulas, each with its source
    measured.py    the parts of a run that they need
    reported.py    what papers report for settings that can be run here

`predict` writes `predicted` into each system's figures; where a formula does not apply it says why.
"""

from experiments.predict.measured import predict

__all__ = ["predict"]
