"""Values with their logical type, which a schema declares: no array's looks decide what a value is. Numpy only."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recstill.api.errors import FeatureError

Values = NDArray[np.generic]

CATEGORIES = ("int", "bool", "string", "decimal", "date", "timestamp", "null")
NUMBERS = ("int", "bool", "float", "decimal", "null")
_PYTHON: Mapping[type, str] = {
    bool: "bool", int: "int", str: "string", Decimal: "decimal", float: "float", bytes: "bytes",
    datetime.date: "date", datetime.datetime: "timestamp",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """N values of one logical type: `int` (int64, or uint64 where one needs it), `bool`, `string`, `decimal` (objects),
    `date`, `timestamp` (datetime64, UTC), `float`, `bytes`, `null` (nothing is known), or a name that nothing here reads.

    missing: (N,), where a value is missing, of the types that cannot say it themselves. Elsewhere NaN, NaT and None say it.
    """

    type: str
    values: Values
    missing: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> Column:
        """Return some rows: a slice, places or a mask."""
        return Column(self.type, self.values[rows], None if self.missing is None else self.missing[rows])

    @property
    def is_missing(self) -> NDArray[np.bool_]:
        """(N,): which values are missing; an empty string is not."""
        if self.missing is not None:
            return self.missing
        if self.values.dtype.kind == "O":
            return np.array([value is None for value in self.values.tolist()], bool)
        if self.values.dtype.kind in "fM":
            return np.asarray(self.values != self.values)
        return np.zeros(len(self.values), bool)

    @property
    def is_absent(self) -> NDArray[np.bool_]:
        """(N,): which values say nothing: those that are missing, and empty strings."""
        return np.array([not value for value in self.values.tolist()], bool) if self.type == "string" else self.is_missing

    def numbers(self) -> Values:
        """Return (N,) numbers, NaN where they are missing."""
        if self.values.dtype.kind == "f" or (self.missing is None and self.values.dtype.kind in "iub"):
            return self.values
        numbers = self.values.astype(np.float64)
        return numbers if self.missing is None else np.where(self.missing, np.nan, numbers)

    def plain(self) -> Values:
        """Return (N,) as people's code reads it: missing integers and booleans are None in an array of objects, never NaN."""
        if self.missing is None or not self.missing.any():
            return self.values
        objects = self.values.astype(object)
        objects[self.missing] = None
        return objects

    def tolist(self) -> list[Any]:
        """Return Python values, None where they are missing; moments to the microsecond."""
        values = self.values.astype("M8[us]") if self.type == "timestamp" else self.values
        return [None if gone else value for value, gone in zip(values.tolist(), self.is_missing.tolist(), strict=True)]


@dataclass(frozen=True)
class Lists:
    """N lists of values of one type, one after the other in `items`; list n is items[offsets[n]:offsets[n + 1]]."""

    items: Column
    offsets: NDArray[np.int64]

    @property
    def type(self) -> str:
        return f"list<{self.items.type}>"

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    def __getitem__(self, rows: Any) -> Lists:
        """Return some rows: a slice, places or a mask."""
        starts, lengths = self.offsets[:-1][rows], self.lengths[rows]
        return self._cut(starts, lengths)

    def last(self, length: int) -> Lists:
        """Return at most the last `length` items of each list."""
        if (self.lengths <= length).all():
            return self
        lengths = np.minimum(self.lengths, length)
        return self._cut(self.offsets[1:] - lengths, lengths)

    def _cut(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Lists:
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return Lists(self.items[places], offsets)

    def plain(self) -> Values:
        """Return (N,) objects, a list each; a null list is an empty one."""
        items, bounds = self.items.tolist(), self.offsets.tolist()
        found = np.empty(len(self), object)
        for place in range(len(self)):
            found[place] = items[bounds[place] : bounds[place + 1]]
        return found

    def tolist(self) -> list[Any]:
        """Return Python lists."""
        return list(self.plain())


Typed = Column | Lists
Columns = Mapping[str, Typed | Values]


def as_column(values: Typed | Values, declared: str = "") -> Typed:
    """Give an array the type that is declared for it, or where none is, the one that all of its values have.

    Raise FeatureError for values of several types, or of another than the declared one.
    """
    if isinstance(values, (Column, Lists)):
        return values
    if values.dtype.kind == "O":
        return _of_objects(values.tolist(), declared)
    kinds = {"i": "int", "u": "int", "b": "bool", "f": "float", "M": "timestamp", "U": "string"}
    found = kinds.get(values.dtype.kind, str(values.dtype))
    if values.dtype == np.dtype("M8[D]"):
        found = "date"
    _fits(found, declared)
    if found == "int":
        return Column("int", values if values.dtype.kind == "u" else values.astype(np.int64, copy=False))
    return Column(found, values.astype(object) if found == "string" else values)


def _of_objects(values: list[Any], declared: str) -> Typed:
    present = [value for value in values if value is not None and not _is_nan(value)]
    if any(isinstance(value, (list, tuple, np.ndarray)) for value in present):
        return _of_lists(values, declared)
    types = {_PYTHON.get(type(value), type(value).__name__) for value in present}
    if len(types) > 1:
        raise FeatureError(f"One column holds values of several types: {', '.join(sorted(types))}. Cast it to one of them.")
    found = types.pop() if types else declared or "null"
    _fits(found, declared)
    return column_of(found, [None if value is None or _is_nan(value) else value for value in values])


def _of_lists(values: list[Any], declared: str) -> Lists:
    lists = [[] if value is None or _is_nan(value) else list(value) for value in values]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(one) for one in lists], dtype=np.int64)])
    flat = np.empty(int(offsets[-1]), object)
    flat[:] = [item.item() if isinstance(item, np.generic) else item for one in lists for item in one]
    items = as_column(flat, item_type(declared))
    if isinstance(items, Lists):
        raise FeatureError("A list of lists cannot be a feature. Flatten it, or make a feature of each.")
    return Lists(items, offsets)


def column_of(kind: str, values: list[Any]) -> Column:
    """Return a column of Python values of a logical type, None where they are missing."""
    missing = np.array([value is None for value in values], bool)
    gaps = missing if missing.any() else None
    if kind == "int":
        return Column("int", _integers([0 if value is None else value for value in values]), gaps)
    if kind == "bool":
        return Column("bool", np.array([bool(value) for value in values], bool), gaps)
    if kind == "float":
        return Column("float", np.array([np.nan if value is None else value for value in values], np.float64))
    if kind == "date":
        return Column("date", np.array(values, "M8[D]"))
    if kind == "timestamp":
        return Column("timestamp", np.array([_in_utc(value) for value in values], "M8[us]"))
    if kind == "null":
        return Column("null", np.zeros(len(values), bool), np.ones(len(values), bool))
    objects = np.empty(len(values), object)
    objects[:] = values
    return Column(kind, objects)


def item_type(kind: str) -> str:
    """Return T of `list<T>`, and nothing for another type."""
    return kind.removeprefix("list<").removesuffix(">") if kind.startswith("list<") else ""


def codes_of(values: Typed | Values) -> NDArray[np.int64]:
    """Number the distinct values from 0, in their order; what is missing has one number, the last."""
    column = as_column(values)
    if isinstance(column, Lists):
        raise FeatureError(f"A column of {column.type} cannot number rows.")
    missing = column.is_missing
    codes = np.zeros(len(column), np.int64)
    codes[~missing] = np.unique(column.values[~missing], return_inverse=True)[1]
    codes[missing] = codes.max(initial=0) + (not missing.all())
    return codes


def _integers(values: list[int]) -> Values:
    least, most = min(values, default=0), max(values, default=0)
    if most < 2**63 and least >= -(2**63):
        return np.array(values, np.int64)
    if least < 0 or most >= 2**64:
        raise FeatureError(f"Integers from {least} to {most} are beyond 64 bits.")
    return np.array(values, np.uint64)


def _in_utc(moment: datetime.datetime | None) -> datetime.datetime | None:
    """A moment without a zone is one of UTC, as everywhere in Feast."""
    if moment is None or moment.tzinfo is None:
        return moment
    return moment.astimezone(datetime.UTC).replace(tzinfo=None)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value


def _fits(found: str, declared: str) -> None:
    if declared and found not in (declared, "null") and not (declared == "null"):
        raise FeatureError(f"Values of type {found} were given for what is declared as {declared}.")
