"""Raw values to numbers, numpy only: the same code in training and in serving."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.generic]

MISSING_ROW = 0
NUM_QUANTILES = 64


class _Digests(dict[Any, int]):
    """Memo of string digests, so that a column costs one hash per distinct value."""

    def __missing__(self, value: Any) -> int:
        text = "" if value is None or value != value else str(value)
        key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") | 1 if text else 0
        self[value] = key
        return key


_digests = _Digests()
_MEMO_LIMIT = 1_000_000


def to_keys(values: Values) -> NDArray[np.uint64]:
    """Map ids or strings to stable 64-bit keys; 0 stands for a missing value (None, NaN, empty string)."""
    if values.dtype.kind in "iub":
        return _mix(values.astype(np.int64))
    if values.dtype.kind == "f":
        missing = np.isnan(values)
        return np.where(missing, np.uint64(0), _mix(np.where(missing, 0, values).astype(np.int64)))
    if len(_digests) > _MEMO_LIMIT:  # a server that meets endless new strings must not grow with them
        _digests.clear()
    return np.fromiter(map(_digests.__getitem__, values.tolist()), np.uint64, len(values))


def _mix(values: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The splitmix64 finaliser (Steele et al., 2014); never 0."""
    with np.errstate(over="ignore"):
        keys = values.view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (keys ^ (keys >> np.uint64(31))) | np.uint64(1)


@dataclass(frozen=True)
class Vocabulary:
    """Keys of a table: row 0 is missing, rows 1..V the frequent keys in order, then `oov_buckets` hashed rows."""

    keys: NDArray[np.uint64]
    oov_buckets: int

    @classmethod
    def fit(cls, keys: NDArray[np.uint64], min_count: int, oov_buckets: int) -> Vocabulary:
        """Keep the keys seen at least `min_count` times."""
        distinct, counts = np.unique(keys, return_counts=True)
        return cls(distinct[(counts >= min_count) & (distinct != 0)], oov_buckets)

    @property
    def num_rows(self) -> int:
        return 1 + len(self.keys) + self.oov_buckets

    def known(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Say which keys have a row of their own."""
        if not len(self.keys):
            return np.zeros(len(keys), bool)
        return self.keys[np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)] == keys

    def rows(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the table row of each key."""
        bucket = (keys % np.uint64(self.oov_buckets)).astype(np.int64) + 1 + len(self.keys)
        rows = np.where(keys == 0, MISSING_ROW, bucket)
        if len(self.keys):
            place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
            rows = np.where(self.keys[place] == keys, place + 1, rows)
        return rows


@dataclass(frozen=True)
class NumericEncoder:
    """A number as its standardised signed log, its quantile rank in [-1, 1] and, where training had gaps, a flag.

    Values are rounded to float32 first: the feature stores keep float32, and a rank must not differ by where it was read.
    """

    mean: float
    std: float
    quantiles: tuple[float, ...]
    has_missing: bool
    num_buckets: int = 0

    @classmethod
    def fit(cls, values: Values, num_buckets: int = 0) -> NumericEncoder:
        """Fit on the training rows."""
        numbers = values.astype(np.float32).astype(np.float64)
        present = numbers[np.isfinite(numbers)]
        if not len(present):
            return cls(0.0, 1.0, (0.0,), True, num_buckets)
        logs = _signed_log(present)
        quantiles = np.unique(np.quantile(present, np.linspace(0, 1, NUM_QUANTILES + 1)).astype(np.float32))
        std = float(logs.std()) or 1.0
        return cls(float(logs.mean()), std, tuple(map(float, quantiles)), len(present) < len(numbers), num_buckets)

    @property
    def seen(self) -> tuple[float, float]:
        """The least and the greatest value of the training rows."""
        return self.quantiles[0], self.quantiles[-1]

    @property
    def num_columns(self) -> int:
        return 3 if self.has_missing else 2

    def dense(self, values: Values) -> NDArray[np.float32]:
        """Return (N, num_columns)."""
        numbers = values.astype(np.float32).astype(np.float64)
        missing = ~np.isfinite(numbers)
        numbers = np.where(missing, 0.0, numbers)
        columns = [np.clip((_signed_log(numbers) - self.mean) / self.std, -5, 5), self._rank(numbers) * 2 - 1]
        columns = [np.where(missing, 0.0, column) for column in columns]
        if self.has_missing:
            columns.append(missing.astype(np.float64))
        return np.stack(columns, 1).astype(np.float32)

    def bucket(self, values: Values) -> NDArray[np.int64]:
        """Return the quantile bucket of each value, 1..num_buckets, or 0 where it is missing."""
        numbers = values.astype(np.float32).astype(np.float64)
        missing = ~np.isfinite(numbers)
        place = np.minimum(
            (self._rank(np.where(missing, 0.0, numbers)) * self.num_buckets).astype(np.int64), self.num_buckets - 1
        )
        return np.where(missing, 0, place + 1)

    def _rank(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        if len(self.quantiles) == 1:
            return np.full(len(numbers), 0.5)
        return np.interp(numbers, self.quantiles, np.linspace(0, 1, len(self.quantiles)))


def _signed_log(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sign(numbers) * np.log1p(np.abs(numbers))
