"""The review queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlmodel import Session, col, select

from recstill.api.errors import RegistryError, UnknownNameError
from recstill.registry.models import ReviewRow, now

if TYPE_CHECKING:
    from collections.abc import Iterable

    from recstill.registry.engine import Registry

# What a column of whole numbers can hold in PostgreSQL.
_HIGHEST = 2**31 - 1


def list_reviews(session: Session, task: str | None = None, *, is_open: bool | None = None) -> list[ReviewRow]:
    """Return the reviews, oldest first: all, or only those that wait (or do not)."""
    query = select(ReviewRow).order_by(col(ReviewRow.id))
    if task is not None:
        query = query.where(ReviewRow.task == task)
    if is_open is not None:
        query = query.where(col(ReviewRow.decision).is_(None) if is_open else col(ReviewRow.decision).is_not(None))
    return list(session.exec(query))


def get_review(session: Session, number: int) -> ReviewRow | None:
    """Return a review by its number."""
    return session.get(ReviewRow, number) if 0 < number <= _HIGHEST else None


def add_reviews(session: Session, found: Iterable[ReviewRow]) -> int:
    """Queue what is not queued yet; return how many were new."""
    known = set(session.exec(select(ReviewRow.request, ReviewRow.subject)))
    fresh = [row for row in found if (row.request, row.subject) not in known]
    session.add_all(fresh)
    return len(fresh)


def decide(registry: Registry, session: Session, number: int, decision: str, note: str) -> ReviewRow:
    """Record a person's decision. Raise RegistryError if there is one: decisions are never changed."""
    row = get_review(session, number)
    if row is None:
        raise UnknownNameError("review", str(number), [str(r.id) for r in list_reviews(session, is_open=True)][:20])
    if row.decision is not None:
        raise RegistryError(f"Review {number} was decided by {row.reviewer}: {row.decision}. Decisions are not changed.")
    row.decision, row.reviewer, row.note, row.decided_at = decision, registry.actor, note, now()
    session.add(row)
    registry.audit(session, "review.decide", f"review {number}", task=row.task, decision=decision, score=row.score)
    return row
