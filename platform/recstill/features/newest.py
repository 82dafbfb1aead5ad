"""The newest row per entity of a view, and what is said of the rows that do not count."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import ibis

from recstill.api.errors import FeatureError
from recstill.features.dtypes import as_declared, is_entity
from recstill.features.offline import DuckDBOfflineStoreConfig, file_of, read_source

if TYPE_CHECKING:
    from collections.abc import Collection

    import pyarrow as pa
    from feast import FeatureStore, FeatureView

    from recstill.features.featureset import View

EPOCH = datetime(1970, 1, 2, tzinfo=UTC)
MOMENT, CREATED = "#event_timestamp", "#created"  # no feature has such a name


def newest(store: FeatureStore, view: View, until: datetime) -> pa.Table:
    """Return the newest row per entity of a view as of `until`: its join keys and features.

    As in a training join, a row older than the view's ttl is none.
    """
    rows = newest_rows(store, view, until)
    if hasattr(store, "rows_read"):
        store.rows_read = (view.name, until, rows)
    return rows.select([*view.join_keys, *view.features])


def newest_rows(store: FeatureStore, view: View, until: datetime) -> pa.Table:
    """Return the same with the columns MOMENT and, where the source has one, CREATED, for the online store."""
    definition: FeatureView = store.get_feature_view(view.name)
    source = definition.batch_source
    original = {new: old for old, new in source.field_mapping.items()}
    names = [*view.join_keys, *view.features]
    job: Any = store._get_provider().offline_store.pull_latest_from_table_or_query(
        config=store.config,
        data_source=source,
        join_key_columns=[original.get(key, key) for key in view.join_keys],
        feature_name_columns=[original.get(name, name) for name in view.features],
        timestamp_field=source.timestamp_field,
        created_timestamp_column=source.created_timestamp_column,
        start_date=oldest(definition, until),
        end_date=until,
    )
    table = job.to_arrow()
    columns = {name: table[original.get(name, name)] for name in names}
    columns[MOMENT] = table[source.timestamp_field]
    if source.created_timestamp_column:
        columns[CREATED] = table[source.created_timestamp_column]
    rows = type(table).from_arrays(list(columns.values()), names=list(columns))
    for key in view.join_keys:
        rows = rows.filter(is_entity(rows[key]))
    return as_declared(rows, view.name, {**view.key_types, **view.features})


def oldest(view: FeatureView, until: datetime) -> datetime:
    """Return the moment before which a view's rows are too old to count as of `until`."""
    return max(EPOCH, until - view.ttl) if view.ttl else EPOCH


def latest_event(store: FeatureStore, views: Collection[str] | None = None) -> datetime:
    """Return the newest event timestamp over the sources of the online views (or of `views`) that does not lie in the future.

    Raise FeatureError if no data set is here, or none has a row.
    """
    now = datetime.now(UTC)
    found, problems = [], []
    for view in online_views(store):
        if (views is None or view.name in views) and has_data(store, view):
            try:
                found.append(_latest(store, view, now))
            except FeatureError as error:
                problems.append(f"view {view.name!r}: {error}")
    moments = [moment for moment in found if moment is not None]
    if moments:
        return max(moments)
    if problems:
        raise FeatureError("No view can be read:\n" + "\n".join(f"  - {problem}" for problem in problems))
    if found:
        raise FeatureError(f"No source of an online view has a row between {EPOCH:%Y-%m-%d} and now; nothing to materialize.")
    raise FeatureError("No data set with online features is here yet. Run `recstill data fetch` and `features apply`.")


def online_views(store: FeatureStore) -> list[FeatureView]:
    """Return the applied views that are there at request time; one without the tag is."""
    return [view for view in store.list_feature_views() if view.tags.get("availability", "request") == "request"]


def has_data(store: FeatureStore, view: FeatureView) -> bool:
    """Say whether the source of a view is here; of one that is no local file nothing is known, so it is tried."""
    if file_of(view.batch_source, None) is None:
        return True
    file = file_of(view.batch_source, store.config.repo_path)
    return file is not None and file.exists()


def rows_left_out(store: FeatureStore, view: View) -> list[str]:
    """Say in words which rows of a view's source do not count, and where two rows claim one moment."""
    definition = store.get_feature_view(view.name)
    source = definition.batch_source
    if not isinstance(store.config.offline_store, DuckDBOfflineStoreConfig) or file_of(source, "") is None:
        return []
    table = read_source(source, str(store.config.repo_path))
    moment = table[source.timestamp_field].cast("timestamp('UTC', 6)")
    original = {new: old for old, new in source.field_mapping.items()}
    keys = [original.get(key, key) for key in view.join_keys]
    no_key = ibis.or_(*[_names_nobody(table[key]) for key in keys])
    counts = {
        "have no timestamp": moment.isnull(),
        f"are older than {EPOCH:%Y-%m-%d}": moment < ibis.literal(EPOCH),
        f"lie in the future, after {datetime.now(UTC):%Y-%m-%d %H:%M} UTC": moment > ibis.literal(datetime.now(UTC)),
        f"have no {' or '.join(view.join_keys)}": no_key,
    }
    if source.created_timestamp_column:
        counts[f"have no {source.created_timestamp_column}"] = table[source.created_timestamp_column].isnull()
    totals = table.aggregate(**{f"n{place}": condition.sum() for place, condition in enumerate(counts.values())})
    found = totals.to_pyarrow().to_pylist()[0].values()
    words = [f"{count:,} rows {words} and are left out" for words, count in zip(counts, found, strict=True) if count]
    return words + _twins(table, keys, definition)


def _names_nobody(key: Any) -> Any:
    return key.isnull() | (key == "") if key.type().is_string() else key.isnull()


def _twins(table: Any, keys: list[str], view: FeatureView) -> list[str]:
    """Say for how many entities two rows of one moment, and of one creation, have different features."""
    source = view.batch_source
    original = {new: old for old, new in source.field_mapping.items()}
    features = [original.get(field.name, field.name) for field in view.features]
    moments = [column for column in (source.timestamp_field, source.created_timestamp_column) if column]
    rows = table.select(*dict.fromkeys([*keys, *moments, *features])).distinct()
    groups = rows.group_by([*keys, *moments]).aggregate(num_rows=ibis._.count())
    count = groups.filter(groups.num_rows > 1).count().to_pyarrow().as_py()
    if not count:
        return []
    words = f"{count:,} times an entity has different rows for one moment; the one with the greatest values counts"
    return [words if source.created_timestamp_column else f"{words}. Give the source a created_timestamp_column to say which"]


def _latest(store: FeatureStore, view: FeatureView, now: datetime) -> datetime | None:
    source = view.batch_source
    if file_of(source, "") is None or not isinstance(store.config.offline_store, DuckDBOfflineStoreConfig):
        return now  # a database: its rows up to now
    table = read_source(source, str(store.config.repo_path))
    moment = table[source.timestamp_field].cast("timestamp('UTC', 6)")
    allowed = (moment <= ibis.literal(now)) & (moment >= ibis.literal(EPOCH))
    found = table.filter(allowed).aggregate(latest=moment.max()).to_pyarrow()["latest"][0].as_py()
    return None if found is None else found.astimezone(UTC)
