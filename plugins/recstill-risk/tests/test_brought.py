"""LightGBM files that the user brings answer as LightGBM itself does, or are refused by name."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recstill.api import ColumnInputs, ColumnRows, FeatureSpec, LabelSpec
from recstill.testing.columns import FEATURES, LABEL, column_rows
from recstill_risk.trees import LightGBMTeacher

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ROWS = 400
PARAMS = {"verbose": -1, "num_leaves": 8, "min_data_in_leaf": 5, "deterministic": True, "seed": 1, "num_threads": 1}
NUMBERS = tuple(FeatureSpec(name=name, view="row") for name in ("x", "z"))
SHOP = FeatureSpec(name="shop", view="row", kind="categorical")
CHANNEL = FeatureSpec(name="channel", view="row", kind="categorical")
RANDOM = np.random.default_rng(0)
X, Z = RANDOM.normal(size=ROWS), RANDOM.normal(size=ROWS)
CLICK = (X + Z > 0).astype(np.float32)
GRADE = (RANDOM.binomial(3, 1 / (1 + np.exp(-X))) / 3).astype(np.float32)
COUNT = RANDOM.poisson(np.exp(0.5 * Z)).astype(np.float32)
AMOUNT = np.exp(X).astype(np.float32)
CLASS = np.digitize(Z, [-0.5, 0.5]).astype(np.float32)
BINARY, VALUE = LabelSpec(name="y", primary=True), LabelSpec(name="y", kind="regression", primary=True)
GRADED = LabelSpec(name="y", primary=True, graded=True)
COUNTED = LabelSpec(name="y", kind="count", primary=True)
RANKED = LabelSpec(name="y", kind="ranking", primary=True)
CLASSES = LabelSpec(name="y", kind="multiclass", num_classes=3, primary=True)


def logit(p: np.ndarray) -> np.ndarray:
    return np.log(p / (1 - p))


def fitted(parameters: Mapping[str, Any], data: Any, label: np.ndarray, rounds: int = 12, **more: Any) -> lightgbm.Booster:
    return lightgbm.train({**PARAMS, **parameters}, lightgbm.Dataset(data, label, **more), rounds)


def numbers_only(parameters: Mapping[str, Any], label: np.ndarray, **more: Any) -> lightgbm.Booster:
    return fitted(parameters, np.c_[X, Z], label, feature_name=["x", "z"], **more)


def taken(
    booster: lightgbm.Booster | str, label: LabelSpec, columns: Mapping[str, Any], features: tuple, folder: Path, **o: Any
):
    """Bring a booster's file, fit and open the teacher, and return its predictor and what it said."""
    text = booster if isinstance(booster, str) else booster.model_to_string()
    (folder / "mine.txt").write_text(text)
    teacher = LightGBMTeacher(ColumnInputs(features, (label,)), files={"y": str(folder / "mine.txt")}, **o)
    teacher.check()
    rows = ColumnRows(columns, {"y": CLICK}, np.zeros(len(CLICK), np.int64))
    target, said = folder / "model", []
    target.mkdir(exist_ok=True)
    teacher.fit(rows, rows, target, 0, said.append)
    return teacher.open(target), said


@pytest.mark.parametrize(
    ("parameters", "label", "truth", "expected"),
    [
        ({"objective": "binary"}, BINARY, CLICK, logit),
        ({"objective": "binary", "sigmoid": 3.0}, BINARY, CLICK, logit),
        ({"objective": "binary", "boosting": "dart"}, BINARY, CLICK, logit),
        ({"objective": "binary", "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.7}, BINARY, CLICK, logit),
        ({"objective": "binary", "linear_tree": True}, BINARY, CLICK, logit),
        ({"objective": "cross_entropy"}, GRADED, GRADE, logit),
        ({"objective": "cross_entropy_lambda"}, GRADED, GRADE, lambda v: logit(1 - np.exp(-v))),
        ({"objective": "poisson"}, COUNTED, COUNT, np.log),
        ({"objective": "tweedie"}, COUNTED, COUNT, np.log),
        ({"objective": "regression"}, VALUE, AMOUNT, np.asarray),
        ({"objective": "regression", "reg_sqrt": True}, VALUE, AMOUNT, np.asarray),
        ({"objective": "regression_l1"}, VALUE, AMOUNT, np.asarray),
        ({"objective": "huber"}, VALUE, AMOUNT, np.asarray),
        ({"objective": "quantile"}, VALUE, AMOUNT, np.asarray),
        ({"objective": "gamma"}, VALUE, AMOUNT, np.asarray),
        ({"objective": "poisson", "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.7}, VALUE, COUNT, np.asarray),
        ({"objective": "multiclass", "num_class": 3}, CLASSES, CLASS, np.asarray),
    ],
)
def test_scores_are_on_the_labels_scale_as_lightgbm_itself_answers(
    parameters: dict, label: LabelSpec, truth: np.ndarray, expected: Any, tmp_path: Path
) -> None:
    booster = numbers_only(parameters, truth)
    predictor, _ = taken(booster, label, {"x": X, "z": Z}, NUMBERS, tmp_path)
    assert predictor.hidden == {"leaves": booster.num_trees()}
    found = predictor({"x": X, "z": Z}, ["leaves"])
    if label.kind == "multiclass":
        wide = np.exp(found["logit_y"])
        found["logit_y"] = wide / wide.sum(1, keepdims=True)
    assert np.allclose(found["logit_y"], expected(booster.predict(np.c_[X, Z])), rtol=1e-4, atol=1e-4)
    assert found["hidden_leaves"].shape == (ROWS, booster.num_trees())


def test_a_rankers_scores_order_a_ranking_label(tmp_path: Path) -> None:
    booster = numbers_only({"objective": "lambdarank"}, CLICK, group=[20] * (ROWS // 20))
    predictor, _ = taken(booster, RANKED, {"x": X, "z": Z}, NUMBERS, tmp_path)
    assert np.allclose(predictor({"x": X, "z": Z})["logit_y"], booster.predict(np.c_[X, Z]), atol=1e-5)


@pytest.mark.parametrize(
    ("parameters", "label", "truth", "words"),
    [
        ({"objective": "regression"}, BINARY, CLICK, "objective 'regression', and label 'y' is binary: train it with binary"),
        ({"objective": "binary"}, GRADED, CLICK, "objective 'binary', and label 'y' is graded: train it with cross_entropy"),
        ({"objective": "regression"}, COUNTED, COUNT, "label 'y' is count: train it with poisson"),
        ({"objective": "binary"}, VALUE, CLICK, "objective 'binary', and label 'y' is regression"),
        ({"objective": "lambdarank"}, BINARY, CLICK, "declare the label as kind `ranking`"),
        ({"objective": "multiclass", "num_class": 3}, BINARY, CLASS, "objective 'multiclass', and label 'y' is binary"),
        ({"objective": "multiclassova", "num_class": 3}, CLASSES, CLASS, "objective 'multiclassova'"),
        (
            {"objective": lambda p, d: (p - d.get_label(), np.ones(ROWS))},
            BINARY,
            CLICK,
            "add the line `objective=cross_entropy`",
        ),
    ],
)
def test_an_objective_that_does_not_fit_the_label_is_refused_by_name(
    parameters: dict, label: LabelSpec, truth: np.ndarray, words: str, tmp_path: Path
) -> None:
    more = {"group": [20] * (ROWS // 20)} if parameters["objective"] == "lambdarank" else {}
    with pytest.raises(ValueError, match=words):
        taken(numbers_only(parameters, truth, **more), label, {"x": X, "z": Z}, NUMBERS, tmp_path)


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    booster = numbers_only({"objective": "multiclass", "num_class": 3}, CLASS)
    four = LabelSpec(name="y", kind="multiclass", num_classes=4, primary=True)
    with pytest.raises(ValueError, match="answers 3 classes, and label 'y' has 4"):
        taken(booster, four, {"x": X, "z": Z}, NUMBERS, tmp_path)


_VALUES = st.one_of(
    st.lists(st.text(max_size=4), min_size=2, max_size=6, unique=True),
    st.lists(st.integers(-(2**62), 2**62), min_size=2, max_size=6, unique=True),
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=6, unique=True),
    st.just([False, True]),
)


@given(first=_VALUES, second=_VALUES, seed=st.integers(0, 99), ordered=st.booleans())
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_values_of_pandas_categories_get_the_codes_that_pandas_gave_them(
    first: list, second: list, seed: int, ordered: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    random = np.random.default_rng(seed)
    shop = np.array(first, object)[random.integers(0, len(first) - 1, ROWS)]
    channel = np.array(second, object)[random.integers(0, len(second), ROWS)]
    label = ((shop == shop[0]) ^ (channel == channel[0])).astype(float)
    dtype = pd.CategoricalDtype(sorted(set(channel), key=str), ordered=ordered)
    frame = pd.DataFrame({"shop": pd.Categorical(shop), "x": X, "channel": pd.Categorical(channel, dtype=dtype)})
    booster = fitted({"objective": "binary", "min_data_per_group": 1, "cat_smooth": 1}, frame, label)
    features, columns = (NUMBERS[0], CHANNEL, SHOP), {"shop": shop, "x": X, "channel": channel}
    predictor, _ = taken(booster, BINARY, columns, features, tmp_path_factory.mktemp("brought"))
    # What training never saw, and what is missing.
    asked = {"shop": np.array([*first, None, "never", np.nan], object)}
    asked["channel"] = np.array([second[n % len(second)] for n in range(len(asked["shop"]))], object)
    asked["x"] = np.linspace(-1, 1, len(asked["shop"]))
    raw = pd.DataFrame({name: pd.Series(list(asked[name]), dtype=object) for name in ("shop", "x", "channel")})
    for name in ("shop", "channel"):
        raw[name] = pd.Categorical(raw[name], categories=frame[name].cat.categories, ordered=frame[name].cat.ordered)
    raw["x"] = raw["x"].astype(float)
    assert np.allclose(predictor(asked)["logit_y"], booster.predict(raw, raw_score=True), atol=1e-5)


def shops(count: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    codes = np.random.default_rng(4).integers(0, 3, count)
    return codes, np.array(["Zoo", "Aldi", "Mini"], object)[codes]


def test_codes_without_pandas_are_refused_by_name_and_taken_when_said(tmp_path: Path) -> None:
    codes, names = shops()
    label = (codes == 1).astype(float)
    booster = fitted({"objective": "binary"}, np.c_[X, codes], label, feature_name=["x", "shop"], categorical_feature=["shop"])
    features, columns = (NUMBERS[0], SHOP), {"x": X, "shop": names}
    with pytest.raises(ValueError, match=r"reads shop as a category by code .* `codes: \{shop: \[value of code 0, …\]\}`"):
        taken(booster, BINARY, columns, features, tmp_path)
    expected = booster.predict(np.c_[X, codes], raw_score=True)
    predictor, _ = taken(booster, BINARY, columns, features, tmp_path, codes={"shop": ["Zoo", "Aldi", "Mini"]})
    assert np.allclose(predictor(columns)["logit_y"], expected, atol=1e-5)
    as_is = {"x": X, "shop": codes}
    predictor, _ = taken(booster, BINARY, as_is, features, tmp_path, codes={"shop": "values"})
    assert np.allclose(predictor(as_is)["logit_y"], expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"none of the values of 'shop' is one that it was trained on.*'Zoo'"):
        taken(booster, BINARY, columns, features, tmp_path, codes={"shop": "values"})
    with pytest.raises(ValueError, match="codes: shops: no such numeric or categorical feature"):
        taken(booster, BINARY, columns, features, tmp_path, codes={"shops": "values"})


def test_values_of_another_type_are_refused_and_some_unknown_ones_are_said(tmp_path: Path) -> None:
    codes, _ = shops()
    frame = pd.DataFrame({"x": X, "shop": pd.Categorical(codes.astype(str))})
    booster = fitted({"objective": "binary"}, frame, (codes == 1).astype(float))
    features = (NUMBERS[0], SHOP)
    with pytest.raises(ValueError, match=r"none of the values of 'shop' .* the rows have .*, the file has '0', '1', '2'"):
        taken(booster, BINARY, {"x": X, "shop": codes}, features, tmp_path)
    mixed = np.where(codes == 2, "new", codes.astype(str)).astype(object)
    _, said = taken(booster, BINARY, {"x": X, "shop": mixed}, features, tmp_path)
    assert any("1 of 3 values of 'shop' are unknown to it and count as missing" in text for text in said)


def test_lists_of_pandas_that_no_column_can_be_told_of_are_refused(tmp_path: Path) -> None:
    codes, names = shops()
    ordered = pd.Categorical(names, ordered=True)
    frame = pd.DataFrame({"x": X, "shop": pd.Categorical(codes.astype(str)), "channel": ordered})
    booster = fitted({"objective": "binary"}, frame, (codes == 1).astype(float))
    columns = {"x": X, "shop": codes.astype(str).astype(object), "channel": names}
    number = FeatureSpec(name="channel", view="row")
    with pytest.raises(ValueError, match=r"2 lists in pandas_categorical, reads shop by code.*which list is whose"):
        taken(booster, BINARY, columns, (NUMBERS[0], SHOP, number), tmp_path)
    predictor, _ = taken(booster, BINARY, columns, (NUMBERS[0], SHOP, CHANNEL), tmp_path)
    assert np.allclose(predictor(columns)["logit_y"], booster.predict(frame, raw_score=True), atol=1e-5)


def test_features_are_found_by_name_and_missing_ones_named(tmp_path: Path) -> None:
    booster = numbers_only({"objective": "binary"}, CLICK)
    other = FeatureSpec(name="other", view="row")
    predictor, _ = taken(booster, BINARY, {"z": Z, "x": X, "other": X}, (other, *NUMBERS[::-1]), tmp_path)
    found = predictor({"z": Z, "other": X, "x": X})["logit_y"]
    assert np.allclose(found, booster.predict(np.c_[X, Z], raw_score=True), atol=1e-5)
    with pytest.raises(ValueError, match=r"reads z, and the task gives x, other"):
        taken(booster, BINARY, {"x": X, "other": X}, (NUMBERS[0], other), tmp_path)
    spaced = numbers_only({"objective": "binary"}, CLICK).model_to_string().replace("feature_names=x z", "feature_names=x_1 z")
    name = FeatureSpec(name="x 1", view="row")
    predictor, _ = taken(spaced, BINARY, {"x 1": X, "z": Z}, (name, NUMBERS[1]), tmp_path)
    assert np.allclose(predictor({"x 1": X, "z": Z})["logit_y"], found, atol=1e-5)
    two = FeatureSpec(name="x 1_2", view="row"), FeatureSpec(name="x_1 2", view="row")
    unclear = spaced.replace("feature_names=x_1 z", "feature_names=x_1_2 z")
    with pytest.raises(ValueError, match=r"'x_1_2' may be 'x 1_2' or 'x_1 2'"):
        taken(unclear, BINARY, {"x 1_2": X, "x_1 2": X, "z": Z}, (*two, NUMBERS[1]), tmp_path)
    nameless = fitted({"objective": "binary"}, np.c_[X, Z], CLICK)
    with pytest.raises(ValueError, match="it was trained without names"):
        taken(nameless, BINARY, {"x": X, "z": Z}, NUMBERS, tmp_path)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (None, "mine.txt is not there"),
        (b"\xff\xfetree", "is no LightGBM text model"),
        (b"tree\n\xff\n", "is no text in UTF-8"),
        (b"tree\r\nversion=v4\r\n", "line ends of Windows"),
        (b"", "is no LightGBM text model"),
    ],
)
def test_a_file_that_is_missing_or_none_is_refused_before_anything_is_fitted(
    write: bytes | None, words: str, tmp_path: Path
) -> None:
    if write is not None:
        (tmp_path / "mine.txt").write_bytes(write)
    teacher = LightGBMTeacher(ColumnInputs(FEATURES, (LABEL,)), files={LABEL.name: str(tmp_path / "mine.txt")})
    with pytest.raises(ValueError, match=words):
        teacher.check()
    with pytest.raises(ValueError, match="files: nothing: no such label of the task; it has positive"):
        LightGBMTeacher(ColumnInputs(FEATURES, (LABEL,)), files={"nothing": "mine.txt"})


def test_a_file_taken_by_an_older_recstill_that_misread_it_is_refused(tmp_path: Path) -> None:
    teacher = LightGBMTeacher(ColumnInputs(FEATURES, (LABEL,)), rounds=3)
    teacher.fit(column_rows(64), column_rows(32, 1), tmp_path, 0, lambda _: None)
    text = (tmp_path / "positive.txt").read_text()
    older = text.replace("pandas_categorical:null", 'pandas_categorical:[["web", "shop"]]')
    (tmp_path / "positive.txt").write_text(older)
    card = (tmp_path / "trees.json").read_text()
    fields = json.loads(card)
    fields["sha256"]["positive.txt"] = hashlib.sha256(older.encode()).hexdigest()
    (tmp_path / "trees.json").write_text(json.dumps({k: v for k, v in fields.items() if k != "brought"}))
    with pytest.raises(ValueError, match="taken by an older recstill, which read its categories wrongly"):
        teacher.open(tmp_path)
