"""Figures and tables for papers, over any number of runs.

    picture = make_picture(collection, "speedup", Choice(by="link.rtt_ms"))    kinds.py
    write_picture(picture, folder, "double")        draw.py: PDF and SVG; tables.py: CSV and LaTeX

A figure and its tables are made from one `Picture`, so they cannot differ.
"""

from experiments.report.papers.draw import WIDTHS_IN, write_picture
from experiments.report.papers.kinds import KINDS, make_picture
from experiments.report.papers.picture import FigureError
from experiments.report.papers.places import Choice, axes_of
from experiments.report.papers.tables import write_headline, write_reported

__all__ = [
    "KINDS",
    "WIDTHS_IN",
    "Choice",
    "FigureError",
    "axes_of",
    "make_picture",
    "write_headline",
    "write_picture",
    "write_reported",
]
