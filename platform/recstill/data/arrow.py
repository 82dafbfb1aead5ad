"""Arrow columns as typed values: the type comes from the schema, and a null stays a null."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from recstill.api.errors import DataError
from recstill.data.columns import Column, Lists, Typed
from recstill.data.transform import type_problems

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recstill.api.task import FeatureSpec
    from recstill.data.columns import Values


def logical_type(kind: pa.DataType) -> str:
    """Return the logical type of an Arrow type, its own name for one that nothing here reads."""
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return logical_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return logical_type(kind.storage_type)
    if _is_list(kind):
        return f"list<{logical_type(kind.value_type)}>"
    tests = {
        "int": types.is_integer, "bool": types.is_boolean, "float": types.is_floating, "decimal": types.is_decimal,
        "string": _is_string, "date": types.is_date, "timestamp": types.is_timestamp, "bytes": _is_binary,
        "null": types.is_null, "struct": types.is_struct,
    }  # fmt: skip
    return next((name for name, is_it in tests.items() if is_it(kind)), str(kind))


def typed_column(column: pa.ChunkedArray | pa.Array) -> Typed:
    """Return an Arrow column as typed values."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # too large for one array of its type
        array = pa.concat_arrays(array.chunks)
    array = plain_array(array)
    kind = logical_type(array.type)
    if _is_list(array.type):
        lengths = np.asarray(pc.fill_null(pc.list_value_length(array), 0)).astype(np.int64)
        return Lists(_items(array), np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]))
    if kind == "int":
        whole = pc.fill_null(array, 0).to_numpy(zero_copy_only=False)
        is_large = whole.dtype == np.uint64 and len(whole) and whole.max() >= 2**63
        return Column(kind, whole if is_large else whole.astype(np.int64, copy=False), _gaps(array))
    if kind == "bool":
        return Column(kind, pc.fill_null(array, fill_value=False).to_numpy(zero_copy_only=False), _gaps(array))
    if kind == "float":
        numbers = array.to_numpy(zero_copy_only=False)
        return Column(kind, numbers.astype(np.float32) if numbers.dtype == np.float16 else numbers)
    if kind == "date":
        return Column(kind, array.cast(pa.date32()).to_numpy(zero_copy_only=False).astype("M8[D]"))
    if kind == "timestamp":
        return Column(kind, _instants(array))
    if kind == "null":
        return Column(kind, np.zeros(len(array), bool), np.ones(len(array), bool))
    if kind == "string":
        return Column(kind, np.asarray(array.to_numpy(zero_copy_only=False), object))
    objects = np.empty(len(array), object)
    objects[:] = array.to_pylist()
    return Column(kind, objects)


def typed_columns(table: pa.Table) -> dict[str, Typed]:
    """Return all columns of a table as typed values."""
    return {name: typed_column(table[name]) for name in table.column_names}


def plain_array(array: pa.Array) -> pa.Array:
    """Return dictionary, run-end encoded and extension arrays as arrays of their values."""
    if isinstance(array.type, pa.BaseExtensionType):
        return plain_array(array.storage)
    if types.is_dictionary(array.type):
        return plain_array(array.dictionary.take(array.indices))
    return pc.run_end_decode(array) if types.is_run_end_encoded(array.type) else array


def plain_table(table: pa.Table) -> pa.Table:
    """Return a table whose columns are all of their values' own types."""
    for place, field in enumerate(table.schema):
        if types.is_dictionary(field.type) or types.is_run_end_encoded(field.type):
            chunks = [plain_array(chunk) for chunk in table[field.name].chunks]
            kind = field.type.value_type
            table = table.set_column(place, pa.field(field.name, kind), pa.chunked_array(chunks, kind))
    return table


def check_columns(table: pa.Table, features: Sequence[FeatureSpec], what: str) -> None:
    """Raise DataError for every column that cannot be what the task says its feature is, with a count and an example."""
    named = [feature for feature in features if feature.name in table.column_names and not feature.of]
    problems = []
    for feature in named:
        found = type_problems([feature], {feature.name: logical_type(table.schema.field(feature.name).type)})
        problems += [f"{problem} {_example(table[feature.name], feature)}".strip() for problem in found]
        if feature.kind == "sequence" and not found:
            problems += _inner_nulls(table[feature.name], feature.name)
    kinds = {feature.name: logical_type(table.schema.field(feature.name).type) for feature in named}
    shared = type_problems(named, kinds) if not problems else []
    if problems or shared:
        raise DataError(f"{what} cannot be read as its features:\n" + "\n".join(f"  - {line}" for line in [*problems, *shared]))


def _example(column: pa.ChunkedArray, feature: FeatureSpec) -> str:
    """Say how many values there are and show the first, of texts for numbers the first that is none."""
    known = np.flatnonzero(np.asarray(column.is_valid()))
    if feature.kind == "numeric" and _is_string(column.type):
        is_text = [place for place in known[:100_000].tolist() if not _is_number(column[place].as_py())]
        known = np.array(is_text or known, np.int64)
        what = "values that are no numbers" if is_text else "values"
    else:
        what = "values"
    if not len(known):
        return ""
    return f"It has {len(known):,} {what}, the first in row {known[0]}: {str(column[int(known[0])].as_py())[:60]!r}."


def _inner_nulls(column: pa.ChunkedArray, name: str) -> list[str]:
    lists = typed_column(column)
    if isinstance(lists, Column):
        return []
    missing = np.flatnonzero(lists.items.is_missing)
    if not len(missing):
        return []
    row = int(np.searchsorted(lists.offsets, missing[0], "right")) - 1
    return [
        f"Feature {name!r} has {len(missing):,} nulls inside of its lists, the first in row {row}: "
        f"{str(lists[row : row + 1].tolist()[0])[:60]}. Leave them out of the lists."
    ]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _items(array: pa.Array) -> Column:
    items = typed_column(pc.list_flatten(array))
    if isinstance(items, Lists):  # lists of lists are refused by whoever reads them; here they are opaque
        return Column(items.type, items.plain())
    return items


def _instants(array: pa.Array) -> Values:
    """Return datetime64 in the column's own unit, UTC; a moment without a zone is one of UTC, as everywhere in Feast."""
    whole = array.cast(pa.int64())
    numbers = pc.fill_null(whole, np.iinfo(np.int64).min).to_numpy(zero_copy_only=False)
    return np.asarray(numbers).astype(np.int64, copy=False).view(f"M8[{array.type.unit}]")


def _gaps(array: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.bool_]] | None:
    return np.asarray(array.is_null()) if array.null_count else None


def _is_list(kind: pa.DataType) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_string(kind: pa.DataType) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    fixed = types.is_fixed_size_binary(kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind) or fixed)
