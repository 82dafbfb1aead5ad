"""Metrics under heavy ties: scikit-learn or the mean over all orders as the oracle; rows in any order; values that are none."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, log_loss, ndcg_score, roc_auc_score

from recstill.api import DecisionSpec, LabelSpec
from recstill.api.measured import Undefined, measured
from recstill.evaluation.fairness import band_metrics, fairness_metrics, stability_index
from recstill.evaluation.metrics import accuracy, evaluate_predictions
from recstill.evaluation.metrics import log_loss as own_log_loss
from recstill.evaluation.ranking import auc, group_auc, ndcg, reciprocal_rank, spearman

LABELS = {
    "binary": LabelSpec(name="y", primary=True),
    "graded": LabelSpec(name="y", primary=True, graded=True),
    "count": LabelSpec(name="y", primary=True, kind="count"),
    "regression": LabelSpec(name="y", primary=True, kind="regression"),
    "ranking": LabelSpec(name="y", primary=True, kind="ranking"),
}
QUICK = settings(max_examples=60, deadline=None, derandomize=True)
Arrays = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]


@st.composite
def rows(draw: st.DrawFn) -> Arrays:
    """Labels, scores and groups of 1 to 40 rows, of few values each."""
    size = draw(st.integers(1, 40))

    def values(*choices: float) -> NDArray[np.float32]:
        return np.array(draw(st.lists(st.sampled_from(choices), min_size=size, max_size=size)), np.float32)

    return values(0, 0, 1, 1 / 3), values(0.1, 0.2, 0.2, 0.7), values(0, 1, 2, 5).astype(np.int64)


@QUICK
@given(rows(), st.integers(1, 12))
def test_ndcg_is_that_of_scikit_learn(found: Arrays, k: int) -> None:
    y, p, g = found
    lists = [(y[g == group], p[g == group]) for group in np.unique(g)]
    expected = [_sklearn_ndcg(labels, scores, k) for labels, scores in lists if labels.any()]
    if expected:
        assert ndcg(y, p, g, k) == pytest.approx(np.mean(expected))
    else:
        assert isinstance(ndcg(y, p, g, k), Undefined)


def _sklearn_ndcg(labels: NDArray[np.float32], scores: NDArray[np.float32], k: int) -> float:
    if len(labels) == 1:  # scikit-learn refuses lists of one
        return 1.0
    return float(ndcg_score(labels[None], scores[None], k=k))


@QUICK
@given(rows())
def test_auc_and_group_auc_are_those_of_scikit_learn(found: Arrays) -> None:
    y, p, g = found
    mixed = [group for group in np.unique(g) if 0 < (y[g == group] > 0).mean() < 1]
    if 0 < (y > 0).mean() < 1:
        assert auc(y, p) == pytest.approx(roc_auc_score(y > 0, p))
    else:
        assert isinstance(auc(y, p), Undefined)
    if mixed:
        expected = np.average(
            [roc_auc_score(y[g == group] > 0, p[g == group]) for group in mixed],
            weights=[(g == group).sum() for group in mixed],
        )
        assert group_auc(y, p, g) == pytest.approx(expected)
    else:
        assert isinstance(group_auc(y, p, g), Undefined)


@QUICK
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.1, 0.2])), min_size=1, max_size=6))
def test_mrr_is_the_mean_over_all_orders_that_the_scores_allow(pairs: list[tuple[float, float]]) -> None:
    y, p = (np.array(values, np.float32) for values in zip(*pairs, strict=True))
    found = reciprocal_rank(y, p, np.zeros(len(y), np.int64))
    if (y == y[0]).all():
        assert isinstance(found, Undefined)
        return
    orders = [order for order in itertools.permutations(range(len(y))) if (np.diff(p[list(order)]) <= 0).all()]
    first = [next(place for place, row in enumerate(order) if y[row] == y.max()) for order in orders]
    assert found == pytest.approx(np.mean([1 / (place + 1) for place in first]))


@QUICK
@given(rows(), st.randoms(use_true_random=False), st.sampled_from(sorted(LABELS)))
def test_the_order_of_the_rows_never_changes_a_metric(found: Arrays, random: object, kind: str) -> None:
    y, p, g = found
    order = np.arange(len(y))
    random.shuffle(order)  # type: ignore[attr-defined]
    before = evaluate_predictions([LABELS[kind]], {"y": y}, {"y": p}, g)
    after = evaluate_predictions([LABELS[kind]], {"y": y[order]}, {"y": p[order]}, g[order])
    assert set(before) == set(after)
    for name, value in before.items():
        assert after[name] == pytest.approx(value, rel=1e-5, nan_ok=True), name
    for metric in (ndcg, reciprocal_rank, group_auc):
        assert measured({"": metric(y, p, g)}) == measured({"": metric(y[order], p[order], g[order])})  # to the last bit


@QUICK
@given(rows(), st.sampled_from([np.nan, np.inf, -np.inf]), st.sampled_from(sorted(LABELS)), st.integers(0, 39))
def test_a_score_that_is_no_number_leaves_every_metric_undefined(found: Arrays, wrong: float, kind: str, place: int) -> None:
    y, p, g = found
    p[place % len(p)] = wrong
    values = evaluate_predictions([LABELS[kind]], {"y": y}, {"y": p}, g)
    assert {isinstance(value, Undefined) and "not a finite number" in value.reason for value in values.values()} == {True}
    decision = DecisionSpec(bands=(0.15, 0.5))
    for part in (fairness_metrics(y, p, {"sex": np.zeros(len(y))}, decision), band_metrics(y, p, decision)):
        assert all(isinstance(value, Undefined) for value in part.values())
    assert isinstance(stability_index(p, np.ones(3)), Undefined)
    assert isinstance(stability_index(np.ones(3), p), Undefined)


@pytest.mark.parametrize("kind", sorted(LABELS))
def test_a_label_that_no_row_knows_has_undefined_metrics(kind: str) -> None:
    unknown = np.full(4, np.nan, np.float32)
    values = evaluate_predictions([LABELS[kind]], {"y": unknown}, {"y": np.ones(4, np.float32)}, np.arange(4))
    assert values
    assert all(text == "there is no row whose label is known" for text in measured(values).values())


@QUICK
@given(rows())
def test_the_other_metrics_agree_with_scikit_learn_and_scipy(found: Arrays) -> None:
    y, p, _ = found
    hit = (y > 0.5).astype(np.float32)
    assert own_log_loss(hit, p) == pytest.approx(log_loss(hit, p.astype(np.float64), labels=[0, 1]))
    if len(set(y.tolist())) > 1 and len(set(p.tolist())) > 1:
        assert spearman(y, p) == pytest.approx(spearmanr(y, p).statistic)
    else:
        assert isinstance(spearman(y, p), Undefined)


def test_accuracy_counts_a_tie_of_classes_as_its_share() -> None:
    y, sure = np.array([0, 1, 2], np.float32), np.array([[0.5, 0.3, 0.2], [0.1, 0.7, 0.2], [0.6, 0.1, 0.3]])
    assert accuracy(y, sure) == pytest.approx(accuracy_score(y, sure.argmax(1)))
    assert accuracy(y, np.full((3, 3), 1 / 3)) == pytest.approx(1 / 3)
    assert isinstance(accuracy(y, np.full((3, 3), np.nan)), Undefined)


def test_empty_and_one_class_groups_are_undefined_with_their_reason() -> None:
    y, p = np.array([0, 1, 1, 1], np.float32), np.array([0.2, 0.8, 0.6, 0.4], np.float32)
    one_class = measured(fairness_metrics(y, p, {"sex": np.array([0, 0, 1, 1.0])}, None))
    assert one_class["fairness.sex.auc_0"] == 1.0
    assert one_class["fairness.sex.auc_1"] == "all 2 labels are positive"
    assert one_class["fairness.sex.auc_gap"] == "group 1: all 2 labels are positive"
    assert one_class["fairness.sex.approval_gap"] == 0.0
    empty = measured(fairness_metrics(y, p, {"sex": np.zeros(4)}, None))
    assert empty["fairness.sex.approval_1"] == "there is no row whose label is known"
    bands = measured(band_metrics(y, p, DecisionSpec(bands=(0.05, 0.5))))
    assert (bands["bands.A.share"], bands["bands.A.label"]) == (0.0, "no row has a score in this band")
