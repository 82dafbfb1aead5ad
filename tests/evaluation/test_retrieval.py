"""Full ranking against a naive loop."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recstill.evaluation.retrieval import HeldOut, rank_of_targets, retrieval_metrics, top_items

RANDOM = np.random.default_rng(0)
QUERIES, ITEMS = RANDOM.normal(size=(6, 3)).astype(np.float32), RANDOM.normal(size=(20, 3)).astype(np.float32)
KNOWN_PAIRS = sorted({(int(q), int(i)) for q, i in zip(RANDOM.integers(0, 6, 25), RANDOM.integers(0, 15, 25), strict=True)})
KNOWN = np.array(sorted(q * 20 + i for q, i in KNOWN_PAIRS))
PAIRS = np.array([[0, 16], [1, 17], [3, 18], [5, 19], [5, 15]])


@pytest.mark.parametrize("chunk", [1, 2, 512])
def test_the_rank_counts_unknown_items_that_score_at_least_as_high(chunk: int) -> None:
    found = rank_of_targets(QUERIES, ITEMS, HeldOut(PAIRS, KNOWN), chunk)
    for place, (query, item) in enumerate(PAIRS):
        scores = QUERIES[query] @ ITEMS.T
        others = [i for i in range(20) if i != item and (query, i) not in KNOWN_PAIRS]
        assert found[place] == sum(scores[i] >= scores[item] for i in others)


def test_metrics_are_means_over_queries() -> None:
    found = retrieval_metrics(np.array([0, 3, 99, 1, 60]), np.array([0, 1, 3, 5, 5]), 50)
    assert found["recall@50"] == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    ideal = 1 + 1 / math.log2(3)
    assert found["ndcg@50"] == pytest.approx((1 + 1 / math.log2(5) + 0 + (1 / math.log2(3)) / ideal) / 4)
    assert found["mrr"] == pytest.approx((1 + 1 / 4 + 1 / 100 + (1 / 2 + 1 / 61) / 2) / 4)


def test_a_model_that_scores_everything_alike_finds_nothing() -> None:
    flat = rank_of_targets(np.zeros((6, 3), np.float32), ITEMS, HeldOut(PAIRS, KNOWN))
    assert retrieval_metrics(flat, PAIRS[:, 0], 5)["recall@5"] == 0


def test_the_best_items_leave_out_known_ones_and_come_in_order() -> None:
    top = top_items(QUERIES, ITEMS, KNOWN, 4, chunk=4)
    for query in range(6):
        scores = QUERIES[query] @ ITEMS.T
        allowed = sorted((i for i in range(20) if (query, i) not in KNOWN_PAIRS), key=lambda i: -scores[i])
        assert top[query].tolist() == allowed[:4]
