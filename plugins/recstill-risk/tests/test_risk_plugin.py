"""Tree teachers, the additive student, the fairness gate and the credit rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from recstill.api import Candidate, ColumnInputs, ColumnRows, DecisionSpec, FeatureSpec, LabelSpec
from recstill.embeddings.tables import TableOptimizer, training_inputs
from recstill.evaluation.fairness import band_metrics, fairness_metrics, stability_index
from recstill.testing import assert_passed, check_column_teacher, check_student
from recstill.testing.columns import FEATURES, LABEL, column_rows
from recstill.testing.samples import LABELS, NAMES, NUM_DENSE, inputs_for_training, sample_batch
from recstill_risk.additive import AdditiveStudent
from recstill_risk.fairness import fairness
from recstill_risk.trees import ForestTeacher, LightGBMTeacher

if TYPE_CHECKING:
    from pathlib import Path

ANOMALY = LabelSpec(name="anomaly", kind="regression")
INPUTS = ColumnInputs(FEATURES, (LABEL,))


@pytest.mark.parametrize(
    ("factory", "options"),
    [(LightGBMTeacher, {"rounds": 8, "min_child_samples": 5}), (ForestTeacher, {"trees": 8, "min_leaf": 3})],
)
def test_teachers_conform(factory: type, options: dict) -> None:
    assert_passed(check_column_teacher(factory, **options))


def test_the_leaves_of_a_row_sum_to_its_score(tmp_path: Path) -> None:
    teacher = LightGBMTeacher(INPUTS, rounds=12, min_child_samples=5)
    teacher.fit(column_rows(), column_rows(64, 1), tmp_path, 0, lambda _: None)
    found = teacher.open(tmp_path)(column_rows(40, 2).columns, ["leaves"])
    assert found["hidden_leaves"].shape == (40, 12)
    assert np.allclose(found["hidden_leaves"].sum(1), found["logit_positive"], atol=1e-5)


def test_an_isolation_forest_answers_the_label_that_nobody_knows(tmp_path: Path) -> None:
    rows = column_rows()
    labels = {**rows.labels, "anomaly": np.full(len(rows), np.nan, np.float32)}
    rows = ColumnRows(rows.columns, labels, rows.groups)
    teacher = LightGBMTeacher(ColumnInputs(FEATURES, (LABEL, ANOMALY)), rounds=5, anomaly="anomaly")
    teacher.fit(rows, rows, tmp_path, 0, lambda _: None)
    predictor = teacher.open(tmp_path)
    score = predictor(rows.columns)["logit_anomaly"]
    assert abs(score.mean()) < 0.05
    assert abs(score.std() - 1) < 0.05
    strange = {name: values[:1].copy() for name, values in rows.columns.items()}
    strange["amount"][:], strange["age"][:] = 50.0, -50.0
    assert predictor(strange)["logit_anomaly"][0] > score.max() - 0.5


@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        ((LABEL,), {"anomaly": "odd"}, "'odd' is no regression label"),
        ((LabelSpec(name="c", kind="multiclass", num_classes=3, primary=True),), {}, "answers binary, count and regression"),
        ((LABEL,), {"rounds": 0}, "must be above 0"),
    ],
)
def test_options_that_cannot_be_are_refused(labels: tuple, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LightGBMTeacher(ColumnInputs(FEATURES, labels), **options)


def test_one_class_only_and_a_label_that_nobody_knows_are_refused(tmp_path: Path) -> None:
    rows = column_rows(64)
    for values, words in (
        (np.ones(64, np.float32), "one class only"),
        (np.full(64, np.nan, np.float32), "known for no training row"),
    ):
        bad = ColumnRows(rows.columns, {"positive": values}, rows.groups)
        with pytest.raises(ValueError, match=words):
            LightGBMTeacher(INPUTS, rounds=3).fit(bad, bad, tmp_path, 0, lambda _: None)


TEACHERS = [(LightGBMTeacher, {"rounds": 60, "min_child_samples": 5}), (ForestTeacher, {"trees": 20, "min_leaf": 5})]


@pytest.mark.parametrize(("factory", "options"), TEACHERS)
def test_a_graded_label_is_answered_with_its_expected_grade(factory: type, options: dict, tmp_path: Path) -> None:
    rows = column_rows(600)
    grade = np.random.default_rng(0).binomial(3, 0.3 / (1 + np.exp(-np.nan_to_num(rows.columns["amount"])))) / 3
    rows = ColumnRows(rows.columns, {"positive": grade.astype(np.float32)}, rows.groups)
    graded = ColumnInputs(FEATURES, (LabelSpec(name="positive", primary=True, graded=True),))
    teacher = factory(graded, **options)
    teacher.fit(rows, rows, tmp_path, 0, lambda _: None)
    said = 1 / (1 + np.exp(-teacher.open(tmp_path)(rows.columns)["logit_positive"]))
    assert said.mean() == pytest.approx(grade.mean(), rel=0.1)
    assert np.corrcoef(said, grade)[0, 1] > 0.3


@pytest.mark.parametrize(("factory", "options"), TEACHERS)
@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        ("binary", [0, 2], "must be 0 or 1, and .* rows have others, such as 2"),
        ("binary", [-1, 1], "must be 0 or 1, and .* rows have others, such as -1"),
        ("binary", [1, 2], "must be 0 or 1"),
        ("graded", [0, 0.5, 3], "must be grades from 0 to 1"),
        ("count", [0, -2], "must be counts from 0"),
        ("regression", [0, np.inf], "must be finite numbers"),
    ],
)
def test_labels_of_another_coding_are_refused(
    factory: type, options: dict, kind: str, values: list, words: str, tmp_path: Path
) -> None:
    label = LabelSpec(name="positive", kind="binary" if kind == "graded" else kind, graded=kind == "graded", primary=True)
    rows = column_rows(64)
    bad = ColumnRows(rows.columns, {"positive": np.resize(np.array(values, np.float32), 64)}, rows.groups)
    if factory is ForestTeacher and kind == "count":
        words = "a forest answers binary and regression labels"
    with pytest.raises(ValueError, match=words):
        factory(ColumnInputs(FEATURES, (label,)), **options).fit(bad, bad, tmp_path, 0, lambda _: None)


@pytest.mark.parametrize("name", ["price in EUR", "a:b", "a,b", 'a"b', "größe [m]", "f1", "{x}"])
def test_a_feature_may_have_any_name(name: str, tmp_path: Path) -> None:
    features = (FeatureSpec(name="amount", view="row"), FeatureSpec(name=name, view="row"))
    rows = column_rows(64)
    rows = ColumnRows({"amount": rows.columns["amount"], name: rows.columns["age"]}, rows.labels, rows.groups)
    teacher = LightGBMTeacher(ColumnInputs(features, (LABEL,)), rounds=3, min_child_samples=5)
    teacher.fit(rows, rows, tmp_path, 0, lambda _: None)
    assert np.isfinite(teacher.open(tmp_path)(rows.columns)["logit_positive"]).all()


@pytest.mark.parametrize("kind", ["binary", "regression", "count"])
def test_a_label_that_no_validation_row_knows_yet_is_fitted_on_rows_held_out_of_training(kind: str, tmp_path: Path) -> None:
    late, said = LabelSpec(name="late", kind=kind), []
    rows, other = column_rows(200), column_rows(64, 1)
    train = ColumnRows(rows.columns, {**rows.labels, "late": 1 - rows.labels["positive"]}, rows.groups)
    valid = ColumnRows(other.columns, {**other.labels, "late": np.full(64, np.nan, np.float32)}, other.groups)
    teacher = LightGBMTeacher(ColumnInputs(FEATURES, (LABEL, late)), rounds=5, min_child_samples=5)
    teacher.fit(train, valid, tmp_path, 0, said.append)
    assert "late: no validation row knows it; early stopping holds out 20 training rows" in said
    assert np.isfinite(teacher.open(tmp_path)(rows.columns)["logit_late"]).all()


@pytest.mark.parametrize(("factory", "options"), TEACHERS)
def test_odd_values_of_columns_are_answered(factory: type, options: dict, tmp_path: Path) -> None:
    rows = column_rows(200)
    place = np.arange(200)
    odd = {
        "amount": np.where(place % 9 == 0, np.inf, rows.columns["amount"]), "age": np.full(200, np.nan),
        "channel": np.where(place % 3 == 0, np.inf, place % 4.0),
    }  # fmt: skip
    some = ColumnRows({**rows.columns, **odd}, rows.labels, rows.groups)
    teacher = factory(INPUTS, **options)
    teacher.fit(some, some, tmp_path, 0, lambda _: None)
    assert np.isfinite(teacher.open(tmp_path)(some.columns)["logit_positive"]).all()


def test_a_teacher_of_other_features_or_with_a_changed_file_is_refused(tmp_path: Path) -> None:
    teacher = LightGBMTeacher(INPUTS, rounds=3)
    teacher.fit(column_rows(), column_rows(64, 1), tmp_path, 0, lambda _: None)
    with pytest.raises(ValueError, match="of another features"):
        LightGBMTeacher(ColumnInputs(FEATURES[::-1], (LABEL,)), rounds=3).open(tmp_path)
    (tmp_path / "positive.txt").write_text((tmp_path / "positive.txt").read_text().replace("0", "1", 1))
    with pytest.raises(ValueError, match="was changed after it was fitted"):
        teacher.open(tmp_path)


@pytest.mark.parametrize("options", [{"knots": 6}, {"pairs": [["age", "price"]], "increasing": ["price"]}])
def test_the_additive_student_conforms(options: dict) -> None:
    assert_passed(check_student(AdditiveStudent, **options))


@pytest.mark.parametrize("pair", [["price", "age"], ["age", "price"]])
def test_a_pair_is_a_term_of_its_own_and_keeps_what_is_monotonic(pair: list[str]) -> None:
    model = AdditiveStudent(inputs_for_training(), decreasing=["price"], pairs=[pair]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 2)
    batch, count = sample_batch(20), 41
    output = model(batch)
    assert model.part_names[-1] == "price & age"
    assert torch.allclose(output.parts["click"].sum(1) + model.bias[model.row], output.logits["click"], atol=1e-5)
    base = sample_batch(1).dense[:1].repeat(count, 1)
    base[:, 2], base[:, 5], base[:, 1] = 0.0, 0.0, torch.linspace(-1, 1, count)
    by_age = []
    for age in (-0.9, -0.1, 0.35, 1.0):
        base[:, 4] = age
        said = model(type(batch)(dense=base.clone(), sparse=sample_batch(count).sparse)).parts["click"]
        assert (said[:, -1].diff() <= 1e-6).all()
        by_age.append(said[:, -1])
    assert not torch.allclose(by_age[0], by_age[3], atol=0.1)
    base[:, 2] = 1.0  # the price is missing
    assert (model(type(batch)(dense=base, sparse=sample_batch(count).sparse)).parts["click"][:, -1] == 0).all()


def test_terms_sum_to_the_logit_and_curves_are_exactly_monotonic() -> None:
    model, batch = AdditiveStudent(inputs_for_training(), increasing=["price"], decreasing=["age"]).eval(), sample_batch(20)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape))
    output = model(batch)
    assert torch.allclose(output.parts["click"].sum(1) + model.bias[model.row], output.logits["click"], atol=1e-5)
    assert len(model.part_names) == output.parts["click"].shape[1]
    rising, falling = model.curves()[model.row]
    assert (rising.diff() > 0).all()
    assert (falling.diff() < 0).all()
    base = sample_batch(1).dense[:1].repeat(50, 1)
    base[:, 1], base[:, 2] = torch.linspace(-1.5, 1.5, 50), 0.0
    swept = model(type(batch)(dense=base, sparse=sample_batch(50).sparse)).parts["click"][:, 0]
    assert (swept.diff() >= 0).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"increasing": ["income"]}, "income: no such numeric feature; it sees price, age"),
        ({"increasing": ["age"], "decreasing": ["age"]}, "cannot both rise and fall"),
        ({"knots": 1}, "knots and pair_knots must be 2 or more"),
        ({"pairs": [["age", "income"]]}, "write two different numeric features; it sees price, age"),
        ({"pairs": [["age", "age"]]}, "write two different numeric features"),
        ({"pairs": [["age", "price"]], "increasing": ["age", "price"]}, "one of the two may be increasing or decreasing"),
    ],
)
def test_constraints_that_cannot_be_are_refused(options: dict, words: str) -> None:
    inputs = training_inputs(NUM_DENSE, (), LABELS, TableOptimizer(), dense_names=NAMES)
    with pytest.raises(ValueError, match=words):
        AdditiveStudent(inputs, **options)


def candidate(gap: float, teacher: float | None) -> Candidate:
    name = "fairness.woman.approval_gap"
    before = None if teacher is None else {name: teacher}
    return Candidate("credit", 1, {name: gap}, 1, None, "default.auc", (), None, before)


def test_the_gate_lets_no_gap_grow_far_beyond_the_teachers() -> None:
    assert fairness(candidate(0.05, 0.045)).passed
    assert not fairness(candidate(0.06, 0.045)).passed
    assert "1.33 x" in fairness(candidate(0.06, 0.045)).reason
    assert fairness(candidate(0.019, 0.001)).passed  # too small to tell
    assert not fairness(candidate(0.1, None)).passed
    assert fairness(Candidate("ads", 1, {}, 1, None, "purchase.auc", ())).passed


def test_group_metrics_bands_and_stability_against_hand_counts() -> None:
    decision = DecisionSpec(cost_false_alarm=1, cost_miss=1, review_margin=0.1, bands=(0.25, 0.5))
    truth = np.array([0.0, 1, 0, 1, 0, 1])
    p = np.array([0.2, 0.8, 0.3, 0.4, 0.6, 0.9])
    group = np.array([0.0, 0, 0, 1, 1, 1])
    found = fairness_metrics(truth, p, {"g": group}, decision)
    assert found["fairness.g.approval_0"] == pytest.approx(2 / 3)
    assert found["fairness.g.approval_gap"] == pytest.approx(1 / 3)
    assert found["fairness.g.auc_0"] == 1.0
    assert found["fairness.g.auc_1"] == 0.5
    bands = band_metrics(truth, p, decision)
    assert bands["bands.A.share"] == pytest.approx(1 / 6)
    assert bands["bands.B.label"] == 0.5
    assert bands["bands.C.score"] == pytest.approx((0.8 + 0.6 + 0.9) / 3)
    assert [decision.decide(x) for x in (0.3, 0.45, 0.5, 0.59, 0.7)] == ["approve", "review", "review", "review", "decline"]
    assert [decision.band(x) for x in (0.0, 0.25, 0.49, 0.5)] == ["A", "B", "B", "C"]
    values = np.random.default_rng(0).normal(size=20_000)
    assert stability_index(values[:10_000], values[10_000:]) < 0.01
    assert stability_index(values, values + 1.0) > 0.25
