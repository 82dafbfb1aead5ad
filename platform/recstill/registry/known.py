"""What this registry knows or once knew: its rows, and its audit log, which nothing is ever taken out of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlmodel import Session, select

from recstill.registry.models import ArtifactRow, AuditRow, SnapshotRow, VersionRow

if TYPE_CHECKING:
    from collections.abc import Sequence


def record_artifact(session: Session, digest: str, size_bytes: int) -> None:
    """Record an artifact that is about to be stored, so that it can be collected if it is never registered."""
    if session.get(ArtifactRow, digest) is None:
        session.add(ArtifactRow(digest=digest, kind="bundle", size_bytes=size_bytes))


def known_artifacts(session: Session) -> set[str]:
    """Return the digests of all artifacts that a version ever named, or that were recorded before they were stored."""
    named = {str(row.details.get("artifact", "")) for row in _audited(session, "version.add")}
    return {*named, *session.exec(select(ArtifactRow.digest))} - {""}


def known_versions(session: Session) -> set[str]:
    """Return `name:number` of all versions that there ever were."""
    rows = session.exec(select(VersionRow.model_name, VersionRow.number))
    return {row.subject for row in _audited(session, "version.add")} | {f"{name}:{number}" for name, number in rows}


def known_snapshots(session: Session) -> set[str]:
    """Return the ids of all snapshots that there ever were."""
    return {row.subject for row in _audited(session, "snapshot.add")} | set(session.exec(select(SnapshotRow.id)))


def _audited(session: Session, action: str) -> Sequence[AuditRow]:
    return session.exec(select(AuditRow).where(AuditRow.action == action)).all()
