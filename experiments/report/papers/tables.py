"""What a picture shows as numbers: CSV, a row a point with everything known of it, and a LaTeX table (booktabs)."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from experiments.axes import Value, value_text
from experiments.collection import Collection
from experiments.report.many.reported import HEADINGS, remarks, rows_beside
from experiments.report.many.tables import HEADLINE, WITH_INTERVAL
from experiments.report.papers.picture import Estimate, Line, Panel, Picture

COLUMNS = ("panel", "system", "exact", "role", "axis", "at", "figure", "value", "low", "high", "spread", "runs")
ESCAPES = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
           "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
           ">": r"\textgreater{}", "–": "--", "∞": r"$\infty$", "×": r"$\times$", "γ": r"$\gamma$",
           "α": r"$\alpha$"}  # fmt: skip
LEFT_TO_CSV = ("rounds, paper's α", "rounds measured", "run")
UNIQUE_HEADINGS = [
    "system", "models", "rtt_ms", "rate_mbps", "draft_length", "top_k", "source", "speedup_reported",
    "speedup_formula_paper", "speedup_formula_run", "speedup_measured", "comm_s_reported", "comm_s_formula_paper",
    "comm_s_never_billed", "comm_s_formula_run", "comm_s_measured", "acceptance_paper", "acceptance_run",
    "rounds_formula_paper", "rounds_measured", "run",
]  # fmt: skip
NEEDS = "% needs \\usepackage{booktabs}"


def write_csv(picture: Picture, folder: Path) -> Path:
    path = folder / f"{picture.name}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(_points(picture))
    return path


def _points(picture: Picture) -> Iterator[list[object]]:
    for panel in picture.panels:
        for line in panel.lines:
            for mark in line.marks:
                about = [panel.title, line.system, "yes" if line.exact else "no", line.role, picture.by, mark.at]
                if mark.x is not None:
                    yield [*about, line.x_figure, *_numbers(mark.x), mark.runs]
                yield [*about, line.figure, *_numbers(mark.y), mark.runs]


def _numbers(estimate: Estimate) -> list[object]:
    return [estimate.value, estimate.low, estimate.high, estimate.spread]


def write_latex(picture: Picture, folder: Path) -> Path:
    """A block a panel; systems down, the axis across, `value [low, high]`."""
    path = folder / f"{picture.name}.tex"
    notes = [f"% {picture.title}", *(f"% {_plain(note)}" for note in picture.notes), NEEDS]
    blocks = [_block(picture, panel) for panel in picture.panels if panel.lines]
    path.write_text("\n".join([*notes, *blocks]) + "\n", encoding="utf-8")
    return path


def _block(picture: Picture, panel: Panel) -> str:
    if any(line.x_figure and line.role != "critical" for line in panel.lines):
        return _pairs(picture, panel)
    lines = [line for line in panel.lines if line.role != "critical"]
    places = list(dict.fromkeys(mark.at for line in lines for mark in line.marks))
    if not panel.x_values:
        places.sort(key=lambda value: float(value))  # type: ignore[arg-type]
    heading = ["system", *(f"{picture.by} {value_text(place)}" for place in places)]
    rows = [[_name(line), *(_at(line, place) for place in places)] for line in lines]
    return _tabular(_titled(panel), heading, rows)


def _pairs(picture: Picture, panel: Panel) -> str:
    rows = [
        [_name(line), value_text(mark.at), _cell(mark.x) if mark.x else "–", _cell(mark.y)]
        for line in panel.lines
        for mark in line.marks
    ]
    return _tabular(_titled(panel), ["system", picture.by, panel.x_label, panel.y_label], rows)


def _titled(panel: Panel) -> str:
    return ", ".join(part for part in (panel.y_label, panel.title) if part)


def _name(line: Line) -> str:
    return line.system + (f" ({line.role})" if line.role != "measured" else "") + ("" if line.exact else "*")


def _at(line: Line, place: Value) -> str:
    found = next((mark for mark in line.marks if mark.at == place), None)
    return _cell(found.y) if found else "–"


def _cell(estimate: Estimate) -> str:
    text = _three(estimate.value)
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{_three(estimate.low)}, {_three(estimate.high)}]"


def _three(value: float) -> str:
    """Three significant digits, in no power of ten."""
    if value == 0:
        return "0"
    places = 3
    while places and abs(value) >= 10 ** (3 - places) * 0.9995:
        places -= 1
    return f"{value:.{places}f}"


def _tabular(title: str, heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [
        f"% {_plain(title)}",
        f"\\begin{{tabular}}{{l{'r' * (len(heading) - 1)}}}",
        "\\toprule",
        _row(heading),
        "\\midrule",
        *map(_row, rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(escape, cells)) + r" \\"


def escape(text: str) -> str:
    return "".join(ESCAPES.get(character, character) for character in text)


def _plain(text: str) -> str:
    return text.replace("\n", " ")


# The headline of every run --------------------------------------------------------------------------------------------


def write_headline(collection: Collection, folder: Path) -> list[Path]:
    """headline.csv and headline.tex: the page's first table, every system of every run."""
    axes = list(collection.all_axes)
    folder.mkdir(parents=True, exist_ok=True)
    data, texts = [], []
    for row in collection.rows:
        run = collection.runs[row.run]
        places = [row.axes.get(axis) for axis in axes]
        exact = "yes" if row.figures["exact"] else "no"
        numbers = list(_headline_numbers(row.figures))
        data.append([run.label, row.system, exact, *places, *numbers, row.figures["energy_status"]])
        texts.append([row.system + ("" if row.figures["exact"] else "*"), *map(value_text, places),
                      *_headline_texts(row.figures)])  # fmt: skip
    names = [part for key in HEADLINE.values() for part in _columns(key)]
    paths = [folder / "headline.csv", folder / "headline.tex"]
    with paths[0].open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["run", "system", "exact", *axes, *names, "energy_status"], *data])
    heading = ["system", *axes, *HEADLINE]
    paths[1].write_text(f"{NEEDS}\n% * not exact\n{_tabular('headline', heading, texts)}\n", encoding="utf-8")
    return paths


def write_reported(collection: Collection, folder: Path) -> list[Path]:
    """paper-settings.csv and paper-settings.tex: what papers report beside formula and measurement; none where no
    run is at a published setting."""
    rows = [cells for _, cells in rows_beside(collection)]
    if not rows:
        return []
    headings = [heading.strip() for heading in HEADINGS]
    paths = [folder / "paper-settings.csv", folder / "paper-settings.tex"]
    with paths[0].open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([UNIQUE_HEADINGS, *rows])
    shown = [i for i, heading in enumerate(headings) if heading not in LEFT_TO_CSV]
    texts = [[_text(row[i]) for i in shown] for row in rows]
    body = _tabular("reported, formula, measured", [headings[i] for i in shown], texts)
    about = "\n".join(f"% {_plain(line)}" for line in remarks(collection))
    paths[1].write_text(f"{NEEDS}\n{about}\n{body}\n", encoding="utf-8")
    return paths


def _text(cell: str | float | None) -> str:
    if cell is None or isinstance(cell, str):
        return cell or "–"
    return f"{cell:g}" if float(cell).is_integer() else _three(cell)


def _columns(key: str) -> list[str]:
    return [key, f"{key}_low", f"{key}_high"] if key in WITH_INTERVAL else [key]


def _headline_numbers(figures: Mapping[str, object]) -> Iterator[object]:
    for key in HEADLINE.values():
        yield figures.get(key)
        if key in WITH_INTERVAL:
            ends = figures.get(f"{key}_ci95")
            yield from ends if isinstance(ends, list) else (None, None)


def _headline_texts(figures: Mapping[str, object]) -> Iterator[str]:
    for key in HEADLINE.values():
        value, ends = figures.get(key), figures.get(f"{key}_ci95") if key in WITH_INTERVAL else None
        if not isinstance(value, int | float):
            yield "–"
        else:
            yield _cell(Estimate(value, *ends) if isinstance(ends, list) else Estimate(value))
