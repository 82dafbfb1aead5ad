"""The 64-bit key of a category, from its logical type and value alone: one function for training rows, packed arrays,
requests and join keys. Numpy only."""

from __future__ import annotations

import decimal
import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recstill.api.errors import FeatureError
from recstill.data.columns import CATEGORIES, Column, Typed, Values, as_column

Keys = NDArray[np.uint64]

_ABOVE_INT64 = np.uint64(0xD6E8FEB86659FD93)
_INSTANT = np.uint64(0xA0761D6478BD642F)
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_EXACT = decimal.Context(prec=400, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
WAYS_OUT = {
    "float": "cast it to an integer or a string where the rows or the view are made, or read it as numeric",
    "bytes": "write it as text, such as its hexadecimal digits",
    "struct": "make a feature of each of its fields",
}


class _Digests(dict[str | None, int]):
    """Memo of string digests, so that a column costs one hash per distinct value. Holds `limit` bytes at most: a server that
    meets endless new strings must not grow with them. Long strings are not kept."""

    longest = 256

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.bytes = limit, 0

    def __missing__(self, text: str | None) -> int:
        if not text:
            return 0
        key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") | 1
        if len(text) <= self.longest:
            cost = 200 + 4 * len(text)  # the string in its widest form, its key, their place in the table
            if self.bytes + cost > self.limit:
                self.clear()
                self.bytes = 0
            self.bytes += cost
            self[text] = key
        return key


_digests = _Digests(128 * 2**20)


def check_category(name: str, kind: str) -> None:
    """Raise FeatureError, with the way out, for a type whose values cannot be categories."""
    if kind not in CATEGORIES:
        way = WAYS_OUT.get(kind.split("<")[0], "cast it to a string or an integer where the rows or the view are made")
        raise FeatureError(f"Feature {name!r} is a category and its values are of type {kind}: {way}.")


def to_keys(values: Typed | Values, declared: str = "") -> Keys:
    """Map categories to stable 64-bit keys; 0 stands for a missing value (null, empty string).

    Equal values have equal keys whatever the width of their type: integers, booleans and whole decimals count as the number
    that they are, dates as their ISO text, timestamps of any unit as the instant. declared: the type of a bare array. Raise
    FeatureError for types that cannot be categories.
    """
    column = as_column(values, declared)
    check_category("of this column", column.type)
    assert isinstance(column, Column)
    if column.type == "string":
        return _of_strings(column.values.tolist())
    if column.type == "decimal":
        return np.array([_of_decimal(value) for value in column.values.tolist()], np.uint64)
    if column.type == "date":
        texts = np.datetime_as_string(column.values.astype("M8[D]")).tolist()
        return _of_strings(["" if text == "NaT" else text for text in texts])
    if column.type == "null":
        return np.zeros(len(column), np.uint64)
    keys = _of_instants(column.values) if column.type == "timestamp" else _of_integers(column.values)
    if column.type == "timestamp" or column.missing is not None:
        keys = np.where(column.is_missing, np.uint64(0), keys)
    return keys


def fold_keys(parts: Sequence[Keys]) -> Keys:
    """Fold the 64-bit keys of join-key columns, in order, into one per row; 0 where one of them is missing."""
    folded = parts[0]
    with np.errstate(over="ignore"):
        for part in parts[1:]:
            together = (folded * np.uint64(0x9E3779B97F4A7C15)) ^ part
            folded = np.where((folded == 0) | (part == 0), np.uint64(0), together)
    return folded


def _of_strings(texts: list[str | None]) -> Keys:
    return np.fromiter(map(_digests.__getitem__, texts), np.uint64, len(texts))


def _of_integers(values: Values) -> Keys:
    if values.dtype != np.uint64:
        return _mix(values.astype(np.int64, copy=False).view(np.uint64))
    keys = _mix(values.view(np.uint64))
    return np.where(values >= np.uint64(2**63), _mix(keys ^ _ABOVE_INT64), keys)


def _of_decimal(value: decimal.Decimal | None) -> int:
    if value is None or value.is_nan():
        return 0
    if value.is_finite() and value == value.to_integral_value() and -(2**63) <= value < 2**64:
        whole = int(value)
        return int(_of_integers(np.array([whole], np.uint64 if whole >= 2**63 else np.int64))[0])
    return _digests[f"decimal {value.normalize(_EXACT)}"]


def _of_instants(values: Values) -> Keys:
    unit = values.dtype.str.removeprefix("<M8[").removesuffix("]")
    seconds, rest = np.divmod(values.view(np.int64), _PER_SECOND[unit])
    nanos = rest * (10**9 // _PER_SECOND[unit])
    with np.errstate(over="ignore"):
        return _mix(_mix(seconds.view(np.uint64)) + _mix(nanos.view(np.uint64) ^ _INSTANT))


def _mix(values: Keys) -> Keys:
    """The splitmix64 finaliser (Steele et al., 2014); never 0."""
    with np.errstate(over="ignore"):
        keys = values + np.uint64(0x9E3779B97F4A7C15)
        keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (keys ^ (keys >> np.uint64(31))) | np.uint64(1)
