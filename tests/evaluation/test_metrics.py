"""Metrics against answers known by thought, or by a naive loop."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recstill.api import LabelSpec
from recstill.evaluation.metrics import (
    calibration,
    evaluate_predictions,
    expected_calibration_error,
    group_ids,
    normalised_entropy,
)
from recstill.evaluation.ranking import auc, group_auc, ndcg
from recstill.evaluation.transfer import transfer_efficiency

Y = np.array([1, 0, 1, 0, 0, 1, 0, 1], np.float32)
P = np.array([0.9, 0.8, 0.7, 0.1, 0.1, 0.1, 0.3, 0.4], np.float32)
G = np.array([0, 0, 0, 0, 1, 1, 1, 1])


def naive_auc(y: np.ndarray, p: np.ndarray) -> float:
    pairs = [(a > b) + 0.5 * (a == b) for a in p[y > 0] for b in p[y == 0]]
    return float(np.mean(pairs))


def test_auc_counts_pairs_with_ties_as_half() -> None:
    assert auc(Y, P) == pytest.approx(naive_auc(Y, P))
    assert math.isnan(auc(np.ones(3, np.float32), P[:3]))


def test_group_auc_is_the_mean_over_groups_and_ignores_groups_of_one_class() -> None:
    expected = (naive_auc(Y[:4], P[:4]) + naive_auc(Y[4:], P[4:])) / 2
    assert group_auc(Y, P, G) == pytest.approx(expected)
    more = np.r_[Y, 1, 1], np.r_[P, 0.1, 0.2], np.r_[G, 2, 2]
    assert group_auc(*more) == pytest.approx(expected)


def test_ndcg_is_one_for_the_ideal_order_and_known_for_another() -> None:
    assert ndcg(Y, Y, G) == pytest.approx(1.0)
    first = (1 + 1 / math.log2(4)) / (1 + 1 / math.log2(3))
    assert ndcg(Y[:4], P[:4], G[:4]) == pytest.approx(first)


def test_a_constant_at_the_base_rate_has_normalised_entropy_one_and_perfect_calibration() -> None:
    constant = np.full(8, 0.5, np.float32)
    assert normalised_entropy(Y, constant) == pytest.approx(1.0)
    assert calibration(Y, constant) == pytest.approx(1.0)
    assert calibration(Y, constant * 1.2) == pytest.approx(1.2)
    assert expected_calibration_error(Y, constant * 1.2, bins=1) == pytest.approx(0.1)


def test_groups_are_numbered_by_all_their_columns() -> None:
    groups = group_ids([np.array([1, 1, 2, 2]), np.array(["a", "b", "a", "a"], dtype=object)])
    assert len(set(groups.tolist())) == 3
    assert groups[2] == groups[3]


@pytest.mark.parametrize(
    ("alone", "distilled", "verdict"),
    [
        ([0.70, 0.71, 0.70], [0.75, 0.76, 0.75], "gain"),
        ([0.75, 0.76, 0.75], [0.70, 0.71, 0.70], "no gain"),
        ([0.70, 0.75, 0.72], [0.75, 0.71, 0.73], "inconclusive"),
        ([0.70], [0.75], "inconclusive (one seed)"),
    ],
)
def test_the_verdict_follows_from_the_paired_interval(alone: list[float], distilled: list[float], verdict: str) -> None:
    assert transfer_efficiency(0.8, alone, distilled).verdict == verdict


def test_transfer_efficiency_is_the_share_of_the_gap() -> None:
    assert transfer_efficiency(0.8, [0.7, 0.7], [0.75, 0.75]).efficiency == pytest.approx(0.5)
    assert math.isnan(transfer_efficiency(0.6, [0.7, 0.7], [0.75, 0.75]).efficiency)


@pytest.mark.parametrize(
    ("alone", "distilled", "seeds"),
    [
        ([0.66, 0.66], [0.6601, 0.6601], (0, 0)),
        ([0.66, 0.66], [0.6601, 0.6601], ()),
        ([0.66, 0.66], [0.6601, 0.6601], (0, 1)),
        ([0.66, 0.67, 0.68], [0.70, 0.71, 0.72], (4, 4, 4)),
    ],
)
def test_a_verdict_needs_two_different_seeds(alone: list[float], distilled: list[float], seeds: tuple[int, ...]) -> None:
    found = transfer_efficiency(0.8, alone, distilled, seeds)
    assert found.verdict == "inconclusive (the seeds are the same, or gave the same results)"
    assert found.interval is None


def test_a_seed_that_ran_twice_counts_once() -> None:
    twice = transfer_efficiency(0.8, [0.66, 0.66, 0.67], [0.70, 0.70, 0.70], (0, 0, 1))
    once = transfer_efficiency(0.8, [0.66, 0.67], [0.70, 0.70], (0, 1))
    assert twice == once


@pytest.mark.parametrize("wrong", [math.nan, math.inf, "no group has both"])
def test_the_verdict_on_an_undefined_metric_is_undefined(wrong: float | str) -> None:
    found = transfer_efficiency(0.8, [0.7, 0.71], [0.75, wrong], (0, 1))
    assert found.verdict.startswith("undefined: ")
    values = found.as_metrics(2)
    assert all(isinstance(value, str) for value, _, _ in values.values())
    teacher = transfer_efficiency(wrong, [0.7, 0.71], [0.75, 0.76], (0, 1))
    assert teacher.verdict == "gain"
    assert isinstance(teacher.as_metrics(2)["efficiency"][0], str)


def test_the_efficiency_says_why_there_is_none() -> None:
    found = transfer_efficiency(0.6, [0.7, 0.71], [0.75, 0.76], (0, 1)).as_metrics(2)
    assert "not better than the student alone" in found["efficiency"][0]


@pytest.mark.parametrize("top", [0.7, 0.72])
def test_a_seed_that_is_not_below_the_teacher_has_no_gap_to_divide_by(top: float) -> None:
    alone = [0.72, *(0.5 + place / 1000 for place in range(9))]
    found = transfer_efficiency(top, alone, [value + 0.1 for value in alone], tuple(range(10)))
    assert "leaves no gap to close" in str(found.as_metrics(10)["efficiency"][0])
    assert found.gain == pytest.approx(0.1)


def test_errors_of_amounts_that_float32_holds_are_finite_and_exact() -> None:
    label = LabelSpec(name="y", kind="regression", primary=True)
    truth, predicted = np.array([0, 1e30], np.float32), np.array([1e30, 1e30], np.float32)
    found = evaluate_predictions([label], {"y": truth}, {"y": predicted}, np.zeros(2, np.int64))
    assert found["y.rmse"] == pytest.approx(1e30 / 2**0.5)
    assert found["y.mae"] == pytest.approx(5e29)
