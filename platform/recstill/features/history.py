"""Point-in-time joins: every row gets the features as they were at its own moment."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recstill.api.errors import DataError, FeatureError
from recstill.data.arrow import logical_type, plain_table
from recstill.data.columns import column_of
from recstill.features.dtypes import arrow_type, as_declared, is_entity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from feast import FeatureStore

    from recstill.features.featureset import FeatureSet, View

_ROW = "recstill_row"
_MOMENT = "event_timestamp"


def join_features(store: FeatureStore, rows: pa.Table, features: FeatureSet, derived_keys: Mapping[str, str]) -> pa.Table:
    """Return `rows` with the features of a service, in the same order, of the types that their views declare.

    derived_keys: join keys that are themselves a feature of another view, `{"department_id": "product_attributes:department"}`.
    A row whose key is null is no entity: it has no features of the views of that key. Raise FeatureError if the store returns
    another number of rows than it was given, DataError for keys or moments of another type than the views'.
    """
    rows = plain_table(rows)
    types = {key: dtype for view in features.views for key, dtype in view.key_types.items()}
    keys = list(dict.fromkeys(key for view in features.views for key in view.join_keys))
    entities = pa.table({_MOMENT: _moments(rows)})
    for key in (key for key in keys if key in rows.column_names and key not in derived_keys):
        entities = entities.append_column(key, _as_key(rows[key], key, types.get(key, "")))
    for key, reference in derived_keys.items():
        if key in keys:
            name, feature = reference.split(":")
            view = next(view for view in features.views if view.name == name)
            found = _retrieve(store, entities, [view], {name: [feature]})
            entities = entities.append_column(key, _as_key(found[feature], key, types.get(key, "")))
    if missing := [key for key in keys if key not in entities.column_names]:
        raise FeatureError(f"The rows lack the join keys {', '.join(missing)} of service {features.service!r}.")
    joined = _retrieve(store, entities, features.views, {view.name: list(view.features) for view in features.views})
    for name in features.features:
        rows = rows.append_column(name, joined[name])
    return rows


def _retrieve(store: FeatureStore, entities: pa.Table, views: Sequence[View], wanted: Mapping[str, Sequence[str]]) -> pa.Table:
    """Return features by view of every entity row, in its order.

    Feast takes entities as pandas only. Keys go there without gaps, so that no integer becomes a float; what it finds for the
    stand-in of a null is taken away again. Nothing comes back through pandas.
    """
    keys = list(dict.fromkeys(key for view in views for key in view.join_keys))
    gaps = {key: ~np.asarray(is_entity(entities[key])) for key in keys}
    filled = {key: pc.fill_null(entities[key], _stand_in(entities[key].type)) for key in keys}
    asked = pa.table({_MOMENT: entities[_MOMENT], **filled, _ROW: np.arange(len(entities), dtype=np.int64)})
    references = [f"{name}:{feature}" for name, features in wanted.items() for feature in features]
    # Rows created after the event are kept out: a late backfill must not leak into older rows.
    job = store.get_historical_features(entity_df=asked.to_pandas(), features=references, filter_by_created_timestamp=True)
    joined = job.to_arrow().sort_by(_ROW)
    if len(joined) != len(entities):
        raise FeatureError(f"The offline store returned {len(joined)} rows for {len(entities)}; use the duckdb offline store.")
    for view in views:
        features = {name: view.features[name] for name in wanted[view.name]}
        declared = as_declared(joined.select(list(features)), view.name, features)
        unknown = np.logical_or.reduce([gaps[key] for key in view.join_keys]) if view.join_keys else np.zeros(len(joined), bool)
        for name in features:
            column = declared[name]
            if unknown.any():
                column = pc.if_else(pa.array(unknown), pa.scalar(None, column.type), column)
            joined = joined.set_column(joined.column_names.index(name), name, column)
    return joined


def _as_key(column: pa.ChunkedArray, key: str, dtype: str) -> pa.ChunkedArray:
    """Give a key column the type that the entity declares. Raise DataError for values that are no such key."""
    kind = arrow_type(dtype) or column.type
    found = column.type
    if logical_type(found) in (logical_type(kind), "null"):
        try:
            return column.cast(kind)
        except pa.ArrowInvalid as error:
            raise DataError(f"Join key {key!r} is declared as {dtype}, and the rows hold {found}: {error}.") from error
    example = next((value for value in column.to_pylist() if value is not None), None)
    raise DataError(
        f"Join key {key!r} is declared as {dtype}, and the rows hold {found}, such as {example!r}. "
        "Cast the rows' column, or declare the entity as it is."
    )


def _moments(rows: pa.Table) -> pa.ChunkedArray:
    """Return the rows' moments in microseconds, UTC. Raise DataError for what is no moment, or is none in some row."""
    if _MOMENT not in rows.column_names:
        raise DataError(f"The rows lack the column {_MOMENT!r}: features are joined as of that moment.")
    column = rows[_MOMENT]
    kind = column.type
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("us"))
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        column = _parsed(column)
    elif not pa.types.is_timestamp(kind):
        raise DataError(
            f"Column {_MOMENT!r} holds {kind}, such as {column[0].as_py()!r}: write timestamps, of seconds since 1970 "
            "`pa.array(seconds).cast(pa.timestamp('s', 'UTC'))`."
        )
    if column.null_count:
        row = int(np.flatnonzero(np.asarray(column.is_null()))[0])
        raise DataError(
            f"Column {_MOMENT!r} is null in {column.null_count:,} rows, the first is row {row}: every row has a moment."
        )
    column = pc.assume_timezone(column, "UTC") if column.type.tz is None else column
    return column.cast(pa.timestamp("us", "UTC"), safe=False)


def _parsed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Read texts as moments, each with its own zone or UTC."""
    moments = []
    for row, text in enumerate(column.to_pylist()):
        try:
            moments.append(None if text is None else datetime.fromisoformat(text))
        except ValueError as error:
            raise DataError(f"Column {_MOMENT!r} holds {text!r} in row {row}, which is no moment: write timestamps.") from error
    return pa.chunked_array([pa.array(column_of("timestamp", moments).values)])


def _stand_in(kind: pa.DataType) -> pa.Scalar:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.scalar("", kind)
    return pa.scalar(0).cast(kind)
