"""JSON values as the types that the model was trained on: what cannot be such a value is refused, never read as another."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from recstill.api.errors import FeatureError, RequestError
from recstill.data.columns import Column, Lists, column_of, item_type

if TYPE_CHECKING:
    from collections.abc import Callable

    from recstill.data.columns import Typed, Values

_DIGITS = re.compile(r"-?[0-9]{1,20}\Z", re.ASCII)
_DECIMAL = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?\Z", re.ASCII)
_TOO_FINE = re.compile(r"[.,][0-9]{6}[0-9]*[1-9]", re.ASCII)
_EXACT = 2**53
_FEW = 16
_MAX_LIST = 10_000
_NUMBERS = {int, float, type(None)}
_MOST, _MOST_DIGITS = 1e30, 100


def read_column(values: list[Any], kind: str, where: Callable[[int], str], max_bytes: int) -> Column:
    """Return JSON values as a column of a logical type, null for what is missing. Raise RequestError with 422.

    where: how to name the value at a place. max_bytes: the longest string, in UTF-8.
    """
    types = set(map(type, values))
    if kind == "int" and types == {int} and (whole := _int64(values)) is not None:
        return Column("int", whole)
    if kind == "float" and types <= _NUMBERS:
        numbers = np.array(values, np.float64)
        if not _is_beyond(values, numbers):
            return Column("float", numbers)
    if kind == "string" and types == {str} and max(map(len, values)) * 4 <= max_bytes:
        texts = np.empty(len(values), object)
        texts[:] = values
        return Column("string", texts)
    if kind not in _READERS:
        raise RequestError(422, f"{where(0)} is of type {kind}, which cannot come with a request.")
    try:
        return column_of(kind, [_read(value, kind, where, place, max_bytes) for place, value in enumerate(values)])
    except FeatureError as error:
        raise RequestError(422, f"{where(0)}: {error}") from error


def _is_beyond(values: list[float | None], numbers: Values) -> bool:
    """Say whether a number is too large; a row of its own is looked at in Python, which is faster for a few."""
    if len(values) > _FEW:
        return bool((np.abs(numbers) > _MOST).any())
    return any(value is not None and not -_MOST <= value <= _MOST for value in values)


def _int64(values: list[int]) -> Values | None:
    try:
        return np.array(values, np.int64)
    except OverflowError:
        return None  # the values are read one by one, to name the one that is too large


def _read(value: Any, kind: str, where: Callable[[int], str], place: int, max_bytes: int) -> Any:
    if value is None:
        return None
    if isinstance(value, str) and len(value) * 4 > max_bytes and (size := len(value.encode())) > max_bytes:
        raise RequestError(422, f"{where(place)} has {size} bytes; at most {max_bytes} are read.")
    try:
        return _READERS[kind](value)
    except (ValueError, ArithmeticError) as error:
        raise RequestError(422, f"{where(place)} must be {_WORDS[kind]}, not {shown(value)}.") from error


def shown(value: Any) -> str:
    """Return a value as messages quote it."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def absent(kind: str, count: int = 1) -> Typed:
    """Return missing values of a type; of lists, empty ones."""
    if item := item_type(kind):
        return Lists(column_of(item, []), np.zeros(count + 1, np.int64))
    return column_of(kind, [None] * count)


def read_lists(values: list[Any], item: str, where: Callable[[int], str], max_bytes: int) -> Lists:
    """Return JSON lists as lists of a logical type, null as an empty one. Raise RequestError with 422.

    where: how to name the list at a place. max_bytes: the longest string in a list.
    """
    for place, value in enumerate(values):
        if value is not None and (not isinstance(value, list) or len(value) > _MAX_LIST or None in value):
            raise RequestError(422, f"{where(place)} must be a list of values, none of them null, at most {_MAX_LIST}.")
    lists = [value or [] for value in values]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(one) for one in lists], dtype=np.int64)])
    flat = [value for one in lists for value in one]

    def name(place: int) -> str:
        owner = int(np.searchsorted(offsets, place, "right")) - 1
        return f"{where(owner)}[{place - int(offsets[owner])}]"

    return Lists(read_column(flat, item, name, max_bytes) if flat else column_of(item, []), offsets)


def _int(value: Any) -> int:
    if isinstance(value, str) and _DIGITS.match(value):
        value = int(value)
    if isinstance(value, float) and abs(value) <= _EXACT and value == int(value):
        value = int(value)
    if type(value) is not int or not -(2**63) <= value < 2**64:
        raise ValueError(value)
    return value


def _bool(value: Any) -> bool:
    if not isinstance(value, bool) and (type(value) is not int or value not in (0, 1)):
        raise ValueError(value)
    return bool(value)


def _string(value: Any) -> str:
    if not isinstance(value, str) and type(value) is not int:
        raise ValueError(value)
    return str(value)


def _decimal(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(value)
    if isinstance(value, str) and not _DECIMAL.match(value):  # Decimal reads digits of every script, and 1_000
        raise ValueError(value)
    number = Decimal(str(value))
    if not number.is_finite() or abs(number.adjusted()) > _MOST_DIGITS:
        raise ValueError(value)
    return number


def _date(value: Any) -> date:
    if not isinstance(value, str):
        raise ValueError(value)
    return date.fromisoformat(value)


def _timestamp(value: Any) -> datetime:
    """Read a moment to the microsecond, UTC; what is finer would be cut off, and be another moment."""
    if not isinstance(value, str) or _TOO_FINE.search(value):
        raise ValueError(value)
    moment = datetime.fromisoformat(value)
    return moment if moment.tzinfo is None else moment.astimezone(UTC)


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -_MOST <= value <= _MOST:
        raise ValueError(value)
    return float(value)


def _nothing(value: Any) -> None:
    """Training knew no value of it, so that none means anything."""


_READERS: dict[str, Callable[[Any], Any]] = {
    "int": _int, "bool": _bool, "string": _string, "decimal": _decimal, "date": _date, "timestamp": _timestamp,
    "float": _float, "null": _nothing,
}  # fmt: skip
_WORDS = {
    "int": "an integer, or a string of its digits, within 64 bits", "bool": "true or false", "string": "a string or an integer",
    "float": "a finite number", "decimal": "a number, or a string of one", "date": "a date such as \"2026-01-31\"",
    "timestamp": "a moment such as \"2026-01-31T12:00:00Z\", to the microsecond, from the year 1 to 9999 in UTC",
}  # fmt: skip
