"""The HTML report of a run: one file, no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, select_autoescape
from markupsafe import Markup

from recstill.api.measured import Measured

if TYPE_CHECKING:
    from recstill.evaluation.transfer import Transfer

Table = Mapping[str, Mapping[str, tuple[Measured, float, int]]]
# What a task may compare beside its labels: heading -> beginning of the metrics' names.
_PARTS = {"Groups": "fairness", "Score bands": "bands", "Slices of the primary metric": "slices", "Score": "score"}


@dataclass
class ReportContent:
    """What a report shows: of `table`, the metrics of each label, then what the task compares. `plots` maps a heading to SVG
    text that this package drew."""

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
    tables |= {heading: _by_name(content.table, start) for heading, start in _PARTS.items()}
    shown = {heading: table for heading, table in tables.items() if table["rows"]}
    values = {"content": content, "tables": shown, "reasons": _reasons(content.table)}
    return write_page("report.html", path, values, content.plots)


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
    """A row for each subject, a column for each metric of a label."""
    names = _names(table, label)
    rows = [(subject, [_cell(values.get(f"{label}.{name}")) for name in names]) for subject, values in table.items()]
    return {"columns": names, "rows": [(subject, cells) for subject, cells in rows if any(cells)]}


def _by_name(table: Table, start: str) -> dict[str, Any]:
    """A row for each metric, a column for each subject that has one: there may be many metrics."""
    names = _names(table, start)
    subjects = [subject for subject, values in table.items() if any(f"{start}.{name}" in values for name in names)]
    rows = [(name, [_cell(table[subject].get(f"{start}.{name}")) for subject in subjects]) for name in names]
    return {"columns": subjects, "rows": rows}


def _names(table: Table, start: str) -> list[str]:
    found = (name for values in table.values() for name in values if name.startswith(f"{start}."))
    return list(dict.fromkeys(name.split(".", 1)[1] for name in found))


def _cell(value: tuple[Measured, float, int] | None) -> str:
    if value is None:
        return ""
    mean, spread, seeds = value
    if isinstance(mean, str):
        return "undefined"
    return f"{mean:.4f}" + (f" ± {spread:.4f}" if seeds > 1 else "")


def _reasons(table: Table) -> dict[str, str]:
    """Why a metric has no value, once where it is the same for all subjects."""
    found: dict[tuple[str, str], list[str]] = {}
    for subject, values in table.items():
        for name, (mean, _, _) in values.items():
            if isinstance(mean, str):
                found.setdefault((name, mean), []).append(subject)
    return {f"{name}, {', '.join(subjects)}": reason for (name, reason), subjects in found.items()}
