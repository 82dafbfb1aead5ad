"""The rows of a run, encoded once for teacher and students."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from recstill.api.baseline import BaselineData
from recstill.api.errors import ConfigError
from recstill.data.encoders import Values, to_keys
from recstill.data.sides import Sides, split_sides
from recstill.data.transform import Encoded, Transform
from recstill.embeddings.batches import TensorRows
from recstill.evaluation.metrics import group_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from recstill.api.task import FeatureSpec, TaskSpec
    from recstill.data.snapshot import Snapshot
    from recstill.features.featureset import FeatureSet

Role = Literal["teacher", "student"]


@dataclass
class RunRows:
    """Views of one snapshot. The transform is fitted once, on the training rows; a student's is a part of the teacher's."""

    snapshot: Snapshot
    task: TaskSpec
    teacher: FeatureSet
    student: FeatureSet
    _tensors: dict[tuple[Role, str], TensorRows] = field(default_factory=dict)

    def features(self, role: Role) -> tuple[FeatureSpec, ...]:
        """The features that a role may see."""
        return (self.teacher if role == "teacher" else self.student).select(self.task)

    @cached_property
    def _all(self) -> tuple[Transform, Encoded]:
        names = {feature.name: feature for role in ("teacher", "student") for feature in self.features(role)}
        chosen = [feature for feature in self.task.features if feature.name in names]
        columns = self.snapshot.columns([feature.name for feature in chosen])
        train = self.snapshot.rows_of("train")
        transform = Transform.fit(chosen, {name: values[train] for name, values in columns.items()})
        return transform, transform.encode(columns)

    def transform(self, role: Role) -> Transform:
        """The fitted transform of a role."""
        return self._all[0].restrict(self.features(role))

    def sides(self, role: Role) -> Sides:
        """Which features belong to the query and which to the items."""
        views = (self.teacher if role == "teacher" else self.student).views
        return split_sides(self.features(role), {view.name: view.join_keys for view in views}, self.task.endpoint)

    def encoded(self, role: Role, rows: Values) -> Encoded:
        """Some rows as a role's model sees them."""
        transform, encoded = self._all
        names = [feature.name for feature in self.features(role)]
        dense, ids = transform.dense_index(names), transform.id_index(names)
        return Encoded(encoded.dense[rows][:, dense], encoded.ids[rows][:, ids])

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
        return TensorRows.build(self.encoded(role, rows), slots, self.labels(split), rows.astype(np.int64))

    def labels(self, split: str) -> dict[str, NDArray[np.float32]]:
        """The labels of a split."""
        columns = self.snapshot.columns([label.name for label in self.task.labels], self.snapshot.rows_of(split))
        return {name: values.astype(np.float32) for name, values in columns.items()}

    def groups(self, split: str) -> NDArray[np.int64]:
        """The group of each row of a split."""
        columns = self.snapshot.columns(self.task.groups, self.snapshot.rows_of(split))
        return group_ids(list(columns.values()))

    def unseen(self, split: str) -> dict[str, float]:
        """The share of rows of a split whose query or item id has no row of its own: they are scored by hashed ids."""
        transform, endpoint = self.transform("student"), self.task.endpoint
        keys = [key for key in (endpoint.query_key, endpoint.item_key) if key in {f.name for f in transform.features}]
        columns = self.snapshot.columns(keys, self.snapshot.rows_of(split)) if keys else {}
        return {key: float(1 - transform.knows(key, columns[key]).mean()) for key in keys}

    def baseline_data(self) -> tuple[BaselineData, BaselineData, BaselineData]:
        """Train, valid and test with the teacher's features as raw values and category codes."""
        features = self.features("teacher")
        columns = self.snapshot.columns([feature.name for feature in features])
        train = self.snapshot.rows_of("train")
        for feature in features:
            if feature.kind == "categorical":
                columns[feature.name] = _codes(columns[feature.name], train)
        categorical = tuple(feature.name for feature in features if feature.kind == "categorical")
        parts = []
        for split in ("train", "valid", "test"):
            rows = self.snapshot.rows_of(split)
            parts.append(BaselineData({n: v[rows] for n, v in columns.items()}, categorical, self.labels(split)))
        return parts[0], parts[1], parts[2]


def _codes(values: Values, train: Values) -> NDArray[np.int64]:
    keys = to_keys(values)
    known: NDArray[np.uint64] = np.unique(keys[train])
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where((known[place] == keys) & (keys != 0), place, -1)


def largest_groups(groups: NDArray[np.int64], count: int) -> Sequence[NDArray[np.int64]]:
    """Return the row places of the largest groups."""
    sizes = np.bincount(groups)
    return [np.flatnonzero(groups == group) for group in np.argsort(-sizes, kind="stable")[:count] if sizes[group]]
