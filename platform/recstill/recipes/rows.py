"""The rows of a run, encoded once for teacher and students."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from recstill.api.baseline import BaselineData
from recstill.api.columns import ColumnRows
from recstill.api.errors import ConfigError
from recstill.data.columns import Column, Typed, Values, codes_of
from recstill.data.keys import to_keys
from recstill.data.sides import Sides, split_sides
from recstill.data.transform import Encoded, Transform
from recstill.embeddings.batches import TensorRows
from recstill.embeddings.catalogue import Catalogue, CatalogueRows, Side
from recstill.evaluation.metrics import group_ids
from recstill.features.dtypes import logical_types

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from recstill.api.task import FeatureSpec, TaskSpec
    from recstill.data.snapshot import Snapshot
    from recstill.embeddings.tables import QueryPlaces
    from recstill.features.featureset import FeatureSet

Role = str  # `student`, `teacher`, `teacher-2` …


@dataclass
class RunRows:
    """Views of one snapshot. The transform is fitted once, on the training rows; every role's is a part of it, but for a
    registered teacher, which brings its own (`adopted`). made: attributes of all rows that the recipe makes (its rules)."""

    snapshot: Snapshot
    task: TaskSpec
    roles: Mapping[Role, FeatureSet]
    adopted: dict[Role, Transform] = field(default_factory=dict)
    made: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    without: Mapping[Role, tuple[str, ...]] = field(default_factory=dict)
    _tensors: dict[tuple[Role, str], TensorRows] = field(default_factory=dict)

    def features(self, role: Role) -> tuple[FeatureSpec, ...]:
        """The features that a role may see."""
        return tuple(f for f in self.roles[role].select(self.task) if f.name not in self.without.get(role, ()))

    @cached_property
    def _all(self) -> tuple[Transform, Encoded]:
        names = {feature.name for role in self.roles for feature in self.features(role)}
        chosen = [feature for feature in self.task.features if feature.name in names]
        columns = self.snapshot.typed([feature.name for feature in chosen if not feature.of])
        train = self.snapshot.rows_of("train")
        transform = Transform.fit(chosen, {name: values[train] for name, values in columns.items()})
        return transform, transform.encode(columns)

    def transform(self, role: Role) -> Transform:
        """The fitted transform of a role."""
        return self.adopted.get(role) or self._all[0].restrict(self.features(role))

    def sides(self, role: Role) -> Sides:
        """Which features belong to the query and which to the items."""
        views = {view.name: view.join_keys for view in self.roles[role].views}
        return split_sides(self.features(role), views, self.task.endpoint)

    def query_places(self, role: Role) -> QueryPlaces:
        """Where the query's dense columns and slots stand in a role's rows."""
        transform, sides = self.transform(role), self.sides(role)
        return tuple(sides.dense_places(transform)[0]), tuple(transform.slot_index(sides.query))

    def encoded(self, role: Role, rows: Values) -> Encoded:
        """Some rows as a role's model sees them."""
        if role in self.adopted:
            own = self.adopted[role]
            return own.encode(self.snapshot.typed([feature.name for feature in own.features if not feature.of], rows))
        transform, encoded = self._all
        names = [feature.name for feature in self.features(role)]
        dense, ids = transform.dense_index(names), transform.id_index(names)
        return Encoded(encoded.dense[rows][:, dense], encoded.ids[rows][:, ids])

    def key_types(self, role: Role) -> dict[str, str]:
        """The logical type of every id and join key that a request of a role's model may bring."""
        endpoint, types = self.task.endpoint, self.snapshot.types
        found = {key: types[key] for key in (endpoint.query_key, endpoint.item_key) if key in types}
        for view in self.roles[role].views:
            found |= {key: types[key] for key in view.join_keys if key in types}
            found |= logical_types(view.key_types)
        return found

    def forget(self, role: Role) -> None:
        """Free the tensors of a role that is trained."""
        for key in [key for key in self._tensors if key[0] == role]:
            del self._tensors[key]

    def tensors(self, role: Role, split: str) -> TensorRows:
        """A split as tensors, ready to train on; built once."""
        if (role, split) not in self._tensors:
            self._tensors[role, split] = self._build(role, split)
        return self._tensors[role, split]

    def _build(self, role: Role, split: str) -> TensorRows:
        rows = self.snapshot.rows_of(split)
        if not len(rows):
            raise ConfigError(f"Snapshot {self.snapshot.id}", [f"its {split} split is empty"])
        slots = self.transform(role).slots
        columns = self.snapshot.columns(self.task.attributes, rows) if self.task.attributes else {}
        attributes = {name: values.astype(np.float32) for name, values in columns.items()}
        attributes |= {name: values[rows] for name, values in self.made.items()}
        return TensorRows.build(
            self.encoded(role, rows), slots, self.labels(split), rows.astype(np.int64), self.groups(split), attributes
        )

    def catalogue(self, role: Role) -> Catalogue:
        """Every query and item of the snapshot as a role's model sees them, each as in its newest row."""
        transform, sides = self.transform(role), self.sides(role)
        found = []
        for place, key in enumerate((self.task.endpoint.query_key, self.task.endpoint.item_key)):
            newest = newest_rows(self.keys(key))
            encoded = self.encoded(role, newest)
            dense, slots = sides.dense_places(transform)[place], sides.slot_places(transform)[place]
            dense_part, ids = encoded.dense[:, dense], encoded.ids[:, slots].astype(np.int32)
            found.append(Side(torch.from_numpy(dense_part), torch.from_numpy(ids), dense, slots))
        attributes = {}
        if self.task.attributes:
            newest = newest_rows(self.keys(self.task.endpoint.item_key))
            columns = self.snapshot.columns(self.task.attributes, newest)
            attributes = {name: torch.from_numpy(values.astype(np.float32)) for name, values in columns.items()}
        return Catalogue(found[0], found[1], transform.slots, attributes)

    def keys(self, name: str) -> NDArray[np.int64]:
        """The number of the key of each row, in the order of the keys."""
        return codes_of(self.snapshot.typed([name])[name])

    @cached_property
    def pairs(self) -> NDArray[np.int64]:
        """(N, 2): the number of the query and of the item of every row, as the catalogue counts them."""
        endpoint = self.task.endpoint
        return np.stack([self.keys(key) for key in (endpoint.query_key, endpoint.item_key)], 1)

    def known_pairs(self, *splits: str) -> NDArray[np.int64]:
        """Sorted row ids (query * items + item) of the pairs of some splits."""
        rows = np.concatenate([self.snapshot.rows_of(split) for split in splits])
        query, item = self.pairs[rows].T
        return np.unique(query * (int(self.pairs[:, 1].max()) + 1) + item)

    def training(self, role: Role) -> TensorRows | CatalogueRows:
        """The training rows: as they lie, or for a retrieval task positives that draw their negatives."""
        if self.task.retrieval is None:
            return self.tensors(role, "train")
        positives = torch.from_numpy(self.pairs[self.snapshot.rows_of("train")])
        known = torch.from_numpy(self.known_pairs("train"))
        return CatalogueRows(self.catalogue(role), positives, known, self.task.primary.name, self.task.retrieval.negatives)

    def labels(self, split: str) -> dict[str, NDArray[np.float32]]:
        """The labels of a split."""
        columns = self.snapshot.columns([label.name for label in self.task.labels], self.snapshot.rows_of(split))
        return {name: values.astype(np.float32) for name, values in columns.items()}

    def groups(self, split: str) -> NDArray[np.int64]:
        """The group of each row of a split; of a task without groups each row is one of its own."""
        if not self.task.groups:
            return np.arange(len(self.snapshot.rows_of(split)))
        columns = self.snapshot.typed(self.task.groups, self.snapshot.rows_of(split))
        return group_ids(list(columns.values()))

    def raw(self, role: Role, rows: Values) -> dict[str, Values]:
        """The columns of a role's features as they are in the snapshot: numbers with NaN, all else with None for gaps."""
        features = [feature for feature in self.features(role) if not feature.of]
        columns = self.snapshot.typed([feature.name for feature in features], rows)
        return {feature.name: _plain(feature, columns[feature.name]) for feature in features}

    def column_rows(self, role: Role, split: str) -> ColumnRows:
        """A split as teachers of raw columns read it."""
        return ColumnRows(self.raw(role, self.snapshot.rows_of(split)), self.labels(split), self.groups(split))

    def unseen(self, split: str) -> dict[str, float]:
        """The share of rows of a split whose query or item id has no row of its own: they are scored by hashed ids."""
        transform, endpoint = self.transform("student"), self.task.endpoint
        keys = [key for key in (endpoint.query_key, endpoint.item_key) if key in {f.name for f in transform.features}]
        columns = self.snapshot.typed(keys, self.snapshot.rows_of(split)) if keys else {}
        return {key: float(1 - transform.knows(key, columns[key]).mean()) for key in keys}

    def baseline_data(self) -> tuple[BaselineData, BaselineData, BaselineData]:
        """Train, valid and test with the teacher's features as raw values and category codes; texts stay texts."""
        features = [feature for feature in self.features("teacher") if feature.kind not in ("match", "sequence")]
        typed = self.snapshot.typed([feature.name for feature in features])
        train = self.snapshot.rows_of("train")
        columns = {
            f.name: _codes(typed[f.name], train) if f.kind == "categorical" else _plain(f, typed[f.name]) for f in features
        }
        categorical = tuple(feature.name for feature in features if feature.kind == "categorical")
        parts = []
        for split in ("train", "valid", "test"):
            rows = self.snapshot.rows_of(split)
            parts.append(BaselineData({n: v[rows] for n, v in columns.items()}, categorical, self.labels(split)))
        return parts[0], parts[1], parts[2]


def _plain(feature: FeatureSpec, column: Typed) -> Values:
    return column.numbers() if feature.kind == "numeric" and isinstance(column, Column) else column.plain()


def newest_rows(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of the last row of each distinct key, in the order of the keys."""
    _, first = np.unique(keys[::-1], return_index=True)
    return len(keys) - 1 - first


def _codes(values: Typed, train: Values) -> NDArray[np.int64]:
    keys = to_keys(values)
    known: NDArray[np.uint64] = np.unique(keys[train])
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where((known[place] == keys) & (keys != 0), place, -1)


def largest_groups(groups: NDArray[np.int64], count: int) -> Sequence[NDArray[np.int64]]:
    """Return the row places of the largest groups."""
    sizes = np.bincount(groups)
    return [np.flatnonzero(groups == group) for group in np.argsort(-sizes, kind="stable")[:count] if sizes[group]]
