"""Feast's DuckDB offline store, reading files as the repository means them.

Feast 0.67 resolves the relative path of a file source against the working directory here, though everywhere else against the
repository, cannot compare timestamps of nanoseconds (what pandas writes), and leaves it to chance which of two rows of one
entity and one moment is the newest. Training and serving both read through this module, so they read the same.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ibis
from feast.infra.offline_stores.duckdb import (
    DuckDBOfflineStore as _FeastStore,
)
from feast.infra.offline_stores.duckdb import (
    DuckDBOfflineStoreConfig as _FeastConfig,
)
from feast.infra.offline_stores.duckdb import (
    _read_data_source,
    _write_data_source,
)
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.ibis import IbisRetrievalJob, get_historical_features_ibis

from recstill.api.errors import FeatureError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from feast import FeatureView
    from feast.data_source import DataSource
    from feast.infra.offline_stores.offline_store import RetrievalJob
    from feast.repo_config import RepoConfig

    Table = Any


class DuckDBOfflineStoreConfig(_FeastConfig):
    """The options of `type: duckdb`; Feast finds the store below by the name and place of this class."""


class _Ttl(timedelta):
    """A ttl of any length, all of it in seconds: ibis refuses a literal that is of days and of parts of days."""

    days = property(lambda _: 0)
    seconds = property(lambda self: int(self.total_seconds()))


class DuckDBOfflineStore(_FeastStore):
    """What `open_repo` puts in the place of Feast's store of this type."""

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        table = read_source(data_source, str(config.repo_path))
        moments = [column for column in (timestamp_field, created_timestamp_column) if column]
        table = table.select(*dict.fromkeys([*join_key_columns, *feature_name_columns, *moments]))
        moment = table[timestamp_field].cast("timestamp('UTC', 6)")
        table = table.filter(moment >= ibis.literal(start_date), moment <= ibis.literal(end_date))
        if created_timestamp_column:  # a join of training leaves rows out that nobody says when they were made
            table = table.filter(table[created_timestamp_column].notnull())
        return _job(_first(table, join_key_columns, moments, feature_name_columns), config)

    @staticmethod
    def get_historical_features(
        config: RepoConfig, feature_views: list[FeatureView], *rest: Any, **options: Any
    ) -> RetrievalJob:
        for view in feature_views:  # read from the registry for this call
            view.ttl = _Ttl(seconds=view.ttl.total_seconds()) if view.ttl else view.ttl
        return get_historical_features_ibis(
            config,
            feature_views,
            *rest,
            **options,
            data_source_reader=_reader_of(feature_views),
            data_source_writer=_write_data_source,
            staging_location=config.offline_store.staging_location,
            staging_location_endpoint_override=config.offline_store.staging_location_endpoint_override,
        )


def file_of(source: DataSource, repo_path: Path | str | None) -> Path | None:
    """Return the local file or folder of a source, None for one that is elsewhere (a bucket, a database)."""
    if not isinstance(source, FileSource) or "://" in source.path.removeprefix("file://"):
        return None
    return Path(repo_path or ".") / source.path.removeprefix("file://")


def read_source(source: DataSource, repo_path: str) -> Table:
    """Return a source as a table whose timestamps have microseconds. Raise FeatureError for one that cannot be read."""
    file = file_of(source, repo_path)
    if file is not None:
        if not file.exists():
            raise FeatureError(f"{file} is not there: the source {source.name!r} reads it.")
        source = FileSource.from_proto(source.to_proto())
        source.file_options.uri = str(file)
    table = _read_data_source(source, repo_path)
    for column in filter(None, (source.timestamp_field, source.created_timestamp_column)):
        table = table.mutate(**{column: _moments(table, column, source)})
    return table


def _moments(table: Table, column: str, source: DataSource) -> Any:
    if column not in table.columns:
        raise FeatureError(f"Source {source.name!r} has no column {column!r}; it has {', '.join(table.columns)}.")
    kind = table[column].type()
    if kind.is_unknown() or (kind.is_timestamp() and kind.timezone is not None):  # ibis knows no TIMESTAMPTZ_NS
        return table[column].cast("timestamp('UTC', 6)")
    if kind.is_timestamp() or kind.is_date():
        return table[column].cast("timestamp(6)")
    raise FeatureError(
        f"Column {column!r} of source {source.name!r} is {kind}, not a timestamp. Write it as one, for example "
        f"with `pandas.to_datetime`."
    )


def _reader_of(views: Sequence[FeatureView]) -> Callable[[DataSource, str], Table]:
    """Return a reader of what each view needs of its source, that also says which of two rows of one entity and one moment
    counts: the same as when the view is materialized.

    Feast asks with the source object of a view. Several views may read one source, by different keys.
    """
    by_source = {id(view.batch_source): view for view in views}

    def read(source: DataSource, repo_path: str) -> Table:
        table = read_source(source, repo_path)
        view = by_source[id(source)]
        original = {new: old for old, new in source.field_mapping.items()}
        keys = [original.get(key, key) for key in view.join_keys]
        wanted = [original.get(field.name, field.name) for field in view.projection.features]
        if lacking := [name for name in (*keys, *wanted) if name not in table.columns]:
            raise FeatureError(f"The source {source.name!r} of view {view.name!r} has no column {lacking[0]!r}.")
        features = [name for field in view.features if (name := original.get(field.name, field.name)) in table.columns]
        moments = [column for column in (source.timestamp_field, source.created_timestamp_column) if column]
        table = table.select(*dict.fromkeys([*keys, *features, *moments]))
        return _first(table, [*keys, *moments], [], features) if _has_ties(table, [*keys, *moments]) else table

    return read


def _has_ties(table: Table, columns: Sequence[str]) -> bool:
    """Say whether two rows have the same values in these columns: most sources have none, and need no second pass."""
    groups = table.group_by(list(columns)).aggregate(num_rows=ibis._.count())
    return bool(groups.filter(groups.num_rows > 1).limit(1).count().to_pyarrow().as_py())


def _first(table: Table, keys: Sequence[str], newest_by: Sequence[str], features: Sequence[str]) -> Table:
    """Return one row per key: the newest, then the one with the greatest features, whatever the order in the file."""
    order = [ibis.desc(table[column]) for column in (*newest_by, *sorted(set(features) - {*keys, *newest_by}))]
    window = ibis.window(group_by=list(keys), order_by=order or None, following=0)
    return (
        table.mutate(recstill_rank=ibis.row_number().over(window)).filter(lambda t: t.recstill_rank == 0).drop("recstill_rank")
    )


def _job(table: Table, config: RepoConfig) -> RetrievalJob:
    return IbisRetrievalJob(
        table=table,
        on_demand_feature_views=[],
        full_feature_names=False,
        metadata=None,
        data_source_writer=_write_data_source,
        staging_location=config.offline_store.staging_location,
        staging_location_endpoint_override=config.offline_store.staging_location_endpoint_override,
        repo_path=str(config.repo_path),
    )
