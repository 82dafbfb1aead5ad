"""The HTML report of a run: one file, no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, select_autoescape
from markupsafe import Markup

if TYPE_CHECKING:
    from recstill.evaluation.transfer import Transfer

Table = Mapping[str, Mapping[str, tuple[float, float, int]]]


@dataclass
class ReportContent:
    """What a report shows. `plots` maps a heading to SVG text that this package drew."""

    title: str
    description: str
    labels: Sequence[str]
    table: Table
    transfer: Transfer
    facts: Mapping[str, str]
    efficiency: Sequence[Mapping[str, str]]
    lineage: Sequence[tuple[str, str, str]]
    notes: Sequence[str] = ()
    plots: Mapping[str, str] = field(default_factory=dict)


def write_report(content: ReportContent, path: Path) -> Path:
    """Write the report and return its path."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=select_autoescape(default=True)
    )
    text = environment.get_template("report.html").render(
        content=content,
        tables={label: _rows(content.table, label) for label in content.labels},
        # The SVG is drawn by this package from numbers; everything else on the page is escaped.
        plots={name: Markup(svg) for name, svg in content.plots.items()},
    )
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.replace(path)
    return path


def _rows(table: Table, label: str) -> dict[str, Any]:
    names = list(dict.fromkeys(n.split(".", 1)[1] for values in table.values() for n in values if n.startswith(f"{label}.")))
    rows = []
    for subject, values in table.items():
        cells = []
        for name in names:
            value = values.get(f"{label}.{name}")
            cells.append("" if value is None else f"{value[0]:.4f}" + (f" ± {value[1]:.4f}" if value[2] > 1 else ""))
        if any(cells):
            rows.append((subject, cells))
    return {"columns": names, "rows": rows}
