"""Features of a request, from the packed views, already encoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recstill.api.errors import FeatureError
from recstill.data.encoders import Values, to_keys
from recstill.data.packed import fold_keys
from recstill.data.transform import Encoded, Transform

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from recstill.data.bundle import Manifest
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

    def query(self, entity: int | str, context: Mapping[str, int | float | str | None]) -> tuple[Encoded, list[str]]:
        """Encode the query's part, one row. Also return the views that have no row for it."""
        columns, missing = self._query_columns(entity, context)
        return self.transform.encode(columns, self.sides.query), missing

    def _query_columns(self, entity: int | str, context: Mapping[str, Any]) -> tuple[dict[str, Values], list[str]]:
        key = np.array([entity], dtype=np.int64 if isinstance(entity, int) else object)
        columns: dict[str, Values] = {self.task.endpoint.query_key: key}
        missing = []
        for spec in self.task.endpoint.context:
            value = context.get(spec.name)
            if spec.dtype in ("ints", "strs"):
                columns[spec.name] = np.empty(1, dtype=object)
                columns[spec.name][0] = value or []
            else:
                columns[spec.name] = np.array([np.nan if value is None and spec.dtype != "str" else value])
        for view in self._query_views:
            row = view.find([key])
            missing += [view.name] if row[0] < 0 else []
            columns |= {f: view.read(f, row) for f in self.sides.query if self._view_of[f] == view.name}
        return columns, missing

    def items(
        self,
        entity: int | str,
        ids: Values,
        context: Mapping[str, Any] | None = None,
        brought: Mapping[str, Values] | None = None,
    ) -> tuple[Encoded, Rows, dict[str, int]]:
        """Encode the items' part, a row per id. Also return their rows (the last = unknown) and, by view, how many lack it.

        brought: what the request says of each item. context: what it says of the query, for features that match the two.
        """
        brought = brought or {}
        keys = to_keys(ids)
        rows = self._items.find(keys)
        parts = [
            self.transform.encode({self.task.endpoint.item_key: ids}, self.sides.items[0]),
            self._items.encoded.take(rows),
        ]
        known = rows < len(self._items.keys) if self._own_views else np.ones(len(rows), bool)
        missing = {name: int(np.sum(~has[rows].astype(bool))) for name, has in self._items.view_rows.items()}
        query_key = to_keys(np.array([entity], dtype=np.int64 if isinstance(entity, int) else object))
        for table, join_keys in self._crossed:
            crossed = fold_keys([self._key_part(key, query_key, keys, rows, brought) for key in join_keys])
            parts.append(table.encoded.take(table.find(crossed)))
        if self.sides.row:
            parts.append(self.transform.encode({name: brought[name] for name in self.sides.row}, self.sides.row))
        if self.sides.match:
            parts.append(self._match(entity, context or {}, rows, brought))
        together = Encoded(np.concatenate([p.dense for p in parts], 1), np.concatenate([p.ids for p in parts], 1))
        return together, np.where(known, rows, -1), {name: count for name, count in missing.items() if count}

    def item_view(self) -> PackedView | None:
        """The view that lists all items, if the model reads one."""
        return next(iter(self._own_views), None)

    def texts(self, name: str, rows: Rows) -> Values:
        """Read an item feature as the feature store has it, of some items by row."""
        view = next(view for view in self._own_views if view.name == self._view_of[name])
        places = np.append(_rows_of(view, self._items.keys), -1)
        return view.read(name, places[rows])

    def _match(self, entity: int | str, context: Mapping[str, Any], rows: Rows, brought: Mapping[str, Values]) -> Encoded:
        asked, _ = self._query_columns(entity, context)
        columns: dict[str, Values] = {}
        for feature in (f for f in self.transform.features if f.name in self.sides.match):
            for name in feature.of:
                if name in asked:
                    columns[name] = np.repeat(asked[name], len(rows))
                else:
                    columns[name] = brought[name] if name in brought else self.texts(name, rows)
        return self.transform.encode(columns, self.sides.match)

    def _key_part(
        self,
        key: str,
        query_key: NDArray[np.uint64],
        item_keys: NDArray[np.uint64],
        rows: Rows,
        brought: Mapping[str, Values],
    ) -> NDArray[np.uint64]:
        if key == self.task.endpoint.query_key:
            return np.repeat(query_key, len(rows))
        if key in brought:
            return to_keys(brought[key])
        return item_keys if key == self.task.endpoint.item_key else self._derived[key][rows]

    def _encode_items(self, views: Sequence[PackedView]) -> _Table:
        keys = np.unique(np.concatenate([view.keys for view in views])) if views else np.zeros(0, np.uint64)
        columns: dict[str, Values] = {}
        has = {}
        for view in views:
            rows = np.append(_rows_of(view, keys), -1)
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
        rows = np.append(_rows_of(view, self._items.keys), -1)
        return to_keys(view.read(feature, rows))


def _rows_of(view: PackedView, keys: NDArray[np.uint64]) -> Rows:
    place = np.minimum(np.searchsorted(view.keys, keys), max(len(view.keys) - 1, 0))
    return np.where(view.keys[place] == keys, place, -1) if len(view.keys) else np.full(len(keys), -1)


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
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise FeatureError(
            f"Online features {store.version} do not fit model {manifest.model!r} ({manifest.feature_service}):\n{lines}\n"
            "Run `recstill features materialize`, or train on the present features."
        )
