"""The fitted transform of a model: raw columns to (dense, ids). Numpy only; stored with the model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from recstill.api.errors import BundleError, FeatureError
from recstill.api.models import Slot
from recstill.api.task import FeatureSpec
from recstill.data.columns import CATEGORIES, NUMBERS, Column, Columns, Lists, Typed, Values, as_column, item_type
from recstill.data.encoders import NumericEncoder, Vocabulary
from recstill.data.files import read_json, write_json
from recstill.data.keys import WAYS_OUT, check_category, to_keys
from recstill.data.text import Matcher, buckets_of, crossed, padded

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

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
    """Fit with `Transform.fit`, then `encode`. Slots are ordered by table, so that tables answer them in order.

    types: the logical type of each feature's column, as the schema of the training rows has it. Everything that is encoded
    later is of that type, or refused. complete: the features that no training row lacked.
    """

    def __init__(
        self,
        features: Sequence[FeatureSpec],
        numeric: Mapping[str, NumericEncoder],
        tables: Mapping[str, Vocabulary],
        matchers: Mapping[str, Matcher],
        types: Mapping[str, str],
        complete: Collection[str] = (),
    ) -> None:
        self.complete = frozenset(complete)
        self.features, self.types = tuple(features), dict(types)
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
        """Fit on the columns of the training split. Raise FeatureError for columns that cannot be what the features are."""
        if missing := [feature.name for feature in features if feature.name not in columns and not feature.of]:
            raise FeatureError(f"The snapshot lacks {', '.join(missing)}. Make a new one: `recstill data snapshot`.")
        typed = {f.name: as_column(columns[f.name]) for f in features if not f.of}
        if problems := type_problems(features, {name: column.type for name, column in typed.items()}):
            raise FeatureError("\n".join(problems))
        numeric = {f.name: NumericEncoder.fit(_numbers(typed[f.name]), f.buckets) for f in features if f.kind == "numeric"}
        tables = {}
        for table in sorted({f.table_name for f in features if f.kind in _IN_TABLES}):
            members = [f for f in features if f.kind in _IN_TABLES and f.table_name == table]
            keys = np.concatenate([to_keys(_items(f, typed[f.name])) for f in members])
            tables[table] = Vocabulary.fit(keys, min(f.min_count for f in members), max(f.oov_buckets for f in members))
        matchers = {f.name: Matcher.fit(typed[f.of[1]].plain()) for f in features if f.kind == "match"}
        columns_of = {name: column for name, column in typed.items() if isinstance(column, Column)}
        complete = [name for name, column in columns_of.items() if not column.is_absent.any()]
        types = {name: column.type for name, column in typed.items()}
        return cls(features, numeric, tables, matchers, types, complete)

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

    def column(self, name: str, columns: Columns) -> Typed:
        """Return the column of a feature as its declared type. Raise FeatureError for values of another type."""
        declared, values = self.types[name], columns[name]
        if isinstance(values, Column) and values.type == declared:
            return values
        if declared == "null" and not isinstance(values, (Column, Lists)):  # training knew no value: none means anything
            return Column("null", np.zeros(len(values), bool), np.ones(len(values), bool))
        column = as_column(values, "" if declared in NUMBERS else declared)
        if column.type != declared and column.type != "null" and not (column.type in NUMBERS and name in self.numeric):
            raise FeatureError(
                f"Feature {name!r} was of type {declared} in training and is of type {column.type} here. "
                "Give it the type that it had, or train again."
            )
        return column

    def _numbers(self, feature: FeatureSpec, columns: Columns) -> NDArray[np.float32]:
        if feature.kind == "match":
            short, long = (self.column(name, columns).plain() for name in feature.of)
            return self.matchers[feature.name].dense(short, long)
        return self.numeric[feature.name].dense(_numbers(self.column(feature.name, columns)))

    def _ids(self, feature: FeatureSpec, columns: Columns) -> NDArray[np.int64]:
        """Return (N, width of the slot)."""
        if feature.kind == "match":
            short, long = (self.column(name, columns).plain() for name in feature.of)
            return buckets_of(crossed(short, long, feature.length), feature.buckets)
        values = self.column(feature.name, columns)
        if feature.kind == "text":
            return buckets_of(padded(values.plain(), feature.ngrams, feature.length), feature.buckets)
        if feature.kind == "numeric":
            return self.numeric[feature.name].bucket(_numbers(values))[:, None]
        table = self.tables[feature.table_name]
        if feature.kind == "categorical":
            return table.rows(to_keys(values))[:, None]
        rows = np.zeros((len(values), feature.length), np.int64)
        if isinstance(values, Lists):  # else nothing is known of any history
            lists = values.last(feature.length)
            rows[np.arange(feature.length)[None] < lists.lengths[:, None]] = table.rows(to_keys(_items(feature, lists)))
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
            {name: kind for name, kind in self.types.items() if name in names},
            self.complete & names,
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

    def knows(self, name: str, values: Typed | Values) -> NDArray[np.bool_]:
        """Say which values of a categorical feature, or items of a sequence laid flat, have a row of their own."""
        feature = next(f for f in self.features if f.name == name)
        kind = item_type(self.types[name]) or self.types[name]
        return self.tables[feature.table_name].known(to_keys(values, kind))

    def save(self, folder: Path) -> None:
        """Write `transform.json` and `transform.safetensors`."""
        from safetensors.numpy import save_file

        write_json(
            folder / "transform.json",
            {
                "features": [feature.model_dump() for feature in self.features],
                "numeric": {name: asdict(encoder) for name, encoder in self.numeric.items()},
                "types": self.types,
                "complete": sorted(self.complete),
                "tables": {
                    name: {"oov_buckets": vocabulary.oov_buckets, "trained": vocabulary.trained}
                    for name, vocabulary in self.tables.items()
                },
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
                {
                    name: Vocabulary(keys[name], table["oov_buckets"], tuple(table["trained"]))
                    for name, table in spec["tables"].items()
                },
                {f.name: Matcher(keys[f"{f.name}/words"], keys[f"{f.name}/rarity"]) for f in features if f.kind == "match"},
                spec["types"],
                spec["complete"],
            )
        except (OSError, KeyError, ValueError) as error:
            raise BundleError(f"The transform in {folder} cannot be read: {error}") from error


def type_problems(features: Sequence[FeatureSpec], types: Mapping[str, str]) -> list[str]:
    """Say which features cannot be read from columns of these types, each with the way out."""
    problems = [problem for f in features if f.name in types and (problem := _type_problem(f, types[f.name]))]
    in_tables = [f for f in features if f.kind in _IN_TABLES and f.name in types]
    for table in dict.fromkeys(f.table_name for f in in_tables):
        kinds = {f.name: item_type(types[f.name]) or types[f.name] for f in in_tables if f.table_name == table}
        if len(set(kinds.values()) - {"null"}) > 1:
            found = ", ".join(f"{name} of {kind}" for name, kind in kinds.items())
            problems.append(f"Table {table!r} is shared by values of several types ({found}): cast them to one.")
    return problems


def _type_problem(feature: FeatureSpec, kind: str) -> str:
    name = feature.name
    if feature.kind == "numeric" and kind not in NUMBERS:
        way = {
            "string": "write numbers, null where there is none, or make it categorical",
            "timestamp": "give the time since or until it, such as days, as a number",
            "date": "give the time since or until it, such as days, as a number",
        }.get(kind, WAYS_OUT.get(kind.split("<")[0], "write numbers"))
        return f"Feature {name!r} is numeric and its values are of type {kind}: {way}."
    if feature.kind == "text" and kind not in ("string", "null"):
        return f"Feature {name!r} is a text and its values are of type {kind}: cast it to a string."
    if feature.kind == "sequence" and kind != "null":
        if not item_type(kind):
            return f"Feature {name!r} is a sequence and its values are of type {kind}, not lists: split them into lists."
        if item_type(kind) not in CATEGORIES:
            return f"Feature {name!r} is a sequence of {item_type(kind)}: its items must be integers or strings."
    if feature.kind == "categorical":
        try:
            check_category(name, kind)
        except FeatureError as error:
            return str(error)
    return ""


def _numbers(column: Typed) -> Values:
    assert isinstance(column, Column)
    return column.numbers() if column.type != "null" else np.full(len(column), np.nan)


def _items(feature: FeatureSpec, column: Typed) -> Column:
    """The values of a category, or those of all lists one after the other. Raise FeatureError for a null inside of a list."""
    if isinstance(column, Column):
        return column
    missing = column.items.is_missing
    if missing.any():
        row = int(np.searchsorted(column.offsets, np.flatnonzero(missing)[0], "right")) - 1
        raise FeatureError(
            f"Feature {feature.name!r} has {int(missing.sum())} nulls inside of its lists, the first in row {row}: "
            f"{column[row : row + 1].tolist()[0]}. Leave them out of the lists."
        )
    return column.items
