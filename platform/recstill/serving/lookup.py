"""Features of a request, from the packed views, already encoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recstill.api.errors import FeatureError
from recstill.data.columns import Column, Lists, as_column, column_of
from recstill.data.keys import fold_keys, to_keys
from recstill.data.transform import Encoded, Transform
from recstill.serving.values import absent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from recstill.data.bundle import Manifest
    from recstill.data.columns import Columns, Typed, Values
    from recstill.data.packed import PackedStore, PackedView

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class _Table:
    """Encoded rows by sorted key; the last row is what an entity without features gets."""

    keys: NDArray[np.uint64]
    encoded: Encoded
    view_rows: Mapping[str, Rows]

    def find(self, keys: NDArray[np.uint64]) -> Rows:
        missing = len(self.keys)
        if not missing:
            return np.zeros(len(keys), np.int64)
        place = np.minimum(np.searchsorted(self.keys, keys), missing - 1)
        return np.where(self.keys[place] == keys, place, missing)


class FeatureLookup:
    """All items and all crossed rows are encoded once, when the model loads; a request only gathers."""

    def __init__(self, manifest: Manifest, transform: Transform, store: PackedStore) -> None:
        _check(manifest, store)
        self.transform, self.sides, self.task = transform, manifest.sides, manifest.task
        self.types = {**manifest.key_types, **transform.types}
        views = {feature.name: feature.view for feature in manifest.task.features}
        self._view_of = views
        self._query_views = [
            store.views[name] for name in dict.fromkeys(views[f] for f in self.sides.query) if name in store.views
        ]
        own = [store.views[name] for name in dict.fromkeys(views[f] for f in self.sides.items[1])]
        self._own_views = own
        self._items = self._encode_items(own)
        self._crossed = [self._encode_crossed(store.views[views[group[0]]]) for group in self.sides.items[2:]]
        self._derived = {key: self._derive(reference, store) for key, reference in self.task.derived_keys.items()}

    def query(self, entity: Column | int | str | None, context: Mapping[str, Any]) -> tuple[Encoded, list[str]]:
        """Encode the query's part, one row. Also return the views that have no row for it."""
        columns, missing = self._query_columns(self.entity(entity), context)
        return self.transform.encode(columns, self.sides.query), missing

    def entity(self, value: Column | int | str | None) -> Column:
        """Return a query entity as a column of its declared type, a missing one for None."""
        kind = self.types.get(self.task.endpoint.query_key, "null")
        return value if isinstance(value, Column) else column_of(kind, [None if value == "" else value])

    def context(self, context: Mapping[str, Any]) -> dict[str, Typed]:
        """Return the fields of the context that the model reads as columns of one row; what is not given is missing."""
        columns: dict[str, Typed] = {}
        for name in (spec.name for spec in self.task.endpoint.context if spec.name in self.types):
            value, kind = context.get(name), self.types[name]
            if value is None:
                columns[name] = absent(kind)
            elif isinstance(value, (Column, Lists)):
                columns[name] = value
            else:
                bare = np.empty(1, object)
                bare[0] = value
                columns[name] = as_column(bare, kind)
        return columns

    def _query_columns(self, entity: Column, context: Mapping[str, Any]) -> tuple[dict[str, Typed], list[str]]:
        columns: dict[str, Typed] = {self.task.endpoint.query_key: entity, **self.context(context)}
        missing = []
        for view in self._query_views:
            row = view.find([entity])
            missing += [view.name] if row[0] < 0 else []
            columns |= {f: view.read(f, row) for f in self.sides.query if self._view_of[f] == view.name}
        return columns, missing

    def items(
        self,
        entity: Column | int | str | None,
        ids: Column | Values,
        context: Mapping[str, Any] | None = None,
        brought: Columns | None = None,
    ) -> tuple[Encoded, Rows, dict[str, int]]:
        """Encode the items' part, a row per id. Also return their rows (the last = unknown) and, by view, how many lack it.

        brought: what the request says of each item. context: what it says of the query, for features that match the two.
        """
        brought, asked = brought or {}, self.entity(entity)
        typed = as_column(ids, self.types[self.task.endpoint.item_key])
        keys = to_keys(typed)
        rows = self._items.find(keys)
        parts = [
            self.transform.encode({self.task.endpoint.item_key: typed}, self.sides.items[0]),
            self._items.encoded.take(rows),
        ]
        known = rows < len(self._items.keys) if self._own_views else np.ones(len(rows), bool)
        missing = {name: int(np.sum(~has[rows].astype(bool))) for name, has in self._items.view_rows.items()}
        query_key = to_keys(asked)
        for table, join_keys in self._crossed:
            crossed = fold_keys([self._key_part(key, query_key, keys, rows, brought) for key in join_keys])
            parts.append(table.encoded.take(table.find(crossed)))
        if self.sides.row:
            parts.append(self.transform.encode({name: brought[name] for name in self.sides.row}, self.sides.row))
        if self.sides.match:
            parts.append(self._match(asked, context or {}, rows, brought))
        together = Encoded(np.concatenate([p.dense for p in parts], 1), np.concatenate([p.ids for p in parts], 1))
        return together, np.where(known, rows, -1), {name: count for name, count in missing.items() if count}

    def crossed(
        self, entity: Column | int | str | None, ids: Column | Values, brought: Columns, chosen: Rows
    ) -> NDArray[np.bool_]:
        """(M,): of which of the chosen items a view of several keys, or of a key that the request brings, has a row."""
        typed = as_column(ids, self.types[self.task.endpoint.item_key])
        keys, query_key = to_keys(typed), to_keys(self.entity(entity))
        rows, found = self._items.find(keys), np.zeros(len(keys), bool)
        for table, join_keys in self._crossed:
            parts = [self._key_part(key, query_key, keys, rows, brought) for key in join_keys]
            found |= table.find(fold_keys(parts)) < len(table.keys)
        return found[chosen]

    def item_view(self) -> PackedView | None:
        """The view that lists all items, if the model reads one."""
        return next(iter(self._own_views), None)

    def texts(self, name: str, rows: Rows) -> Typed:
        """Read an item feature as the feature store has it, of some items by row."""
        view = next(view for view in self._own_views if view.name == self._view_of[name])
        places = np.append(view.find_keys(self._items.keys), -1)
        return view.read(name, places[rows])

    def _match(self, entity: Column, context: Mapping[str, Any], rows: Rows, brought: Columns) -> Encoded:
        asked, _ = self._query_columns(entity, context)
        columns: dict[str, Typed | Values] = {}
        for feature in (f for f in self.transform.features if f.name in self.sides.match):
            for name in feature.of:
                if name in asked:
                    columns[name] = asked[name][np.zeros(len(rows), np.int64)]
                else:
                    columns[name] = brought[name] if name in brought else self.texts(name, rows)
        return self.transform.encode(columns, self.sides.match)

    def _key_part(
        self,
        key: str,
        query_key: NDArray[np.uint64],
        item_keys: NDArray[np.uint64],
        rows: Rows,
        brought: Columns,
    ) -> NDArray[np.uint64]:
        if key == self.task.endpoint.query_key:
            return np.repeat(query_key, len(rows))
        if key in brought:
            return to_keys(as_column(brought[key], self.types[key]))
        return item_keys if key == self.task.endpoint.item_key else self._derived[key][rows]

    def _encode_items(self, views: Sequence[PackedView]) -> _Table:
        keys = np.unique(np.concatenate([view.keys for view in views])) if views else np.zeros(0, np.uint64)
        columns: dict[str, Typed] = {}
        has = {}
        for view in views:
            rows = np.append(view.find_keys(keys), -1)
            has[view.name] = (rows >= 0).astype(np.int64)
            columns |= {f: view.read(f, rows) for f in self.sides.items[1] if self._view_of[f] == view.name}
        encoded = self.transform.encode(columns, self.sides.items[1])
        if not views:
            encoded = Encoded(np.zeros((1, 0), np.float32), np.zeros((1, 0), np.int64))
        return _Table(keys, encoded, has)

    def _encode_crossed(self, view: PackedView) -> tuple[_Table, tuple[str, ...]]:
        rows = np.append(np.arange(len(view.keys)), -1)
        names = [f for group in self.sides.items[2:] for f in group if self._view_of[f] == view.name]
        encoded = self.transform.encode({f: view.read(f, rows) for f in names}, names)
        return _Table(np.asarray(view.keys), encoded, {}), view.join_keys

    def _derive(self, reference: str, store: PackedStore) -> NDArray[np.uint64]:
        """The key that each item row gives, by item row; 0 for unknown items."""
        view_name, feature = reference.split(":")
        view = store.views[view_name]
        rows = np.append(view.find_keys(self._items.keys), -1)
        return to_keys(view.read(feature, rows))


def _check(manifest: Manifest, store: PackedStore) -> None:
    """Refuse a store whose schema is not the one that the model was trained on."""
    problems = []
    for view in manifest.features["views"]:
        if view["availability"] == "training":
            problems.append(f"view {view['name']!r} is for training only and cannot be served")
            continue
        card = store.meta["views"].get(view["name"])
        if card is None:
            problems.append(f"view {view['name']!r} is not online")
        elif list(card["join_keys"]) != list(view["join_keys"]):
            problems.append(f"view {view['name']!r} is keyed by {card['join_keys']}, not by {view['join_keys']}")
        else:
            changed = [name for name, kind in view["features"].items() if card["features"].get(name) != kind]
            problems += [f"feature {view['name']}:{name} is missing online or has another type" for name in changed]
            known = [key for key in view["join_keys"] if key in manifest.key_types]
            problems += [
                f"view {view['name']!r} is keyed by {key} of type {card['types'][key]}, not of {manifest.key_types[key]}"
                for key in known
                if card["types"][key] not in (manifest.key_types[key], "null")
            ]
            unserved = [name for name in view["features"] if name in card["unserved"]]
            problems += [f"feature {view['name']}:{name}: {card['unserved'][name]}" for name in unserved]
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise FeatureError(
            f"Online features {store.version} do not fit model {manifest.model!r} ({manifest.feature_service}):\n{lines}\n"
            "Run `recstill features materialize`, or train on the present features."
        )
