"""The tables. MLflow's words: registered model, integer version, alias; lineage is rows."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, Column, DateTime, TypeDecorator, UniqueConstraint
from sqlmodel import Field, SQLModel

from recstill.api.measured import NOT_FINITE, Measured


def now() -> datetime:
    """Return the current time, with its zone."""
    return datetime.now(UTC)


def _time(**options: Any) -> Any:
    return Field(default_factory=now, sa_type=DateTime(timezone=True), **options)


class FiniteJson(TypeDecorator[Any]):
    """JSON in which a number that is none (NaN, infinity) is null: JSON has no word for it, and PostgreSQL refuses it."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: Any, _dialect: Any) -> Any:
        return _finite(value)

    def process_result_value(self, value: Any, _dialect: Any) -> Any:
        return _finite(value)  # SQLite took NaN from earlier versions


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _json(default: type) -> Any:
    return Field(default_factory=default, sa_column=Column(FiniteJson, nullable=False))


class PluginRow(SQLModel, table=True):
    """A plugin distribution that someone registered."""

    __tablename__ = "plugin"
    distribution: str = Field(primary_key=True)
    version: str
    digest: str
    entry_point: str
    hooks: list[str] = _json(list)
    enabled: bool = True
    registered_at: datetime = _time()


class SnapshotRow(SQLModel, table=True):
    """A snapshot on disk."""

    __tablename__ = "snapshot"
    id: str = Field(primary_key=True)
    task: str = Field(index=True)
    sha256: str
    num_rows: int
    feature_service: str
    fingerprint: str
    options: dict[str, Any] = _json(dict)
    created_at: datetime = _time()


class FeatureSetRow(SQLModel, table=True):
    """The schema of a feature service at the time a model was made."""

    __tablename__ = "feature_set"
    __table_args__ = (UniqueConstraint("service", "fingerprint"),)
    id: int | None = Field(default=None, primary_key=True)
    service: str
    fingerprint: str
    content: dict[str, Any] = _json(dict)
    created_at: datetime = _time()


class RunRow(SQLModel, table=True):
    """One execution of a recipe."""

    __tablename__ = "run"
    id: str = Field(primary_key=True)
    recipe: str
    task: str = Field(index=True)
    status: str = "running"
    error: str = ""
    config: dict[str, Any] = _json(dict)
    report: str = ""
    verdict: str = ""
    started_at: datetime = _time()
    finished_at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))


class MetricRow(SQLModel, table=True):
    """A measured value of a run: mean and spread over seeds. One without a value says why in `reason`."""

    __tablename__ = "metric"
    __table_args__ = (UniqueConstraint("run_id", "subject", "name"),)
    id: int | None = Field(default=None, primary_key=True)
    run_id: str = Field(foreign_key="run.id", index=True)
    subject: str
    name: str
    value: float | None = None
    spread: float = 0.0
    num_seeds: int = 1
    reason: str = ""


class ModelRow(SQLModel, table=True):
    """A registered model: a name that versions live under."""

    __tablename__ = "model"
    name: str = Field(primary_key=True)
    task: str
    created_at: datetime = _time()


class ArtifactRow(SQLModel, table=True):
    """A stored bundle, by the digest of its manifest."""

    __tablename__ = "artifact"
    digest: str = Field(primary_key=True)
    kind: str
    size_bytes: int
    created_at: datetime = _time()


class VersionRow(SQLModel, table=True):
    """One version of a model. undefined: why a metric is null. baselines: what the run's baselines reached, to judge it by."""

    __tablename__ = "version"
    __table_args__ = (UniqueConstraint("model_name", "number"), UniqueConstraint("model_name", "run_id"))
    id: int | None = Field(default=None, primary_key=True)
    model_name: str = Field(foreign_key="model.name", index=True)
    number: int
    run_id: str = Field(foreign_key="run.id")
    artifact: str = Field(foreign_key="artifact.digest")
    feature_set_id: int = Field(foreign_key="feature_set.id")
    num_parameters: int
    size_bytes: int
    metrics: dict[str, float | None] = _json(dict)
    undefined: dict[str, str] = _json(dict)
    baselines: dict[str, dict[str, float]] = _json(dict)
    created_at: datetime = _time()

    @property
    def measured(self) -> dict[str, Measured]:
        """The metrics by name: a number, or why there is none."""
        return {name: self.undefined.get(name, NOT_FINITE) if value is None else value for name, value in self.metrics.items()}


class AliasRow(SQLModel, table=True):
    """A movable name of a version: champion, challenger, shadow, previous."""

    __tablename__ = "alias"
    model_name: str = Field(primary_key=True, foreign_key="model.name")
    alias: str = Field(primary_key=True)
    number: int
    updated_at: datetime = _time()


class LineageRow(SQLModel, table=True):
    """One parent of a version: a teacher version, strategy, snapshot, plugin."""

    __tablename__ = "lineage"
    id: int | None = Field(default=None, primary_key=True)
    version_id: int = Field(foreign_key="version.id", index=True)
    relation: str
    value: str
    details: dict[str, Any] = _json(dict)


class TrialRow(SQLModel, table=True):
    """One trial of a search: parameters, the validation score of every look, and how it ended (complete, pruned, failed with
    its error, running)."""

    __tablename__ = "trial"
    __table_args__ = (UniqueConstraint("study", "number"),)
    id: int | None = Field(default=None, primary_key=True)
    study: str = Field(index=True)
    number: int
    run_id: str = Field(foreign_key="run.id", index=True)
    state: str = "running"
    params: dict[str, float] = _json(dict)
    scores: list[float | None] = _json(list)
    error: str = ""
    started_at: datetime = _time()
    finished_at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))


class ReviewRow(SQLModel, table=True):
    """A score near the threshold that a person decides, or has decided. subject: the masked id of the decision log."""

    __tablename__ = "review"
    __table_args__ = (UniqueConstraint("request", "subject"),)
    id: int | None = Field(default=None, primary_key=True)
    request: str
    task: str = Field(index=True)
    model_version: str
    subject: str = Field(index=True)
    score: float
    band: str
    scored_at: datetime = Field(sa_type=DateTime(timezone=True))
    decision: str | None = None
    reviewer: str | None = None
    note: str = ""
    decided_at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))


class AuditRow(SQLModel, table=True):
    """Who did what. Append-only: the database refuses updates and deletes."""

    __tablename__ = "audit"
    id: int | None = Field(default=None, primary_key=True)
    at: datetime = _time()
    actor: str
    action: str
    subject: str
    details: dict[str, Any] = _json(dict)
