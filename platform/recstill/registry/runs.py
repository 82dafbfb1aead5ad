"""Runs, their metrics, and the snapshots and feature sets that they used."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sqlmodel import Session, col, select

from recstill.api.errors import UnknownNameError
from recstill.api.measured import NOT_FINITE, measure
from recstill.registry.models import FeatureSetRow, MetricRow, RunRow, SnapshotRow, now

if TYPE_CHECKING:
    from collections.abc import Mapping

    from recstill.api.measured import Measured

    Values = Mapping[str, tuple[Measured, float, int]]


def add_run(session: Session, run_id: str, recipe: str, task: str, config: dict[str, Any]) -> RunRow:
    """Record a run that starts now."""
    run = RunRow(id=run_id, recipe=recipe, task=task, config=config)
    session.add(run)
    return run


def get_run(session: Session, run_id: str) -> RunRow:
    """Return a run by its id, or by an unambiguous beginning of it."""
    run = session.get(RunRow, run_id)
    if run is None:
        found = [row for row in list_runs(session) if row.id.startswith(run_id)]
        if len(found) != 1:
            raise UnknownNameError("run", run_id, [row.id for row in list_runs(session)], "See `recstill runs list`.")
        run = found[0]
    return run


def list_runs(session: Session, task: str | None = None) -> list[RunRow]:
    """Return runs, newest first."""
    query = select(RunRow).order_by(col(RunRow.started_at).desc())
    return list(session.exec(query.where(RunRow.task == task) if task else query))


def restart_run(session: Session, run_id: str) -> None:
    """Record that somebody works on a run again, if it is recorded at all."""
    run = session.get(RunRow, run_id)
    if run is not None:
        run.status, run.error, run.finished_at = "running", "", None
        session.add(run)


def finish_run(session: Session, run_id: str, status: str, *, error: str = "", report: str = "", verdict: str = "") -> None:
    """Record how a run ended."""
    run = get_run(session, run_id)
    run.status, run.error, run.finished_at = status, error, now()
    run.report, run.verdict = report or run.report, verdict or run.verdict
    session.add(run)


def record_metrics(session: Session, run_id: str, subject: str, values: Values) -> None:
    """Write metrics of one subject (teacher, student …): name -> (mean, or why there is none; spread, seeds). Writing again
    replaces."""
    for name, (mean, spread, num_seeds) in values.items():
        found = mean if isinstance(mean, str) else measure(mean)
        if not math.isfinite(spread):  # a value whose spread is none is none either, and NaN is null in SQLite
            found, spread = found if isinstance(found, str) else f"of its spread, {NOT_FINITE}", 0.0
        query = select(MetricRow).where(MetricRow.run_id == run_id, MetricRow.subject == subject, MetricRow.name == name)
        row = session.exec(query).first() or MetricRow(run_id=run_id, subject=subject, name=name)
        row.value, row.reason = (None, found) if isinstance(found, str) else (found, "")
        row.spread, row.num_seeds = spread, num_seeds
        session.add(row)


def metrics_of(session: Session, run_id: str) -> dict[str, dict[str, tuple[Measured, float, int]]]:
    """Return the metrics of a run: subject -> name -> (mean, or why there is none; spread, seeds)."""
    found: dict[str, dict[str, tuple[Measured, float, int]]] = {}
    for row in session.exec(select(MetricRow).where(MetricRow.run_id == run_id)):
        value = row.reason or NOT_FINITE if row.value is None else row.value
        found.setdefault(row.subject, {})[row.name] = (value, row.spread, row.num_seeds)
    return found


def record_snapshot(session: Session, card: Mapping[str, Any]) -> None:
    """Record a snapshot by its card; known ones stay as they are."""
    if session.get(SnapshotRow, card["id"]) is None:
        session.add(
            SnapshotRow(
                id=card["id"],
                task=card["task"],
                sha256=card["sha256"],
                num_rows=card["num_rows"],
                feature_service=card["features"]["service"],
                fingerprint=card["features"]["fingerprint"],
                options=card["options"],
            )
        )


def list_snapshots(session: Session, task: str | None = None) -> list[SnapshotRow]:
    """Return snapshots, newest first."""
    query = select(SnapshotRow).order_by(col(SnapshotRow.created_at).desc())
    return list(session.exec(query.where(SnapshotRow.task == task) if task else query))


def record_feature_set(session: Session, content: Mapping[str, Any]) -> FeatureSetRow:
    """Record the schema of a feature service, once per fingerprint."""
    query = select(FeatureSetRow).where(
        FeatureSetRow.service == content["service"], FeatureSetRow.fingerprint == content["fingerprint"]
    )
    row = session.exec(query).first()
    if row is None:
        row = FeatureSetRow(service=content["service"], fingerprint=content["fingerprint"], content=dict(content))
        session.add(row)
        session.flush()
    return row
