"""What a run looks like: one self-contained page, figures for papers, a trace for Perfetto.

    write_report(folder, summary)    report.html    interactive, works offline from a file
    write_figures(folder, summary)   figures/       PDF and SVG
    write_trace(folder)              trace.json     Chrome trace events

All of it is derived from the run's records and its summary, and may be made again at any time.
"""

from experiments.report.figures import write_figures
from experiments.report.page import write_report
from experiments.report.trace import write_trace

__all__ = ["write_figures", "write_report", "write_trace"]
