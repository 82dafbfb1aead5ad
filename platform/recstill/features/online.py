"""Materialize: write the newest values to the online store, and pack them for serving."""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recstill.api.errors import FeatureError
from recstill.data.files import new_folder, write_json
from recstill.data.packed import PackedStore, open_store, write_view
from recstill.data.snapshot import to_numpy
from recstill.features.repo import all_views

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa
    from feast import FeatureStore, FeatureView

    from recstill.data.encoders import Values
    from recstill.features.featureset import View

EPOCH = datetime(1970, 1, 2, tzinfo=UTC)
_KEEP = 3


def materialize(store: FeatureStore, root: Path, until: datetime, progress: Callable[[str], None]) -> PackedStore:
    """Bring the online store to `until` and write a packed version of it below `root`; both say the same values.

    The version becomes current only when it is whole. Killed at any moment, the older version stays in place.
    """
    views = []
    for view in all_views(store):
        if view.availability == "request":
            source = Path(store.get_feature_view(view.name).batch_source.path)
            if source.exists():
                views.append(view)
            else:
                progress(f"{view.name}: its data set is not here yet, left out")
    for view in views:
        progress(view.name)
        with contextlib.redirect_stdout(io.StringIO()):  # feast prints a line per view
            store.materialize(EPOCH, until, feature_views=[view.name])
    progress("packing")
    identity = hashlib.sha256(f"{until.isoformat()} {datetime.now(UTC).isoformat()}".encode()).hexdigest()[:8]
    version = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{identity}"
    with new_folder(root / version) as folder:
        cards = {}
        for view in views:
            table = newest(store, view, until)
            cards[view.name] = write_view(
                folder, view.name, view.join_keys, {n: to_numpy(table[n]) for n in table.column_names}
            )
            cards[view.name]["features"] = dict(view.features)
        write_json(folder / "online.json", {"version": version, "as_of": until.isoformat(), "views": cards})
    write_json(root / "current.json", {"version": version})
    for old in sorted(path for path in root.glob("2*") if path.is_dir())[:-_KEEP]:
        shutil.rmtree(old)
    return open_store(root / version)


def newest(store: FeatureStore, view: View, until: datetime) -> pa.Table:
    """Return the newest row per entity of a view as of `until`, from the offline store."""
    definition: FeatureView = store.get_feature_view(view.name)
    source = definition.batch_source
    job: Any = store._get_provider().offline_store.pull_latest_from_table_or_query(
        config=store.config,
        data_source=source,
        join_key_columns=list(view.join_keys),
        feature_name_columns=list(view.features),
        timestamp_field=source.timestamp_field,
        created_timestamp_column=source.created_timestamp_column,
        start_date=EPOCH,
        end_date=until,
    )
    return job.to_arrow().select([*view.join_keys, *view.features])


def latest_event(store: FeatureStore) -> datetime:
    """Return the newest event timestamp over the sources of all online views."""
    import duckdb

    newest_of = []
    for view in store.list_feature_views():
        if view.tags.get("availability") == "request" and Path(view.batch_source.path).exists():
            query = "select epoch(max(event_timestamp)) from read_parquet($1)"
            found = duckdb.execute(query, [view.batch_source.path]).fetchone()
            newest_of.append(float(found[0]) if found and found[0] is not None else 0.0)
    if not newest_of:
        raise FeatureError("No data set with online features is here yet. Run `recstill data fetch` and `features apply`.")
    return datetime.fromtimestamp(max(newest_of), UTC)


def online_rows(store: FeatureStore, view: View, entities: dict[str, Values]) -> dict[str, list[Any]]:
    """Read a view from Feast's online store, the slow and authoritative way."""
    rows = {key: values.tolist() for key, values in entities.items()}
    features = [f"{view.name}:{feature}" for feature in view.features]
    return store.get_online_features(features=features, entity_rows=rows).to_dict()
