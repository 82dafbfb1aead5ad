"""Rows are looked at once, before anything is joined or trained; all that is wrong is said, with the way out."""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from recstill.api import DecisionSpec, EndpointSpec, FeatureSpec, LabelSpec, RowsError, TaskSpec
from recstill.recipes.row_checks import check_names, check_rows, row_remarks

KINDS: dict[str, dict[str, Any]] = {
    "binary": {}, "graded": {"graded": True}, "count": {"kind": "count"}, "regression": {"kind": "regression"},
    "multiclass": {"kind": "multiclass", "num_classes": 3},
}  # fmt: skip
GOOD = {"binary": [0.0, 1.0], "graded": [0.0, 0.5, 1.0], "count": [0.0, 2.5, 1e6], "regression": [-3.5, 0.0, 1e30],
        "multiclass": [0.0, 1.0, 2.0]}  # fmt: skip
INF = float("inf")
BAD = {"binary": [-1.0, 2.0, 0.5, INF, 100.0], "graded": [-0.1, 1.5, INF], "count": [-1.0, INF, 1e300],
       "regression": [INF, -INF, 1e300], "multiclass": [3.0, -1.0, 0.5, INF]}  # fmt: skip


def spec_of(*labels: LabelSpec, **changes: Any) -> TaskSpec:
    facts: dict[str, Any] = {
        "name": "t", "dataset": "d", "description": "", "labels": labels or (LabelSpec(name="y", primary=True),),
        "features": (FeatureSpec(name="x", view="row"),), "groups": ("grp",),
        "endpoint": EndpointSpec(path="/v1/t/score", query_key="user", item_key="item", items_field="items"),
    }  # fmt: skip
    return TaskSpec(**{**facts, **changes})


def table_of(y: Any = None, n: int = 60, **columns: Any) -> pa.Table:
    """Rows that can train: 20 of each split, every class in each; columns replace or add."""
    place = np.arange(n)
    rows = {
        "user": place % 7, "item": place % 5, "x": place / 10, "y": (place % 2).astype(np.float32) if y is None else y,
        "grp": place // 4, "split": [("train", "valid", "test")[k % 3] for k in range(n)], "sampling_rate": np.ones(n),
    }  # fmt: skip
    return pa.table({**rows, **columns})


def found(rows: pa.Table, spec: TaskSpec | None = None) -> list[str]:
    spec = spec or spec_of()
    try:
        check_names(rows.column_names, spec, ())
        check_rows(rows, spec)
    except RowsError as error:
        return error.problems
    return []


def labels_of(kind: str, n: int = 60) -> np.ndarray:
    """Good values of a kind, every one of them in every split."""
    return np.array([GOOD[kind][(k // 3) % len(GOOD[kind])] for k in range(n)])


WRITERS: dict[str, Callable[[list[float | None]], pa.Array]] = {
    "float64": lambda values: pa.array(values, pa.float64()),
    "nan": lambda values: pa.array([float("nan") if v is None else v for v in values]),
    "dictionary": lambda values: pa.array(values).dictionary_encode(),
    "int": lambda values: pa.array([None if v is None else int(v) for v in values], pa.int64()),
    "uint8": lambda values: pa.array([None if v is None else int(v) for v in values], pa.uint8()),
    "bool": lambda values: pa.array([None if v is None else bool(v) for v in values]),
    "decimal": lambda values: pa.array([None if v is None else decimal.Decimal(v) for v in values], pa.decimal128(20, 6)),
}


@given(st.sampled_from(sorted(KINDS)), st.sampled_from(sorted(WRITERS)), st.sets(st.integers(0, 59), max_size=6))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_labels_that_fit_their_kind_pass_however_they_are_stored(kind: str, writer: str, gaps: set[int]) -> None:
    if writer in ("int", "uint8", "bool", "decimal") and kind not in ("binary", "multiclass"):
        return  # fractions and huge numbers are no integers
    if writer == "bool" and kind != "binary":
        return
    values = [None if place in gaps else float(value) for place, value in enumerate(labels_of(kind))]
    assert found(table_of(WRITERS[writer](values)), spec_of(LabelSpec(name="y", primary=True, **KINDS[kind]))) == []


@given(st.data(), st.sampled_from(sorted(KINDS)), st.sets(st.integers(0, 59), min_size=1, max_size=9))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_every_label_that_does_not_fit_is_counted_with_its_first_row(data: st.DataObject, kind: str, places: set[int]) -> None:
    values = labels_of(kind)
    for place in sorted(places):
        values[place] = data.draw(st.sampled_from(BAD[kind]))
    problems = found(table_of(values), spec_of(LabelSpec(name="y", primary=True, **KINDS[kind])))
    first = min(places)
    assert len(problems) == 1
    assert problems[0].startswith(f"label 'y' ({kind}): {len(places)} of 60 known values are not ")
    assert f"row {first} has {values[first]:g}; " in problems[0]


@pytest.mark.parametrize(("kind", "values", "way_out"), [
    ("binary", [-1, 1], "write 0 for -1 and 1 for 1"),
    ("binary", [1, 2], "write 0 for 1 and 1 for 2: subtract 1"),
    ("binary", [0, 100], "write 0 for 0 and 1 for 100"),
    ("binary", [0.0, 0.5, 1.0], "need `graded=True`"),
    ("binary", [0, 3, 17], "compare them with a threshold"),
    ("graded", [0, 1, 2, 3], "divide by the highest grade, 3"),
    ("multiclass", [1, 2, 3], "they are numbered from 1: subtract 1"),
    ("multiclass", [0, 1, 5], "declare num_classes=6"),
    ("multiclass", [-1, 0, 1], "they are numbered from -1: add 1"),
    ("multiclass", [0.5, 1.5, 0.0], "classes are whole numbers"),
    ("count", [-1, 2], "needs a `regression` label"),
    ("regression", [1.0, INF], "or null where it is not known"),
])  # fmt: skip
def test_the_way_out_is_said(kind: str, values: list[float], way_out: str) -> None:
    column = np.array([values[(k // 3) % len(values)] for k in range(60)], float)
    assert way_out in "\n".join(found(table_of(column), spec_of(LabelSpec(name="y", primary=True, **KINDS[kind]))))


@pytest.mark.parametrize(("column", "words"), [
    (pa.array(["no", "yes"] * 30), '"no": 0, "yes": 1'),
    (pa.array(["no", None] * 30).dictionary_encode(), "holds text in 30 rows, row 0 has 'no'"),
    (pa.array(["0", "1"] * 30), "cast the column to numbers"),
    (pa.array([[1]] * 60), "holds list<"),
    (pa.array([{"a": 1}] * 60), "holds struct<"),
    (pa.array([dt.datetime(2024, 1, 1)] * 60), "holds timestamp[us], and a label is a number"),
    (pa.nulls(60), "the train split has no known value of label 'y'"),
    (np.zeros(60), "the valid split has one class only of label 'y'"),
])  # fmt: skip
def test_labels_of_other_types_are_named(column: Any, words: str) -> None:
    assert words in "\n".join(found(table_of(column)))


@pytest.mark.parametrize(("split", "words"), [
    (["Train"] * 20 + ["train", "valid", "test"] * 14, "20 rows are of 'Train', the first is row 0"),
    (["Train"] * 20 + ["train", "valid", "test"] * 14, "did you mean 'train'?"),
    ([None, "train", "valid", "test"] * 16, "column 'split' is null in 16 rows, the first is row 0"),
    (["training", "validation", "test"] * 20, "the valid split is empty; the rows have test 20, training 20, validation 20"),
    (["train", "valid", "train"] * 20, "the test split is empty"),
    (list(range(60)), "column 'split' holds int64; write train, valid, test"),
])  # fmt: skip
def test_splits_that_are_none_are_named(split: list[object], words: str) -> None:
    n = len(split)
    problems = found(table_of(n=n, split=pa.array(split)))
    assert words in "\n".join(problems)
    assert not any("None" in text for text in problems)


@pytest.mark.parametrize(("name", "column", "words"), [
    ("sampling_rate", pa.nulls(60, pa.float32()), "60 rows are not above 0 and at most 1, row 0 has None"),
    ("sampling_rate", np.where(np.arange(60) == 7, 2.0, 1.0), "1 rows are not above 0 and at most 1, row 7 has 2.0"),
    ("sampling_rate", pa.array(["1"] * 60), "holds string"),
    ("grp", pa.array([None if k % 7 == 0 else f"g{k // 4}" for k in range(60)]), "'grp' is null in 9 rows, the first is row 0"),
    ("event_timestamp", np.arange(60) + 1_700_000_000, "cast(pa.timestamp('s', 'UTC'))"),
    ("event_timestamp", np.arange(60) + 1_700_000_000_000, "cast(pa.timestamp('ms', 'UTC'))"),
    ("event_timestamp", pa.array([None, *([dt.datetime(2024, 1, 1)] * 59)]), "column 'event_timestamp' is null in 1 rows"),
])  # fmt: skip
def test_other_columns_that_everybody_needs(name: str, column: Any, words: str) -> None:
    assert words in "\n".join(found(table_of(**{name: column})))


NESTED = [pa.array([[1]] * 60), pa.array([{"a": 1}] * 60)]


@pytest.mark.parametrize("column", [*NESTED, pa.array(["text"] * 60)], ids=["list", "struct", "text"])
@pytest.mark.parametrize("field", ["groups", "slices", "attributes", "fairness"])
def test_columns_that_are_grouped_or_read_as_numbers_are_of_such_types(field: str, column: pa.Array) -> None:
    spec = spec_of(**{"groups": (), field: ("more",)})
    is_fine = field in ("groups", "slices") and pa.types.is_string(column.type)
    problems = found(table_of(more=column), spec)
    assert len(problems) == (0 if is_fine else 1)
    assert is_fine or "'more' holds" in problems[0]


def test_names_are_looked_at_first() -> None:
    twice = table_of().append_column("x", pa.array(np.ones(60)))
    assert found(twice) == ["column 'x' comes 2 times; leave one"]
    assert found(table_of().rename_columns(["user", "item", "x", "Y", "grp", "Split", "sampling_rate"])) == [
        "column 'y' is missing, which the description of the task names",
        "column 'split' is missing, which the description of the task names; did you mean 'Split'?",
    ]
    with pytest.raises(RowsError, match="column 'x' of the rows is a feature of the service too"):
        check_names(table_of().column_names, spec_of(), {"x"})
    assert "recstill makes a column of this name itself" in found(table_of(row_id=np.arange(60)))[0]


def test_all_problems_are_said_at_once() -> None:
    problems = found(table_of(np.arange(60) - 1.0, split=["Train", "valid", "test"] * 20, sampling_rate=np.zeros(60)))
    assert [text.split(":")[0] for text in problems] == [
        "column 'split'", "the train split is empty; the rows have Train 20, test 20, valid 20", "label 'y' (binary)",
        "column 'sampling_rate'",
    ]  # fmt: skip


def test_another_label_may_be_unknown_where_models_are_judged_and_that_is_said() -> None:
    spec = spec_of(LabelSpec(name="y", primary=True), LabelSpec(name="late"))
    split = np.array(table_of()["split"].to_pylist())
    late = np.where(split == "train", np.arange(60) // 3 % 2, np.nan)
    assert found(table_of(late=late), spec) == []
    remarks = row_remarks(table_of(late=late), spec)
    assert [text for text in remarks if "late" in text] == [
        "remark: the valid split has no known value of label 'late': its metrics there are undefined",
        "remark: the test split has no known value of label 'late': its metrics there are undefined",
    ]
    never = found(table_of(late=np.full(60, np.nan)), spec)
    assert never == [], "a teacher may speak about it"
    said = "remark: no training row knows label 'late': models learn it from a teacher only"
    assert said in row_remarks(table_of(late=np.full(60, np.nan)), spec)


def test_groups_of_one_class_are_a_remark() -> None:
    assert row_remarks(table_of(), spec_of()) == []
    (remark,) = row_remarks(table_of(grp=np.arange(60)), spec_of())
    assert "no group of the test split (grp) has rows with and without 'y'" in remark


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["F", "M"] * 30, "holds string: fairness compares"),
        ([1, 2] * 30, "30 rows are neither 0 nor 1, row 1 has 2"),
        ([0.5, 1.0, None] * 20, "20 rows are neither 0 nor 1, row 0 has 0.5"),
        ([[0]] * 60, "holds list"),
        ([0, 1, None] * 20, ""),
        ([True, False] * 30, ""),
    ],
)
def test_a_group_of_fairness_that_nobody_would_look_at_is_named(values: list[Any], words: str) -> None:
    problems = found(table_of(sex=values), spec_of(fairness=("sex",)))
    assert len(problems) == bool(words)
    assert words in "".join(problems)


def test_a_list_is_no_slice() -> None:
    assert "a slice has one value a row" in found(table_of(tags=[["a"]] * 60), spec_of(slices=("tags",)))[0]


def test_what_needs_one_score_a_row_is_refused_for_a_label_of_classes() -> None:
    label = LabelSpec(name="y", kind="multiclass", num_classes=3, primary=True)
    for changes in ({"fairness": ("sex",)}, {"decision": DecisionSpec()}):
        with pytest.raises(ValidationError, match="primary label"):
            spec_of(label, **changes)
