"""Feast's types as Arrow types: what a view declares is what training joins, what is packed and what Feast serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from recstill.api.errors import FeatureError
from recstill.data.arrow import logical_type, plain_table

if TYPE_CHECKING:
    from collections.abc import Mapping

_ARROW: Mapping[str, pa.DataType] = {
    "Int32": pa.int32(), "Int64": pa.int64(), "Float32": pa.float32(), "Float64": pa.float64(), "Bool": pa.bool_(),
    "String": pa.string(), "UnixTimestamp": pa.timestamp("us", "UTC"),
}  # fmt: skip
SERVED = tuple(_ARROW)


def arrow_type(dtype: str) -> pa.DataType | None:
    """Return the Arrow type of a Feast type such as `Int64` or `Array(String)`, none for one that cannot be served."""
    if dtype.startswith("Array(") and dtype.endswith(")"):
        item = _ARROW.get(dtype[6:-1])
        return None if item is None else pa.list_(item)
    return _ARROW.get(dtype)


def logical_types(dtypes: Mapping[str, str]) -> dict[str, str]:
    """Return the logical types of Feast types, by name; a type that cannot be served keeps its own name."""
    found = {name: arrow_type(dtype) for name, dtype in dtypes.items()}
    return {name: dtypes[name] if kind is None else logical_type(kind) for name, kind in found.items()}


def is_entity(key: pa.ChunkedArray) -> pa.ChunkedArray:
    """(N,): which values of a join key name an entity; a null and an empty string name none, as in a request."""
    if logical_type(key.type) == "string":
        return pc.fill_null(pc.not_equal(key, pa.scalar("", key.type)), fill_value=False)
    return key.is_valid()


def as_declared(table: pa.Table, view: str, dtypes: Mapping[str, str]) -> pa.Table:
    """Give the columns of a view the types that it declares. Columns of a type that cannot be served stay as they are.

    Raise FeatureError where a value is none of the declared type: Feast would serve another than the source holds.
    """
    table = plain_table(table)
    for name, dtype in dtypes.items():
        kind = arrow_type(dtype)
        if kind is not None and (table[name].type != kind or "UnixTimestamp" in dtype):
            place = table.column_names.index(name)
            table = table.set_column(place, pa.field(name, kind), _cast(table[name], kind, f"{view}:{name}", dtype))
    return table


def _cast(column: pa.ChunkedArray, kind: pa.DataType, name: str, dtype: str) -> pa.ChunkedArray:
    found = column.type
    if pa.types.is_floating(found) and pa.types.is_floating(kind):
        return column.cast(kind, safe=False)  # rounds, as Feast does when it writes a float
    if pa.types.is_timestamp(found) and pa.types.is_timestamp(kind):
        column = column if found.tz is not None else pc.assume_timezone(column, "UTC")
        return column.cast(pa.timestamp("s", "UTC"), safe=False).cast(kind)  # Feast keeps whole seconds
    if logical_type(found) != logical_type(kind) and not pa.types.is_null(found) and not _is_lossless(found, kind):
        raise FeatureError(f"Feature {name} is declared as {dtype}, and its source holds {found}. Declare it as it is.")
    try:
        if dtype == "Array(UnixTimestamp)":
            column = column.cast(pa.list_(pa.timestamp("s", "UTC")), safe=False)
        return column.cast(kind)
    except pa.ArrowInvalid as error:
        raise FeatureError(
            f"Feature {name} is declared as {dtype}, and its source holds {found} with values that do not fit: {error}."
        ) from error


def _is_lossless(found: pa.DataType, kind: pa.DataType) -> bool:
    """Say whether a safe cast keeps every value that it lets pass: numbers to numbers, dates to moments."""
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    if any(test(found) for test in numbers) and any(test(kind) for test in numbers):
        return True
    if pa.types.is_list(kind) and logical_type(found).startswith("list<"):
        item, wanted = found.value_type, kind.value_type
        return logical_type(item) == logical_type(wanted) or pa.types.is_null(item) or _is_lossless(item, wanted)
    return bool(pa.types.is_date(found) and pa.types.is_timestamp(kind))
