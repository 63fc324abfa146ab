"""HTML of tables and plots. Everything that comes from data is escaped here, whatever it is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from experiments.report.palette import PARTS
from experiments.report.plot import Cell, Plot, Table

NOTHING = "–"
LONG = 40  # characters, beyond which a cell breaks its lines


def number(value: float) -> str:
    """Four significant digits, with thin spaces between thousands and never in powers of ten."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", "\u202f")
    text = f"{value:.4g}"
    return f"{value:.6f}".rstrip("0") if "e" in text else text


def cell(value: Cell, text: bool = False) -> str:
    if value is None:
        return f'<td class="text">{NOTHING}</td>' if text else f'<td data-value="">{NOTHING}</td>'
    if isinstance(value, str):
        return f'<td class="text{" long" if len(value) > LONG else ""}">{escape(value)}</td>'
    return f'<td data-value="{value!r}">{number(value)}</td>'


def table(content: Table, sortable: bool = False) -> str:
    texts = [any(isinstance(row[i], str) for row in content.rows) for i in range(len(content.headings))]
    heads = []
    for heading, text in zip(content.headings, texts):
        inner = f'<button type="button">{escape(heading)}</button>' if sortable else escape(heading)
        heads.append(f'<th class="text">{inner}</th>' if text else f"<th>{inner}</th>")
    lines = []
    for i, row in enumerate(content.rows):
        system = f' data-system="{escape(content.systems[i])}"' if content.systems else ""
        lines.append(f"<tr{system}>{''.join(map(cell, row, texts))}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{"".join(heads)}</tr></thead>\n'
        f"<tbody>{chr(10).join(lines)}</tbody></table></div>"
    )


def figure(plot: Plot, controls: str = "") -> str:
    """A plot's place in the page, its caption, and the same as a table."""
    wide = ' class="wide"' if plot.wide else ""
    if plot.reason:
        drawing = f'<p class="absent">Not shown: {escape(plot.reason)}.</p>'
    else:
        drawing = (
            f"{controls}{legend(plot.parts)}\n"
            f'<div id="plot-{plot.id}" role="img" aria-label="{escape(plot.title)}"></div>'
            f"<figcaption>{escape(plot.caption)}</figcaption>"
        )
    return (
        f'<figure{wide} id="figure-{plot.id}"><h3>{escape(plot.title)}</h3>\n{drawing}\n'
        + (folded("Table", table(plot.table)) if plot.table.rows else "")
        + "</figure>"
    )


def legend(parts: Iterable[str]) -> str:
    items = "".join(
        f'<li><span class="swatch" style="--colour: var(--part-{part})"></span>{escape(PARTS[part][0])}</li>'
        for part in parts
    )
    return f'<ul class="legend">{items}</ul>' if items else ""


def folded(title: str, inner: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{inner}</details>"


def listed(lines: Iterable[str], kind: str = "note") -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def preformatted(text: str, kind: str = "") -> str:
    return f'<pre class="{kind}">{escape(text)}</pre>'


def section(title: str, parts: Sequence[str]) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{chr(10).join(part for part in parts if part)}\n</section>"


def embedded_json(value: Any) -> str:
    """JSON that no HTML parser can take for markup."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
