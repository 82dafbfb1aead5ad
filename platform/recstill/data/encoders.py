"""Raw values to numbers, numpy only: the same code in training and in serving."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recstill.data.columns import Values

MISSING_ROW = 0
NUM_QUANTILES = 64


@dataclass(frozen=True)
class Vocabulary:
    """Keys of a table: row 0 is missing, rows 1..V the frequent keys in order, then `oov_buckets` hashed rows.

    trained: the buckets that rare keys of the training rows fall into. A key that training never saw is of no row that nobody
    trained: where its bucket is not among them it counts as missing.
    """

    keys: NDArray[np.uint64]
    oov_buckets: int
    trained: tuple[int, ...]

    @classmethod
    def fit(cls, keys: NDArray[np.uint64], min_count: int, oov_buckets: int) -> Vocabulary:
        """Keep the keys seen at least `min_count` times."""
        distinct, counts = np.unique(keys, return_counts=True)
        is_kept = (counts >= min_count) & (distinct != 0)
        rare = distinct[~is_kept & (distinct != 0)] if oov_buckets else distinct[:0]
        buckets = np.unique(rare % np.uint64(max(oov_buckets, 1)))
        return cls(distinct[is_kept], oov_buckets, tuple(map(int, buckets)))

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
        rows = np.where(keys == 0, MISSING_ROW, self._bucket_rows[keys % np.uint64(len(self._bucket_rows))])
        if len(self.keys):
            place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
            rows = np.where(self.keys[place] == keys, place + 1, rows)
        return rows

    @cached_property
    def _bucket_rows(self) -> NDArray[np.int64]:
        rows = np.full(max(self.oov_buckets, 1), MISSING_ROW, np.int64)
        trained = np.array(self.trained, np.int64)
        rows[trained] = trained + 1 + len(self.keys)
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
        numbers = _rounded(values)
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
        numbers = _rounded(values)
        missing = ~np.isfinite(numbers)
        numbers = np.where(missing, 0.0, numbers)
        columns = [np.clip((_signed_log(numbers) - self.mean) / self.std, -5, 5), self._rank(numbers) * 2 - 1]
        columns = [np.where(missing, 0.0, column) for column in columns]
        if self.has_missing:
            columns.append(missing.astype(np.float64))
        return np.stack(columns, 1).astype(np.float32)

    def bucket(self, values: Values) -> NDArray[np.int64]:
        """Return the quantile bucket of each value, 1..num_buckets, or 0 where it is missing."""
        numbers = _rounded(values)
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


def _rounded(values: Values) -> NDArray[np.float64]:
    """Numbers as float32 holds them, by one way for every type: with and without gaps a number is the same."""
    return values.astype(np.float64, copy=False).astype(np.float32).astype(np.float64)
