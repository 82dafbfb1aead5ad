"""Feast's feature store, whose online values are exactly the newest rows and nothing else.

Feast 0.67 sends what it materializes through pandas (an integer column with gaps becomes float64), never deletes an entity
that is gone from the source, and keeps values that are older than the ttl. A model is trained without those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from feast import FeatureStore
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.type_map import python_values_to_proto_values

from recstill.features.leftovers import delete_keys, stored_keys
from recstill.features.newest import CREATED, MOMENT, newest_rows, oldest, rows_left_out
from recstill.features.views import view_of

if TYPE_CHECKING:
    from datetime import datetime

    import pyarrow as pa

    from recstill.features.featureset import View

_BATCH = 20_000


class Repository(FeatureStore):
    """What `open_repo` returns."""

    # What `newest` last read: the online store gets the rows that were packed, read once, even if the source changes meanwhile.
    rows_read: tuple[str, datetime, pa.Table] | None = None

    def materialize(  # type: ignore[override]
        self, start_date: datetime, end_date: datetime, feature_views: list[str] | None = None, **_: Any
    ) -> list[str]:
        """Write the newest rows of views as of `end_date`, delete entities that have none, and return what is to be said.

        start_date: as in Feast; a row that counts is never older than the view's ttl.
        """
        remarks = []
        for name in feature_views or [view.name for view in self.list_feature_views() if view.online]:
            definition = self.get_feature_view(name)
            view = view_of(definition, self)
            remarks += [f"{name}: {words}" for words in rows_left_out(self, view)]
            keys = self._write(view, self._rows(view, end_date))
            remarks += [f"{name}: {words}" for words in self._delete_gone(view, keys)]
            since = max(start_date, oldest(definition, end_date))
            self.registry.apply_materialization(definition, self.project, since, end_date)
        return remarks

    def _rows(self, view: View, until: datetime) -> pa.Table:
        read, self.rows_read = self.rows_read, None
        if read is not None and read[:2] == (view.name, until):
            return read[2]
        return newest_rows(self, view, until)

    def _write(self, view: View, rows: pa.Table) -> set[bytes]:
        """Write rows to the online store and return the keys of their entities, as Feast stores them."""
        definition = self.get_feature_view(view.name)
        written: set[bytes] = set()
        for batch in rows.to_batches(max_chunksize=_BATCH):
            keys = entity_keys(self, view, batch)
            values = {
                field.name: python_values_to_proto_values(batch[field.name].to_pylist(), field.dtype.to_value_type())
                for field in definition.features
            }
            rows_of = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
            moments = batch[MOMENT].to_pylist()
            created = batch[CREATED].to_pylist() if CREATED in batch.schema.names else [None] * len(keys)
            data = list(zip(keys, rows_of, moments, created, strict=True))
            self.provider.online_write_batch(self.config, definition, data, lambda _: None)
            version = self.config.entity_key_serialization_version
            written.update(serialize_entity_key(key, entity_key_serialization_version=version) for key in keys)
        return written

    def _delete_gone(self, view: View, keys: set[bytes]) -> list[str]:
        definition = self.get_feature_view(view.name)
        stored = stored_keys(self, definition)
        if stored is None:
            kind = self.config.online_store.type
            return [f"entities that are gone from the source stay in an online store of type {kind}; delete them there"]
        gone = stored - keys
        if not gone:
            return []
        if definition.stream_source is not None:
            return [f"{len(gone):,} entities that its source lacks stay in the online store, which also takes what is pushed"]
        delete_keys(self, definition, gone)
        return [f"{len(gone):,} entities without a row are deleted from the online store"]


def entity_keys(store: FeatureStore, view: View, rows: pa.RecordBatch) -> list[EntityKey]:
    """Return the keys of rows as Feast's messages."""
    types = {column.name: column.dtype.to_value_type() for column in store.get_feature_view(view.name).entity_columns}
    values = [python_values_to_proto_values(rows[key].to_pylist(), types[key]) for key in view.join_keys]
    return [EntityKey(join_keys=list(view.join_keys), entity_values=row) for row in zip(*values, strict=True)]
