"""recstill runs …"""

from __future__ import annotations

import click

from recstill.cli.output import metric_cell, output_option, show, show_one, spread_json, spread_text


@click.group()
def runs() -> None:
    """What was run, and what it found."""


@runs.command("list")
@click.option("--task", help="Only runs of this task.")
@output_option
def list_(task: str | None, output: str) -> None:
    """Show all runs, newest first."""
    from recstill.recipes.platform import Platform
    from recstill.recipes.working import status_of
    from recstill.registry.runs import list_runs

    platform = Platform.open()
    with platform.registry.read() as session:
        rows = list_runs(session, task)
    names = ("id", "task", "status", "verdict", "started_at", "finished_at")
    listed = [{name: getattr(row, name) for name in names} | {"status": status_of(platform.settings, row)} for row in rows]
    show(listed, output, "no run yet")


@runs.command("show")
@click.argument("run_id")
@output_option
def show_(run_id: str, output: str) -> None:
    """Show the run RUN_ID: what each stage took or made anew and why, and its metrics."""
    from recstill.recipes.platform import Platform
    from recstill.recipes.remarks import remarks_of
    from recstill.recipes.staging import reasons_of
    from recstill.recipes.working import status_of
    from recstill.registry.runs import get_run, metrics_of

    platform = Platform.open()
    with platform.registry.read() as session:
        row = get_run(session, run_id)
        metrics = metrics_of(session, row.id)
    found: dict[str, object] = {
        "id": row.id,
        "task": row.task,
        "status": status_of(platform.settings, row),
        "verdict": row.verdict,
        "error": row.error,
        "report": row.report,
        "stages": reasons_of(platform.settings.home / "runs" / row.id),
    }
    for subject, values in metrics.items():
        form = spread_json if output == "json" else spread_text
        found[subject] = {name: form(*value) for name, value in sorted(values.items())}
    if remarks := remarks_of(platform.settings.home / "runs" / row.id):
        found["remarks"] = remarks
    show_one(found, output)


@runs.command()
@click.argument("run_ids", nargs=-1, required=True)
@click.option("--metric", "metrics", multiple=True, help="Only this metric (may be given more than once).")
@output_option
def compare(run_ids: tuple[str, ...], metrics: tuple[str, ...], output: str) -> None:
    """Show the metrics of RUN_IDS side by side."""
    from recstill.recipes.platform import Platform
    from recstill.registry.runs import get_run, metrics_of

    platform = Platform.open()
    with platform.registry.read() as session:
        found = {row.id: metrics_of(session, row.id) for row in (get_run(session, run_id) for run_id in run_ids)}
    keys = dict.fromkeys((s, n) for table in found.values() for s, values in table.items() for n in sorted(values))
    rows = [
        {
            "subject": subject,
            "metric": name,
            **{run: metric_cell(table.get(subject, {}).get(name, (None,))[0], output) for run, table in found.items()},
        }
        for subject, name in keys
        if not metrics or name in metrics
    ]
    show(rows, output)


@runs.command()
@click.argument("run_id")
def report(run_id: str) -> None:
    """Print where the report of RUN_ID lies."""
    from recstill.recipes.platform import Platform
    from recstill.recipes.working import status_of
    from recstill.registry.runs import get_run

    platform = Platform.open()
    with platform.registry.read() as session:
        row = get_run(session, run_id)
    if not row.report:
        state = status_of(platform.settings, row)
        raise click.ClickException(f"Run {row.id} is {state} and has no report. Go on: `recstill run --resume {row.id}`.")
    click.echo(row.report)
