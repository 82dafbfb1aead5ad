"""Trials of searches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sqlmodel import Session, col, func, select

from recstill.registry.models import TrialRow, now

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def list_trials(session: Session, study: str) -> list[TrialRow]:
    """Return the trials of a study, in order."""
    return list(session.exec(select(TrialRow).where(TrialRow.study == study).order_by(col(TrialRow.number))))


def begin_trial(session: Session, study: str, run_id: str, params: Mapping[str, float]) -> TrialRow:
    """Record a trial that starts now; one with the same parameters that was cut short goes on under its number."""
    for row in list_trials(session, study):
        if row.state == "running" and row.params == dict(params):
            return row
    highest = session.exec(select(func.max(TrialRow.number)).where(TrialRow.study == study)).one()
    row = TrialRow(study=study, number=0 if highest is None else highest + 1, run_id=run_id, params=dict(params))
    session.add(row)
    session.flush()
    return row


def end_trial(session: Session, study: str, number: int, state: str, scores: Sequence[float], error: str = "") -> None:
    """Record how a trial ended, and why it failed. A score that is not a number is stored as null."""
    row = session.exec(select(TrialRow).where(TrialRow.study == study, TrialRow.number == number)).one()
    row.state, row.error, row.finished_at = state, error, now()
    row.scores = [score if math.isfinite(score) else None for score in scores]
    session.add(row)
