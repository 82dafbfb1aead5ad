"""Models, versions, aliases, lineage."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from sqlmodel import Session, col, func, select

from recstill.api.errors import RegistryError, UnknownNameError
from recstill.api.measured import reasons_of
from recstill.api.names import NAME_RULE, is_name
from recstill.registry.models import AliasRow, ArtifactRow, FeatureSetRow, LineageRow, ModelRow, VersionRow, now

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from recstill.api.measured import Measured
    from recstill.registry.engine import Registry

# `previous` is where `champion` was, and what a rollback goes back to without asking the gates again.
_RESERVED = re.compile(r"latest\Z|previous\Z|v[0-9]+\Z")
# Nine digits: what a column of whole numbers can hold in PostgreSQL.
_REFERENCE = re.compile(r"([^:@\s]+)(?::([0-9]{1,9})|@([^:@\s]+))?")
_ANY: Final = "any"


@dataclass(frozen=True)
class NewVersion:
    """What is registered: the artifact must be stored already. baselines: the numbers of those that its run trained."""

    model: str
    task: str
    run_id: str
    artifact: str
    size_bytes: int
    num_parameters: int
    feature_set: FeatureSetRow
    metrics: Mapping[str, Measured]
    lineage: Sequence[tuple[str, str, dict[str, Any]]] = field(default_factory=tuple)
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def add_version(registry: Registry, session: Session, new: NewVersion) -> VersionRow:
    """Register a version with the next number. The same run registers a model once: a second call returns the first.

    Raise RegistryError if the artifact is not stored. Nobody deletes it meanwhile: that takes the write lock too.
    """
    query = select(VersionRow).where(VersionRow.model_name == new.model, VersionRow.run_id == new.run_id)
    if (existing := session.exec(query).first()) is not None:
        return existing
    if not registry.artifacts.has(new.artifact):
        raise RegistryError(f"A version of {new.model} was not registered: its artifact {new.artifact[:12]} is not stored.")
    if session.get(ModelRow, new.model) is None:
        session.add(ModelRow(name=new.model, task=new.task))
    if session.get(ArtifactRow, new.artifact) is None:
        session.add(ArtifactRow(digest=new.artifact, kind="bundle", size_bytes=new.size_bytes))
    session.flush()
    highest = session.exec(select(func.max(VersionRow.number)).where(VersionRow.model_name == new.model)).one()
    assert new.feature_set.id is not None
    version = VersionRow(
        model_name=new.model,
        number=(highest or 0) + 1,
        run_id=new.run_id,
        artifact=new.artifact,
        feature_set_id=new.feature_set.id,
        num_parameters=new.num_parameters,
        size_bytes=new.size_bytes,
        metrics={name: None if isinstance(value, str) else value for name, value in new.metrics.items()},
        undefined=reasons_of(new.metrics),
        baselines={name: dict(values) for name, values in new.baselines.items()},
    )
    session.add(version)
    session.flush()
    assert version.id is not None
    for relation, value, details in new.lineage:
        session.add(LineageRow(version_id=version.id, relation=relation, value=value, details=details))
    registry.audit(session, "version.add", f"{new.model}:{version.number}", run=new.run_id, artifact=new.artifact)
    return version


def find_version(session: Session, reference: str) -> VersionRow:
    """Return the version that `name:7`, `name@champion` or `name` (its champion) means."""
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise RegistryError(f"{reference!r} names no version: write NAME:NUMBER or NAME@ALIAS.")
    name, number, alias = match[1], match[2], match[3] or "champion"
    if session.get(ModelRow, name) is None:
        raise UnknownNameError("model", name, session.exec(select(ModelRow.name)).all(), "See `recstill models list`.")
    if number is None:
        row = session.get(AliasRow, (name, alias))
        if row is None:
            known = session.exec(select(AliasRow.alias).where(AliasRow.model_name == name)).all()
            raise UnknownNameError(f"alias of model {name!r}", alias, known, f"Set it: `recstill models promote {name}:N`.")
        number = str(row.number)
    query = select(VersionRow).where(VersionRow.model_name == name, VersionRow.number == int(number))
    version = session.exec(query).first()
    if version is None:
        known = [str(n) for n in session.exec(select(VersionRow.number).where(VersionRow.model_name == name))]
        raise UnknownNameError(f"version of model {name!r}", number, known)
    return version


def version_of_run(session: Session, run_id: str, model: str) -> str:
    """Return `name:number` of the version that a run registered under a name."""
    query = select(VersionRow).where(VersionRow.run_id == run_id, VersionRow.model_name == model)
    version = session.exec(query).one()
    return f"{version.model_name}:{version.number}"


def list_versions(session: Session, name: str | None = None) -> list[VersionRow]:
    """Return versions, by model and number."""
    query = select(VersionRow).order_by(VersionRow.model_name, col(VersionRow.number))
    if name is not None:
        if session.get(ModelRow, name) is None:
            raise UnknownNameError("model", name, session.exec(select(ModelRow.name)).all())
        query = query.where(VersionRow.model_name == name)
    return list(session.exec(query))


def aliases_of(session: Session, name: str) -> dict[str, int]:
    """Return the aliases of a model."""
    return {row.alias: row.number for row in session.exec(select(AliasRow).where(AliasRow.model_name == name))}


class AliasMovedError(RegistryError):
    """Somebody moved the alias after what it pointed at was looked at."""


def set_alias(
    registry: Registry,
    session: Session,
    version: VersionRow,
    alias: str,
    *,
    reason: str,
    expected: int | Literal["any"] | None = _ANY,
) -> int | None:
    """Point an alias at a version and return the number it pointed at; `champion` leaves `previous` behind.

    expected: the number that it must point at still, None for an alias that is not set; AliasMovedError if it does not.
    """
    if not is_name(alias) or _RESERVED.match(alias):
        raise RegistryError(f"{alias!r} cannot be an alias: {NAME_RULE}; not `latest`, `previous` or `v1`.")
    current = aliases_of(session, version.model_name).get(alias)
    if expected not in (_ANY, current):
        raise AliasMovedError(
            f"{version.model_name}@{alias} was moved meanwhile, to {current or 'nothing'}: {version.model_name}:"
            f"{version.number} was judged beside {expected or 'nothing'}. Nothing was changed; call again."
        )
    before = _point(session, version.model_name, alias, version.number)
    if alias == "champion" and before not in (None, version.number):
        _point(session, version.model_name, "previous", before)
    registry.audit(session, "alias.set", f"{version.model_name}@{alias}", number=version.number, before=before, reason=reason)
    return before


def roll_back(registry: Registry, session: Session, name: str) -> tuple[int, int]:
    """Swap champion and previous; return (new champion, old champion)."""
    found = aliases_of(session, name)
    if "champion" not in found or "previous" not in found:
        raise RegistryError(f"Model {name!r} has no previous champion to go back to.")
    _point(session, name, "champion", found["previous"])
    _point(session, name, "previous", found["champion"])
    registry.audit(session, "alias.rollback", f"{name}@champion", number=found["previous"], before=found["champion"])
    return found["previous"], found["champion"]


def lineage_of(session: Session, version: VersionRow) -> list[LineageRow]:
    """Return the parents of a version."""
    return list(session.exec(select(LineageRow).where(LineageRow.version_id == version.id).order_by(col(LineageRow.id))))


def feature_set_of(session: Session, version: VersionRow) -> FeatureSetRow:
    """Return the feature set that a version was made with."""
    row = session.get(FeatureSetRow, version.feature_set_id)
    assert row is not None
    return row


def _point(session: Session, name: str, alias: str, number: int | None) -> int | None:
    row = session.get(AliasRow, (name, alias))
    before = row.number if row else None
    assert number is not None
    row = row or AliasRow(model_name=name, alias=alias, number=number)
    row.number, row.updated_at = number, now()
    session.add(row)
    return before
