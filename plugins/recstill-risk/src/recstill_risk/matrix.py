"""Raw columns as the matrix that trees read: numbers as they are, categories by their codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from recstill.api import FeatureSpec

_MOST_CATEGORIES = 1_000


@dataclass(frozen=True)
class Codes:
    """The code of each value of a category. typed: texts, numbers and truth values are never equal, as in pandas; otherwise
    values are compared by how they are written. A value that is none of them has no code."""

    values: tuple[Any, ...]
    typed: bool = False

    def places(self, values: Sequence[Any]) -> NDArray[np.float64]:
        """Return the code of each value, NaN where it has none."""
        key = _typed if self.typed else category_text
        known = {key(value): float(code) for code, value in enumerate(self.values)}
        return np.array([known.get(key(value), np.nan) for value in values], np.float64)


@dataclass(frozen=True)
class OwnCodes:
    """Values that are their own codes: whole numbers from 0."""

    typed: bool = True

    def places(self, values: Sequence[Any]) -> NDArray[np.float64]:
        """Return each value, NaN where it is no whole number from 0."""
        return np.array([_as_code(value) for value in values], np.float64)


def matrix_of(
    features: Sequence[FeatureSpec], columns: Mapping[str, NDArray[np.generic]], codes: Mapping[str, Codes | OwnCodes]
) -> NDArray[np.float64]:
    """Return (N, features). Raise ValueError for a value that is no number where one is read."""
    parts = []
    for feature in features:
        values = columns[feature.name]
        coded = codes.get(feature.name)
        parts.append(coded.places(values.tolist()) if coded is not None else _numbers(feature.name, values))
    return np.stack(parts, 1)


def own_codes(values: NDArray[np.generic]) -> list[str]:
    """Return the categories of a training column as texts, the most frequent first; what is beyond a thousand is missing."""
    texts, counts = np.unique([category_text(value) for value in values.tolist()], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [str(text) for text in texts[order] if text][:_MOST_CATEGORIES]


def category_text(value: Any) -> str:
    """Return how a category is written: a whole number without a point, a missing one as an empty text."""
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _numbers(name: str, values: NDArray[np.generic]) -> NDArray[np.float64]:
    if values.dtype.kind in "mM":
        return np.where(np.isnat(values), np.nan, values.astype(np.int64).astype(np.float64))
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"feature {name!r} is read as a number: {error}") from error


def _typed(value: Any) -> tuple[Literal["truth", "number", "text", "other"], Any]:
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, bool):
        return "truth", plain
    if isinstance(plain, (int, float)):
        return "number", plain
    return ("text", plain) if isinstance(plain, str) else ("other", str(plain))


def _as_code(value: Any) -> float:
    kind, plain = _typed(value)
    return float(plain) if kind == "number" and plain >= 0 and plain == plain // 1 else np.nan
