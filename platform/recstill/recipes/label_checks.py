"""Labels against what their kind allows: every value that does not fit, with an example and the way out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recstill.api.task import LabelSpec
    from recstill.evaluation.metrics import Floats

_LARGEST = float(np.finfo(np.float32).max)
_FINITE = "write a finite number, or null where it is not known"


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a dictionary column as its values, any other as it is."""
    return column.cast(column.type.value_type) if types.is_dictionary(column.type) else column


def is_text(kind: pa.DataType) -> bool:
    """Say whether an Arrow type holds text."""
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def is_number(kind: pa.DataType) -> bool:
    """Say whether an Arrow type holds numbers, truth values or nothing at all."""
    tests = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean, types.is_null)
    return any(is_it(kind) for is_it in tests)


def as_floats(column: pa.ChunkedArray) -> Floats:
    """Return a column of numbers as float64, NaN where it is null: (N,)."""
    if types.is_boolean(column.type):
        column = column.cast(pa.int8())
    filled = pc.fill_null(column.cast(pa.float64(), safe=False), float("nan"))
    return np.asarray(filled.to_numpy(), np.float64)


def label_values(label: LabelSpec, column: pa.ChunkedArray) -> tuple[Floats | None, list[str]]:
    """Return (the values, NaN where unknown; no problem), or (None, the problem) for a type that holds no numbers."""
    column = plain(column)
    if is_number(column.type):
        return as_floats(column), []
    if is_text(column.type):
        return None, [_text_problem(label, column)]
    row = _first(np.asarray(column.is_valid()))
    shown = "" if row is None else f"; row {row} has {str(column[row].as_py())[:60]!r}"
    return None, [f"label {label.name!r} holds {column.type}, and a label is a number{shown}"]


def unknown_labels(label: LabelSpec, rows: pa.Table) -> int:
    """Return how many rows have no label; 0 where it is none at all, which is another mistake."""
    values, _ = label_values(label, rows[label.name])
    return 0 if values is None else int(np.isnan(values).sum())


def _text_problem(label: LabelSpec, column: pa.ChunkedArray) -> str:
    known = sorted(value for value in pc.unique(column).to_pylist() if value is not None)
    row = _first(np.asarray(column.is_valid()))
    said = f"label {label.name!r} holds text in {len(column) - column.null_count:,} rows"
    if row is None:
        return f"{said}; a label is a number"
    said += f", row {row} has {column[row].as_py()[:60]!r}"
    if all(_reads_as_number(value) for value in known):
        return f"{said}; cast the column to numbers: `column.cast(pa.float32())`"
    if label.kind in ("binary", "multiclass", "ranking") and len(known) <= 20:
        mapping = json.dumps({value: place for place, value in enumerate(known)}, ensure_ascii=False)
        return f"{said}; write numbers, such as by the mapping {mapping}"
    return f"{said}, and {len(known):,} different ones; write numbers"


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def value_problems(label: LabelSpec, values: Floats) -> list[str]:
    """Return a problem if some known values are none that the label's kind allows. values: (N,), NaN where unknown."""
    known = ~np.isnan(values)
    wrong = known & ~_allowed(label, values)
    row = _first(wrong)
    if row is None:
        return []
    rule, way_out = _rule(label), _way_out(label, values[known])
    found = f"{int(wrong.sum()):,} of {int(known.sum()):,} known values are not {rule}; row {row} has {values[row]:g}"
    return [f"label {label.name!r} ({'graded' if label.graded else label.kind}): {found}; {way_out}"]


def _allowed(label: LabelSpec, values: Floats) -> NDArray[np.bool_]:
    finite = np.isfinite(values) & (np.abs(values) <= _LARGEST)
    if label.graded:
        return finite & (values >= 0) & (values <= 1)
    if label.kind in ("binary", "ranking"):
        return np.isin(values, (0.0, 1.0))
    if label.kind == "multiclass":
        return finite & (values == np.floor(values)) & (values >= 0) & (values < label.num_classes)
    return finite & (values >= 0) if label.kind == "count" else finite


def _rule(label: LabelSpec) -> str:
    if label.graded:
        return "between 0 and 1"
    return {
        "binary": "0 or 1",
        "ranking": "0 or 1",
        "multiclass": f"whole numbers from 0 to {label.num_classes - 1}",
        "count": "finite and 0 or more",
        "regression": "finite in 32 bits",
    }[label.kind]


def _way_out(label: LabelSpec, known: Floats) -> str:
    if not np.isfinite(known).all() or label.kind == "regression":
        return _FINITE
    low, high, values = known.min(), known.max(), np.unique(known)
    if label.kind == "count":
        return "an amount below 0 needs a `regression` label"
    if label.kind == "multiclass":
        return _other_classes(label, known)
    if label.graded:
        return f"divide by the highest grade, {high:g}" if low >= 0 else "grades begin at 0"
    if len(values) == 2:
        first, second = values
        return f"write 0 for {first:g} and 1 for {second:g}" + (": subtract 1" if (first, second) == (1, 2) else "")
    if low >= 0 and high <= 1:
        return "grades between 0 and 1 need `graded=True`"
    return "compare them with a threshold, or declare a `count` or `regression` label for an amount"


def _other_classes(label: LabelSpec, known: Floats) -> str:
    low, high = known.min(), known.max()
    if (known != np.floor(known)).any():
        return "classes are whole numbers; a number between them needs a `regression` label"
    if low == 1 and high == label.num_classes:
        return "they are numbered from 1: subtract 1"
    if low < 0:
        return f"they are numbered from {low:g}: add {-low:g}"
    return f"number them from 0, or declare num_classes={int(high) + 1}"


def _first(wrong: NDArray[np.bool_]) -> int | None:
    places = np.flatnonzero(wrong)
    return int(places[0]) if len(places) else None
