"""Full ranking against a naive loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recstill.api.measured import Undefined
from recstill.evaluation.retrieval import HeldOut, Ranks, rank_of_targets, retrieval_metrics, top_items

RANDOM = np.random.default_rng(0)
QUERIES, ITEMS = RANDOM.normal(size=(6, 3)).astype(np.float32), RANDOM.normal(size=(20, 3)).astype(np.float32)
KNOWN_PAIRS = sorted({(int(q), int(i)) for q, i in zip(RANDOM.integers(0, 6, 25), RANDOM.integers(0, 15, 25), strict=True)})
KNOWN = np.array(sorted(q * 20 + i for q, i in KNOWN_PAIRS))
PAIRS = np.array([[0, 16], [1, 17], [3, 18], [5, 19], [5, 15]])


@pytest.mark.parametrize("chunk", [1, 2, 512])
def test_the_rank_counts_unknown_items_that_score_higher_and_those_that_score_the_same(chunk: int) -> None:
    found = rank_of_targets(QUERIES, ITEMS, HeldOut(PAIRS, KNOWN), chunk)
    for place, (query, item) in enumerate(PAIRS):
        scores = QUERIES[query] @ ITEMS.T
        others = [i for i in range(20) if i != item and (query, i) not in KNOWN_PAIRS]
        assert found.above[place] == sum(scores[i] > scores[item] for i in others)
        assert found.tied[place] == sum(scores[i] == scores[item] for i in others) == 0
    assert found.is_known.all()


def test_metrics_are_means_over_queries() -> None:
    found = retrieval_metrics(ranks([0, 3, 99, 1, 60]), np.array([0, 1, 3, 5, 5]), 50)
    assert found["recall@50"] == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    ideal = 1 + 1 / math.log2(3)
    assert found["ndcg@50"] == pytest.approx((1 + 1 / math.log2(5) + 0 + (1 / math.log2(3)) / ideal) / 4)
    assert found["mrr"] == pytest.approx((1 + 1 / 4 + 1 / 100 + (1 / 2 + 1 / 61) / 2) / 4)


def ranks(above: list[int], tied: list[int] | None = None) -> Ranks:
    return Ranks(np.array(above), np.array(tied or [0] * len(above)), np.ones(len(above), bool))


def test_a_model_that_scores_everything_alike_finds_what_chance_would() -> None:
    flat = rank_of_targets(np.zeros((6, 3), np.float32), ITEMS, HeldOut(PAIRS, KNOWN))
    known = [sum(query == q for q, _ in KNOWN_PAIRS) for query, _ in PAIRS]
    chances = [5 / (20 - count) for count in known]
    expected = (chances[0] + chances[1] + chances[2] + (chances[3] + chances[4]) / 2) / 4
    assert retrieval_metrics(flat, PAIRS[:, 0], 5)["recall@5"] == pytest.approx(expected)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(above=st.integers(0, 6), tied=st.integers(0, 6), k=st.integers(1, 8))
def test_a_tied_item_counts_with_the_mean_over_the_places_it_may_have(above: int, tied: int, k: int) -> None:
    found = retrieval_metrics(ranks([above], [tied]), np.array([0]), k)
    places = range(above, above + tied + 1)
    assert found[f"recall@{k}"] == pytest.approx(np.mean([place < k for place in places]))
    assert found[f"ndcg@{k}"] == pytest.approx(np.mean([1 / math.log2(place + 2) if place < k else 0.0 for place in places]))
    assert found["mrr"] == pytest.approx(np.mean([1 / (place + 1) for place in places]))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["query", "item"])
def test_scores_that_are_no_numbers_rank_nothing(wrong: float, side: str) -> None:
    queries, items = QUERIES.copy(), ITEMS.copy()
    (queries if side == "query" else items)[3] = wrong
    found = retrieval_metrics(rank_of_targets(queries, items, HeldOut(PAIRS, KNOWN)), PAIRS[:, 0], 5)
    assert set(found) == {"recall@5", "ndcg@5", "mrr"}
    for value in found.values():
        assert isinstance(value, Undefined)
        assert "not a finite number" in value.reason


def test_nothing_held_out_is_undefined() -> None:
    nothing = rank_of_targets(QUERIES, ITEMS, HeldOut(np.zeros((0, 2), np.int64), KNOWN))
    assert all(isinstance(value, Undefined) for value in retrieval_metrics(nothing, np.zeros(0, np.int64), 5).values())


def test_the_best_items_leave_out_known_ones_and_come_in_order() -> None:
    top = top_items(QUERIES, ITEMS, KNOWN, 4, chunk=4)
    for query in range(6):
        scores = QUERIES[query] @ ITEMS.T
        allowed = sorted((i for i in range(20) if (query, i) not in KNOWN_PAIRS), key=lambda i: -scores[i])
        assert top[query].tolist() == allowed[:4]
