"""The fitted transform of a model: raw columns to (dense, ids). Numpy only; stored with the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from recstill.api.errors import BundleError, FeatureError
from recstill.api.models import Slot
from recstill.api.task import FeatureSpec
from recstill.data.encoders import NumericEncoder, Values, Vocabulary, to_keys
from recstill.data.files import read_json, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

Columns = Mapping[str, Values]


@dataclass(frozen=True)
class Encoded:
    """N rows as model input: dense (N, D) float32, ids (N, S) int64, each id local to its slot's table."""

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
        self, features: Sequence[FeatureSpec], numeric: Mapping[str, NumericEncoder], tables: Mapping[str, Vocabulary]
    ) -> None:
        self.features = tuple(features)
        self.numeric, self.tables = dict(numeric), dict(tables)
        slots = []
        for feature in self.features:
            if feature.kind == "categorical":
                slots.append((Slot(feature.name, feature.table_name, self.tables[feature.table_name].num_rows), feature))
            elif feature.buckets:
                slots.append((Slot(f"{feature.name}#", f"{feature.name}#", feature.buckets + 1), feature))
        slots.sort(key=lambda slot: slot[0].table)
        self.slots = tuple(slot for slot, _ in slots)
        self._slot_features = tuple(feature.name for _, feature in slots)

    @classmethod
    def fit(cls, features: Sequence[FeatureSpec], columns: Columns) -> Transform:
        """Fit on the columns of the training split."""
        if missing := [feature.name for feature in features if feature.name not in columns]:
            raise FeatureError(f"The snapshot lacks {', '.join(missing)}. Make a new one: `recstill data snapshot`.")
        numeric = {f.name: NumericEncoder.fit(columns[f.name], f.buckets) for f in features if f.kind == "numeric"}
        tables = {}
        for table in sorted({f.table_name for f in features if f.kind == "categorical"}):
            members = [f for f in features if f.kind == "categorical" and f.table_name == table]
            keys = np.concatenate([to_keys(columns[f.name]) for f in members])
            tables[table] = Vocabulary.fit(keys, min(f.min_count for f in members), max(f.oov_buckets for f in members))
        return cls(features, numeric, tables)

    @property
    def num_dense(self) -> int:
        return sum(encoder.num_columns for encoder in self.numeric.values())

    def encode(self, columns: Columns, names: Sequence[str] | None = None) -> Encoded:
        """Encode all features, or only `names` (their columns in the order of `dense_index` and `id_index`)."""
        chosen = set(names) if names is not None else {feature.name for feature in self.features}
        num_rows = len(next(iter(columns.values()))) if columns else 0
        dense = [self.numeric[f.name].dense(columns[f.name]) for f in self.features if f.name in chosen and f.kind == "numeric"]
        ids = []
        for slot, name in zip(self.slots, self._slot_features, strict=True):
            if name in chosen:
                bucketed = slot.name.endswith("#")
                values = columns[name]
                ids.append(self.numeric[name].bucket(values) if bucketed else self.tables[slot.table].rows(to_keys(values)))
        return Encoded(
            np.concatenate(dense, 1) if dense else np.zeros((num_rows, 0), np.float32),
            np.stack(ids, 1) if ids else np.zeros((num_rows, 0), np.int64),
        )

    def restrict(self, features: Sequence[FeatureSpec]) -> Transform:
        """Return the transform of some of the features, with what was fitted for them."""
        tables = {feature.table_name for feature in features if feature.kind == "categorical"}
        return Transform(
            features,
            {name: encoder for name, encoder in self.numeric.items() if name in {feature.name for feature in features}},
            {name: vocabulary for name, vocabulary in self.tables.items() if name in tables},
        )

    def dense_index(self, names: Sequence[str]) -> list[int]:
        """Return where the dense columns of these features stand in the whole."""
        places, start = [], 0
        for feature in self.features:
            if feature.kind == "numeric":
                stop = start + self.numeric[feature.name].num_columns
                places += list(range(start, stop)) if feature.name in set(names) else []
                start = stop
        return places

    def id_index(self, names: Sequence[str]) -> list[int]:
        """Return where the slots of these features stand in the whole."""
        return [place for place, name in enumerate(self._slot_features) if name in set(names)]

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
        save_file({name: vocabulary.keys for name, vocabulary in self.tables.items()}, folder / "transform.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Transform:
        """Read what `save` wrote. Raise BundleError if it does not hold together."""
        from safetensors.numpy import load_file

        try:
            spec = read_json(folder / "transform.json")
            keys = load_file(folder / "transform.safetensors")
            return cls(
                [FeatureSpec(**feature) for feature in spec["features"]],
                {
                    name: NumericEncoder(**{**fit, "quantiles": tuple(fit["quantiles"])})
                    for name, fit in spec["numeric"].items()
                },
                {name: Vocabulary(keys[name], table["oov_buckets"]) for name, table in spec["tables"].items()},
            )
        except (OSError, KeyError, ValueError) as error:
            raise BundleError(f"The transform in {folder} cannot be read: {error}") from error
