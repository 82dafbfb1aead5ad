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
    metric: str
    facts: Mapping[str, str]
    efficiency: Sequence[Mapping[str, str]]
    lineage: Sequence[tuple[str, str, str]]
    notes: Sequence[str] = ()
    plots: Mapping[str, str] = field(default_factory=dict)


def write_report(content: ReportContent, path: Path) -> Path:
    """Write the report and return its path."""
    tables = {label: _rows(content.table, label) for label in content.labels}
    return write_page("report.html", path, {"content": content, "tables": tables}, content.plots)


def write_page(template: str, path: Path, values: Mapping[str, Any], plots: Mapping[str, str]) -> Path:
    """Fill a template and write it whole. Plots are SVG drawn by this package from numbers; all else on a page is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=select_autoescape(default=True)
    )
    marked = {name: Markup(svg) for name, svg in plots.items()}
    text = environment.get_template(template).render(**values, plots=marked)
    path.parent.mkdir(parents=True, exist_ok=True)
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
