"""How a finished run is shown: the metrics, the verdict, and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from recstill.cli.output import show, show_one, spread_json, spread_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from recstill.api.measured import Measured
    from recstill.api.task import TaskSpec
    from recstill.recipes.platform import Platform
    from recstill.recipes.stages import RunResult

    Metrics = Mapping[str, Mapping[str, tuple[Measured, float, int]]]

# What a row of the table shows, the weightiest first; ranking before calibration before errors.
_BY_WEIGHT = ("auc", "gauc", "accuracy", "ndcg@10", "spearman", "mrr", "ne", "calibration", "rmse", "mae", "logloss")
_MOST = 6


def show_result(platform: Platform, result: RunResult, output: str) -> None:
    """Print a finished run as a table with the verdict and the next commands, or as one JSON object with every metric."""
    spec = task_of(platform, result.run_id)
    facts = {
        "run": result.run_id,
        "student": result.student,
        "teacher": result.teacher,
        "verdict": result.verdict,
        "report": str(result.report),
    }
    if output == "json":
        metrics = {
            subject: {name: spread_json(*value) for name, value in sorted(values.items())}
            for subject, values in result.metrics.items()
        }
        show_one({**facts, "metrics": metrics}, output)
        return
    show_metrics(result.metrics, headline(spec, result.metrics))
    click.echo()
    show_one(facts, output)
    click.echo("\nNext:")
    for command, purpose in next_commands(result, reads_features=any_views(platform, result.student)):
        click.echo(f"  {command.ljust(48)}  # {purpose}")


def show_metrics(metrics: Metrics, names: Sequence[str]) -> None:
    """Print a row for each model and a column for each of these metrics, without the name of the label."""
    rows = []
    for subject, values in metrics.items():
        row: dict[str, Any] = {"": subject}
        for name in names:
            row[name.split(".", 1)[1]] = spread_text(*values[name]) if name in values else ""
        rows.append(row)
    show(rows, "table")


def headline(spec: TaskSpec, metrics: Metrics) -> list[str]:
    """Return the metrics of the primary label that say most, of those that the run has, and the gaps of its groups."""
    known = {name for values in metrics.values() for name in values}
    label = spec.primary.name
    names = [name for name in (f"{label}.{metric}" for metric in _BY_WEIGHT) if name in known]
    recalls = sorted(name for name in known if name.startswith(f"{label}.recall@"))
    gaps = [f"fairness.{group}.approval_gap" for group in spec.fairness]
    return (recalls + names)[:_MOST] + [gap for gap in gaps if gap in known]


def next_commands(result: RunResult, *, reads_features: bool) -> list[tuple[str, str]]:
    """Return commands to copy, each with what it is for."""
    name = result.student.split(":")[0]
    commands = [
        (f"recstill runs report {result.run_id}", "the page with all metrics, for a browser"),
        (f"recstill models promote {result.student}", "make it champion, through the gates"),
    ]
    if reads_features:
        commands.append(("recstill features materialize", "bring its features online"))
    return [*commands, (f"recstill serve {name}@champion", "answer requests on http://127.0.0.1:3000")]


def task_of(platform: Platform, run_id: str) -> TaskSpec:
    """Return the description of a run's task."""
    from recstill.registry.runs import get_run

    with platform.registry.transaction() as session:
        task = get_run(session, run_id).task
    return platform.task(task).spec


def any_views(platform: Platform, reference: str) -> bool:
    """Say whether a version reads features from views when it serves."""
    from recstill.registry.versions import feature_set_of, find_version

    with platform.registry.transaction() as session:
        return bool(feature_set_of(session, find_version(session, reference)).content["views"])
