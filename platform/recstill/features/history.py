"""Point-in-time joins: every row gets the features as they were at its own moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from recstill.api.errors import FeatureError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from feast import FeatureStore

    from recstill.features.featureset import FeatureSet

_ROW = "recstill_row"


def join_features(store: FeatureStore, rows: pa.Table, features: FeatureSet, derived_keys: Mapping[str, str]) -> pa.Table:
    """Return `rows` with the features of a service, in the same order.

    derived_keys: join keys that are themselves a feature of another view, `{"department_id": "product_attributes:department"}`.
    Raise FeatureError if the store returns another number of rows than it was given.
    """
    keys = list(dict.fromkeys(key for view in features.views for key in view.join_keys))
    entities = rows.select([key for key in keys if key in rows.column_names] + ["event_timestamp"]).to_pandas()
    for key, reference in derived_keys.items():
        if key in keys:
            view_name, feature = reference.split(":")
            view = next(view for view in features.views if view.name == view_name)
            entities[key] = _retrieve(store, entities[[*view.join_keys, "event_timestamp"]], [reference])[feature]
    if missing := [key for key in keys if key not in entities]:
        raise FeatureError(f"The rows lack the join keys {', '.join(missing)} of service {features.service!r}.")
    wanted = [f"{view.name}:{feature}" for view in features.views for feature in view.features]
    joined = _retrieve(store, entities, wanted)
    for name in features.features:
        rows = rows.append_column(name, pa.Array.from_pandas(joined[name]))
    return rows


def _retrieve(store: FeatureStore, entities: pd.DataFrame, features: list[str]) -> pd.DataFrame:
    entities = entities.assign(**{_ROW: np.arange(len(entities), dtype=np.int64)})
    # Rows created after the event are kept out: a late backfill must not leak into older rows.
    job = store.get_historical_features(entity_df=entities, features=features, filter_by_created_timestamp=True)
    joined = job.to_df().sort_values(_ROW, ignore_index=True)
    if len(joined) != len(entities):
        raise FeatureError(f"The offline store returned {len(joined)} rows for {len(entities)}; use the duckdb offline store.")
    return joined
