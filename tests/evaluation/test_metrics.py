"""Metrics against answers known by thought, or by a naive loop."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recstill.evaluation.metrics import (
    auc,
    calibration,
    expected_calibration_error,
    group_auc,
    group_ids,
    ndcg,
    normalised_entropy,
)
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
