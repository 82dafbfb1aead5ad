"""Read the audit log."""

from __future__ import annotations

from sqlmodel import Session, col, select

from recstill.registry.models import AuditRow


def list_audit(session: Session, subject: str | None = None, limit: int = 50) -> list[AuditRow]:
    """Return audit rows, newest first; `subject` keeps those that begin with it."""
    query = select(AuditRow).order_by(col(AuditRow.id).desc()).limit(limit)
    return list(session.exec(query.where(col(AuditRow.subject).startswith(subject, autoescape=True)) if subject else query))
