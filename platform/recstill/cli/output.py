"""Results on stdout as a table or as JSON; everything else goes to stderr."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from recstill.api.measured import Measured

F = TypeVar("F", bound=Callable[..., Any])


def output_option(function: F) -> F:
    """Add -o/--output."""
    return click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="How to print.")(function)


def show(rows: Sequence[Any], output: str, empty: str = "nothing") -> None:
    """Print rows (mappings or dataclasses) as an aligned table or as a JSON list."""
    plain = [asdict(row) if is_dataclass(row) and not isinstance(row, type) else dict(row) for row in rows]
    if output == "json":
        click.echo(json.dumps(plain, indent=1, default=str))
        return
    if not plain:
        click.echo(f"({empty})", err=True)
        return
    names = list(plain[0])
    cells = [[_cell(row[name]) for name in names] for row in plain]
    widths = [max(len(name), *(len(row[place]) for row in cells)) for place, name in enumerate(names)]
    for line in [names, *cells]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def show_one(value: Mapping[str, Any] | Any, output: str) -> None:
    """Print one thing as lines of name and value, or as JSON."""
    plain: Mapping[str, Any] = value if isinstance(value, Mapping) else asdict(value)
    if output == "json":
        click.echo(json.dumps(plain, indent=1, default=str))
        return
    width = max(map(len, plain), default=0)
    for name, item in plain.items():
        nested = item.items() if isinstance(item, Mapping) else None
        if nested is None:
            click.echo(f"{name.ljust(width)}  {_cell(item)}")
        else:
            click.echo(f"{name}:")
            for key, inner in nested:
                click.echo(f"  {key}: {_cell(inner)}")


def metric_cell(value: Measured | None, output: str) -> float | str | None:
    """A metric in a table of several: one without a value is null in JSON, and says so in a table."""
    if isinstance(value, str):
        return None if output == "json" else "undefined"
    return value


def spread_text(mean: Measured, spread: float, seeds: int) -> str:
    """A mean over seeds as people read it, or why there is none."""
    if isinstance(mean, str):
        return f"undefined: {mean}"
    return f"{mean:.4f}" + (f" ± {spread:.4f}" if seeds > 1 else "")


def spread_json(mean: Measured, spread: float, seeds: int) -> dict[str, Any]:
    """A mean over seeds as programs read it: null with the reason where it is undefined."""
    if isinstance(mean, str):
        return {"value": None, "reason": mean, "seeds": seeds}
    return {"value": mean, "spread": spread, "seeds": seeds}


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
