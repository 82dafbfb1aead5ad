"""One look at the rows of a task before anything is joined or trained: all that is wrong, with the way out."""

from __future__ import annotations

import difflib
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from recstill.api.errors import RowsError
from recstill.data.snapshot import SPLITS
from recstill.recipes.label_checks import as_floats, is_number, is_text, label_values, plain, value_problems
from recstill.recipes.mixing import MIXED

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from recstill.api.task import LabelSpec, TaskSpec
    from recstill.evaluation.metrics import Floats

FURTHER = ("unlabelled", "replay", MIXED)
_MEANT = {"training": "train", "validation": "valid", "val": "valid", "dev": "valid", "testing": "test", "holdout": "test"}
_OWN = ("row_id", "recstill_row")


def columns_needed(spec: TaskSpec) -> list[str]:
    """The columns that every row of a task must bring, whatever its features come from."""
    endpoint = spec.endpoint
    names = [endpoint.item_key, *([endpoint.query_key] if endpoint.query_key else [])]
    names += [label.name for label in spec.labels]
    names += [*spec.groups, *spec.attributes, *spec.slices, *spec.fairness, "split", "sampling_rate"]
    return list(dict.fromkeys(names))


def check_names(names: Sequence[str], spec: TaskSpec, joined: Collection[str]) -> None:
    """Raise RowsError for columns that are missing, come twice, or that two things share: nothing can be read by name then.

    joined: features that a service adds, which the rows must not have as well.
    """
    if problems := _name_problems(names, spec, joined):
        raise RowsError(f"Rows of task {spec.name!r}", problems)


def check_rows(rows: pa.Table, spec: TaskSpec) -> None:
    """Raise RowsError with every reason why the rows of a task cannot train, or could not mean what they say."""
    problems, split = _split_problems(plain(rows["split"]))
    for label in spec.labels:
        values, found = label_values(label, rows[label.name])
        found += [] if values is None else value_problems(label, values)
        if values is not None and not found and split is not None and spec.retrieval is None:
            found = _class_problems(label, values, split)
        problems += found
    problems += _rate_problems(plain(rows["sampling_rate"]))
    for name in dict.fromkeys(spec.attributes):
        if not is_number(plain(rows[name]).type):
            problems.append(f"column {name!r} holds {rows[name].type}; what strategies read must be numbers")
    for name in dict.fromkeys(spec.groups):
        if types.is_nested(rows[name].type):
            problems.append(f"column {name!r} holds {rows[name].type}; rows are put together by plain values, one in each row")
    for name in dict.fromkeys(spec.groups):
        problems += _null_problems(
            rows[name], name, "every row belongs to a group: give those without one a group of their own"
        )
    for name in spec.fairness:
        problems += _side_problems(plain(rows[name]), name)
    for name in spec.slices:
        if types.is_nested(rows[name].type):
            problems.append(f"column {name!r} holds {rows[name].type}, and a slice has one value a row; take it out of slices")
    if "event_timestamp" in rows.column_names:
        problems += _moment_problems(rows["event_timestamp"])
    if problems:
        raise RowsError(f"Rows of task {spec.name!r}", problems)


def row_remarks(rows: pa.Table, spec: TaskSpec) -> list[str]:
    """Return a remark for each metric that these rows leave undefined; the run goes on without it."""
    if spec.retrieval is not None:
        return []
    split = np.asarray(plain(rows["split"]).to_numpy(), object)
    remarks = []
    for label in spec.labels:
        values, _ = label_values(label, rows[label.name])
        if values is not None and not label.primary and np.isnan(values[split == "train"]).all():
            remarks.append(f"remark: no training row knows label {label.name!r}: models learn it from a teacher only")
        if values is not None and label.kind != "regression":
            remarks += _undefined(label, values, split)
    label = spec.primary
    if label.kind in ("binary", "count") and spec.groups and not _has_mixed_group(rows, spec, label):
        text = f"remark: no group of the test split ({', '.join(spec.groups)}) has rows with and without {label.name!r}"
        remarks.append(f"{text}: metrics within groups, such as gauc, are undefined")
    return remarks


def _name_problems(names: Sequence[str], spec: TaskSpec, joined: Collection[str]) -> list[str]:
    problems = [f"column {name!r} comes {count} times; leave one" for name, count in Counter(names).items() if count > 1]
    problems += [
        f"column {name!r}: recstill makes a column of this name itself; name it otherwise" for name in _OWN if name in names
    ]
    problems += [
        f"column {name!r} of the rows is a feature of the service too, which is joined; leave it out of the rows"
        for name in sorted(set(joined) & set(names))
    ]
    own = [feature.name for feature in spec.features if feature.view in ("key", "context", "row") and not feature.of]
    for name in dict.fromkeys([*columns_needed(spec), *own]):
        if name not in names and name not in joined:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            problems.append(f"column {name!r} is missing, which the description of the task names{hint}")
    return problems


def _split_problems(column: pa.ChunkedArray) -> tuple[list[str], NDArray[np.object_] | None]:
    """Return (problems, the split of each row), None where the column cannot be read."""
    if not is_text(column.type):
        return [f"column 'split' holds {column.type}; write {', '.join(SPLITS)}"], None
    problems = _null_problems(column, "split", f"every row is of a split: {', '.join(SPLITS)}")
    split = np.asarray(column.to_numpy(), object)
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(column).to_pylist() if entry["values"] is not None}
    for name, count in counts.items():
        if name not in (*SPLITS, *FURTHER):
            meant = _MEANT.get(name.lower().strip(), name.lower().strip())
            hint = f"; did you mean {meant!r}?" if meant in (*SPLITS, *FURTHER) else ""
            row = int(np.flatnonzero(split == name)[0])
            known = f"splits are {', '.join(SPLITS)}, and {', '.join(FURTHER)} beside them"
            problems.append(f"column 'split': {count:,} rows are of {name!r}, the first is row {row}; {known}{hint}")
    found = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "no row at all"
    missing = [name for name in SPLITS if not counts.get(name)]
    problems += [f"the {name} split is empty; the rows have {found}" for name in missing]
    return problems, split


def _class_problems(label: LabelSpec, values: Floats, split: NDArray[np.object_]) -> list[str]:
    """A split that tells nothing apart can neither train nor judge. Other labels than the primary one need the training
    rows only: where they are not known, or all alike, their metrics are undefined, and that is a remark. So is one that no
    training row knows: a teacher may speak about it."""
    problems = []
    for name in SPLITS if label.primary else ("train",):
        known = values[(split == name) & ~np.isnan(values)]
        if not (split == name).any():
            continue  # an empty split is a problem of its own
        if not label.primary and not len(known):
            continue
        what = _sameness(label, known)
        if what and not (label.kind in ("multiclass", "regression") and len(known) and name != "train"):
            problems.append(f"the {name} split has {what} of label {label.name!r}; split otherwise, or bring more rows")
    return problems


def _sameness(label: LabelSpec, known: Floats) -> str:
    """Say in what way known values of a split are all alike, or nothing."""
    if not len(known):
        return "no known value"
    distinct = known > 0 if label.kind in ("binary", "count", "ranking") and not label.graded else known
    if len(np.unique(distinct)) > 1:
        return ""
    if label.kind == "count":
        return "no zero" if known[0] > 0 else "zeros only"
    return "one class only" if label.kind in ("binary", "multiclass", "ranking") and not label.graded else "one value only"


def _undefined(label: LabelSpec, values: Floats, split: NDArray[np.object_]) -> list[str]:
    remarks = []
    for name in ("valid", "test"):
        what = _sameness(label, values[(split == name) & ~np.isnan(values)])
        if what:
            text = f"remark: the {name} split has {what} of label {label.name!r}"
            remarks.append(f"{text}: its metrics there are undefined")
    return remarks


def _has_mixed_group(rows: pa.Table, spec: TaskSpec, label: LabelSpec) -> bool:
    values, _ = label_values(label, rows[label.name])
    if values is None:
        return True
    test = np.asarray(plain(rows["split"]).to_numpy(), object) == "test"
    here = pa.table({f"g{place}": plain(rows[name]) for place, name in enumerate(spec.groups)})
    here = here.append_column("positive", pa.array((values > 0).astype(np.int8))).filter(pa.array(test & ~np.isnan(values)))
    found = here.group_by([f"g{place}" for place in range(len(spec.groups))]).aggregate(
        [("positive", "min"), ("positive", "max")]
    )
    return bool(pc.any(pc.not_equal(found["positive_min"], found["positive_max"])).as_py())


def _rate_problems(column: pa.ChunkedArray) -> list[str]:
    if not is_number(column.type):
        return [f"column 'sampling_rate' holds {column.type}; write numbers above 0 and at most 1"]
    values = as_floats(column)
    wrong = ~((values > 0) & (values <= 1))
    if not wrong.any():
        return []
    row = int(np.flatnonzero(wrong)[0])
    shown = column[row].as_py()
    text = f"column 'sampling_rate': {int(wrong.sum()):,} rows are not above 0 and at most 1, row {row} has {shown}"
    return [f"{text}; write 1.0 where every row was kept"]


def _side_problems(column: pa.ChunkedArray, name: str) -> list[str]:
    """Fairness compares group 0 with group 1: any other value would be in neither, and nobody would see it."""
    way_out = "fairness compares rows of 0 with rows of 1; write 0, 1, or null for neither"
    if not is_number(column.type):
        return [f"column {name!r} holds {column.type}: {way_out}"]
    values = as_floats(column)
    wrong = ~(np.isnan(values) | (values == 0) | (values == 1))
    if not wrong.any():
        return []
    row = int(np.flatnonzero(wrong)[0])
    return [f"column {name!r}: {int(wrong.sum()):,} rows are neither 0 nor 1, row {row} has {column[row].as_py()}; {way_out}"]


def _null_problems(column: pa.ChunkedArray, name: str, way_out: str) -> list[str]:
    if not column.null_count:
        return []
    row = int(np.flatnonzero(np.asarray(column.is_null()))[0])
    return [f"column {name!r} is null in {column.null_count:,} rows, the first is row {row}; {way_out}"]


def _moment_problems(column: pa.ChunkedArray) -> list[str]:
    problems = _null_problems(column, "event_timestamp", "features are joined as of the moment of each row")
    if types.is_integer(column.type) or types.is_floating(column.type):
        shown = column[0].as_py() if len(column) else ""
        unit = "s" if not isinstance(shown, (int, float)) or abs(shown) < 1e11 else "ms" if abs(shown) < 1e14 else "us"
        way_out = f"write moments: `column.cast(pa.int64()).cast(pa.timestamp({unit!r}, 'UTC'))` if it counts since 1970"
        problems.append(f"column 'event_timestamp' holds {column.type}, row 0 has {shown}; {way_out}")
    return problems
