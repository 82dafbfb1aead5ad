"""The fitted transform of a model: raw columns to (dense, ids). Numpy only; stored with the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from recstill.api.errors import BundleError, FeatureError
from recstill.api.models import Slot
from recstill.api.task import FeatureSpec
from recstill.data.encoders import NumericEncoder, Values, Vocabulary, to_keys
from recstill.data.files import read_json, write_json
from recstill.data.text import Matcher, buckets_of, crossed, padded

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

Columns = Mapping[str, Values]
_IN_TABLES = ("categorical", "sequence")


@dataclass(frozen=True)
class Encoded:
    """N rows as model input: dense (N, D) float32, ids (N, sum of slot widths) int64, each id local to its slot's table."""

    dense: NDArray[np.float32]
    ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.dense)

    def take(self, rows: NDArray[np.int64]) -> Encoded:
        """Return some rows."""
        return Encoded(self.dense[rows], self.ids[rows])


class Transform:
    """Fit with `Transform.fit`, then `encode`. Slots are ordered by table, so that tables answer them in order."""

    def __init__(
        self,
        features: Sequence[FeatureSpec],
        numeric: Mapping[str, NumericEncoder],
        tables: Mapping[str, Vocabulary],
        matchers: Mapping[str, Matcher],
    ) -> None:
        self.features = tuple(features)
        self.numeric, self.tables, self.matchers = dict(numeric), dict(tables), dict(matchers)
        slots = [(slot, feature) for feature in self.features if (slot := self._slot(feature)) is not None]
        slots.sort(key=lambda pair: pair[0].table)
        self.slots = tuple(slot for slot, _ in slots)
        self._slot_features = tuple(feature for _, feature in slots)
        self._dense: dict[str, int] = {name: encoder.num_columns for name, encoder in self.numeric.items()}
        self._dense |= {name: matcher.num_columns for name, matcher in self.matchers.items()}

    def _slot(self, feature: FeatureSpec) -> Slot | None:
        if feature.kind == "categorical":
            return Slot(feature.name, feature.table_name, self.tables[feature.table_name].num_rows)
        if feature.kind == "sequence":
            rows = self.tables[feature.table_name].num_rows
            return Slot(feature.name, feature.table_name, rows, feature.length, "sequence")
        if feature.kind in ("text", "match"):
            return Slot(feature.name, feature.table_name, feature.buckets + 1, feature.length, "bag")
        return Slot(f"{feature.name}#", f"{feature.name}#", feature.buckets + 1) if feature.buckets else None

    @classmethod
    def fit(cls, features: Sequence[FeatureSpec], columns: Columns) -> Transform:
        """Fit on the columns of the training split."""
        if missing := [feature.name for feature in features if feature.name not in columns and not feature.of]:
            raise FeatureError(f"The snapshot lacks {', '.join(missing)}. Make a new one: `recstill data snapshot`.")
        numeric = {f.name: NumericEncoder.fit(columns[f.name], f.buckets) for f in features if f.kind == "numeric"}
        tables = {}
        for table in sorted({f.table_name for f in features if f.kind in _IN_TABLES}):
            members = [f for f in features if f.kind in _IN_TABLES and f.table_name == table]
            keys = np.concatenate([to_keys(_flat(columns[f.name]) if f.length else columns[f.name]) for f in members])
            tables[table] = Vocabulary.fit(keys, min(f.min_count for f in members), max(f.oov_buckets for f in members))
        matchers = {f.name: Matcher.fit(columns[f.of[1]]) for f in features if f.kind == "match"}
        return cls(features, numeric, tables, matchers)

    @property
    def num_dense(self) -> int:
        return sum(self._dense.values())

    @property
    def dense_names(self) -> tuple[str, ...]:
        """The feature of each dense column."""
        return tuple(f.name for f in self.features if f.name in self._dense for _ in range(self._dense[f.name]))

    def encode(self, columns: Columns, names: Sequence[str] | None = None) -> Encoded:
        """Encode all features, or only `names` (their columns in the order of `dense_index` and `id_index`).

        A match needs the columns that it is of, whether or not they are among the names.
        """
        chosen = set(names) if names is not None else {feature.name for feature in self.features}
        num_rows = len(next(iter(columns.values()))) if columns else 0
        dense = [self._numbers(f, columns) for f in self.features if f.name in chosen and f.name in self._dense]
        ids = [self._ids(feature, columns) for feature in self._slot_features if feature.name in chosen]
        return Encoded(
            np.concatenate(dense, 1) if dense else np.zeros((num_rows, 0), np.float32),
            np.concatenate(ids, 1) if ids else np.zeros((num_rows, 0), np.int64),
        )

    def _numbers(self, feature: FeatureSpec, columns: Columns) -> NDArray[np.float32]:
        if feature.kind == "match":
            short, long = feature.of
            return self.matchers[feature.name].dense(columns[short], columns[long])
        return self.numeric[feature.name].dense(columns[feature.name])

    def _ids(self, feature: FeatureSpec, columns: Columns) -> NDArray[np.int64]:
        """Return (N, width of the slot)."""
        if feature.kind == "match":
            short, long = feature.of
            return buckets_of(crossed(columns[short], columns[long], feature.length), feature.buckets)
        values = columns[feature.name]
        if feature.kind == "text":
            return buckets_of(padded(values, feature.ngrams, feature.length), feature.buckets)
        if feature.kind == "numeric":
            return self.numeric[feature.name].bucket(values)[:, None]
        table = self.tables[feature.table_name]
        if feature.kind == "categorical":
            return table.rows(to_keys(values))[:, None]
        rows = np.zeros((len(values), feature.length), np.int64)
        lists = [_list(value)[-feature.length :] for value in values.tolist()]
        lengths = np.array([len(items) for items in lists])
        rows[np.arange(feature.length)[None] < lengths[:, None]] = table.rows(to_keys(_flat(np.array([*lists, None], object))))
        return rows

    def restrict(self, features: Sequence[FeatureSpec]) -> Transform:
        """Return the transform of some of the features, with what was fitted for them."""
        tables = {feature.table_name for feature in features if feature.kind in _IN_TABLES}
        names = {feature.name for feature in features}
        return Transform(
            features,
            {name: encoder for name, encoder in self.numeric.items() if name in names},
            {name: vocabulary for name, vocabulary in self.tables.items() if name in tables},
            {name: matcher for name, matcher in self.matchers.items() if name in names},
        )

    def dense_index(self, names: Sequence[str]) -> list[int]:
        """Return where the dense columns of these features stand in the whole."""
        places, start = [], 0
        for feature in self.features:
            if feature.name in self._dense:
                stop = start + self._dense[feature.name]
                places += list(range(start, stop)) if feature.name in set(names) else []
                start = stop
        return places

    def id_index(self, names: Sequence[str]) -> list[int]:
        """Return where the id columns of these features stand in the whole."""
        starts = np.cumsum([0, *(slot.width for slot in self.slots)])
        chosen = self.slot_index(names)
        return [int(starts[place]) + column for place in chosen for column in range(self.slots[place].width)]

    def slot_index(self, names: Sequence[str]) -> list[int]:
        """Return which slots are of these features."""
        return [place for place, feature in enumerate(self._slot_features) if feature.name in set(names)]

    def knows(self, name: str, values: Values) -> NDArray[np.bool_]:
        """Say which values of a categorical feature have a row of their own."""
        feature = next(f for f in self.features if f.name == name)
        return self.tables[feature.table_name].known(to_keys(values))

    def save(self, folder: Path) -> None:
        """Write `transform.json` and `transform.safetensors`."""
        from safetensors.numpy import save_file

        write_json(
            folder / "transform.json",
            {
                "features": [feature.model_dump() for feature in self.features],
                "numeric": {name: asdict(encoder) for name, encoder in self.numeric.items()},
                "tables": {name: {"oov_buckets": vocabulary.oov_buckets} for name, vocabulary in self.tables.items()},
            },
        )
        arrays: dict[str, NDArray[Any]] = {name: vocabulary.keys for name, vocabulary in self.tables.items()}
        for name, matcher in self.matchers.items():
            arrays |= {f"{name}/words": matcher.keys, f"{name}/rarity": matcher.rarity}
        save_file(arrays, folder / "transform.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Transform:
        """Read what `save` wrote. Raise BundleError if it does not hold together."""
        from safetensors.numpy import load_file

        try:
            spec = read_json(folder / "transform.json")
            keys = load_file(folder / "transform.safetensors")
            features = [FeatureSpec(**feature) for feature in spec["features"]]
            return cls(
                features,
                {
                    name: NumericEncoder(**{**fit, "quantiles": tuple(fit["quantiles"])})
                    for name, fit in spec["numeric"].items()
                },
                {name: Vocabulary(keys[name], table["oov_buckets"]) for name, table in spec["tables"].items()},
                {f.name: Matcher(keys[f"{f.name}/words"], keys[f"{f.name}/rarity"]) for f in features if f.kind == "match"},
            )
        except (OSError, KeyError, ValueError) as error:
            raise BundleError(f"The transform in {folder} cannot be read: {error}") from error


def _list(value: Any) -> list[Any]:
    return [] if value is None or (isinstance(value, float) and value != value) else list(value)


def _flat(values: Values) -> Values:
    """Put lists one after the other; strings stay objects, numbers numbers."""
    items = [item for value in values.tolist() for item in _list(value)]
    return np.array(items, dtype=object) if items and isinstance(items[0], str) else np.array(items, dtype=np.int64)
