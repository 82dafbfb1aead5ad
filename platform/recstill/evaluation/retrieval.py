"""Full ranking: every query against the whole catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recstill.evaluation.metrics import Floats


@dataclass(frozen=True)
class HeldOut:
    """What retrieval is judged on: pairs (N, 2) of a query and the item it should find; known: row ids (query * items +
    item), sorted, that are left out of the ranking since the query had them before."""

    pairs: NDArray[np.int64]
    known: NDArray[np.int64]


def rank_of_targets(queries: Floats, items: Floats, held_out: HeldOut, chunk: int = 512) -> NDArray[np.int64]:
    """Return the rank (0 is best) of each held-out item among all items that its query does not know, ties counted against.

    queries (Q, d), items (I, d): a score is a dot product.
    """
    ranks = np.empty(len(held_out.pairs), np.int64)
    known_query, known_item = np.divmod(held_out.known, len(items))
    starts = np.searchsorted(known_query, np.arange(len(queries) + 1))
    for start in range(0, len(held_out.pairs), chunk):
        query, item = held_out.pairs[start : start + chunk].T
        scores = queries[query] @ items.T
        target = scores[np.arange(len(query)), item].copy()
        sizes = starts[query + 1] - starts[query]
        rows = np.repeat(np.arange(len(query)), sizes)
        columns = known_item[np.repeat(starts[query] - np.r_[0, np.cumsum(sizes)[:-1]], sizes) + np.arange(sizes.sum())]
        scores[rows, columns] = -np.inf
        scores[np.arange(len(query)), item] = -np.inf  # the item itself is not above itself
        ranks[start : start + chunk] = (scores >= target[:, None]).sum(1)
    return ranks


def retrieval_metrics(ranks: NDArray[np.int64], queries: NDArray[np.int64], k: int) -> dict[str, float]:
    """Return recall@k (mean over queries of the share of their items found), ndcg@k and mrr of the ranks of held-out items.

    With one held-out item a query, recall@k is the hit rate and ndcg@k is 1 / log2(rank + 2) where it is found.
    """
    _, place, counts = np.unique(queries, return_inverse=True, return_counts=True)

    def per_query(values: Floats) -> Any:
        return np.bincount(place, values, len(counts))

    found = (ranks < k).astype(np.float64)
    ideal = np.array([np.sum(1 / np.log2(np.arange(min(count, k)) + 2)) for count in counts])
    gain = np.where(ranks < k, 1 / np.log2(ranks + 2), 0.0)
    return {
        f"recall@{k}": float(np.mean(per_query(found) / counts)),
        f"ndcg@{k}": float(np.mean(per_query(gain) / ideal)),
        "mrr": float(np.mean(per_query(1 / (ranks + 1.0)) / counts)),
    }


def top_items(queries: Floats, items: Floats, known: NDArray[np.int64], k: int, chunk: int = 512) -> NDArray[np.int32]:
    """Return (Q, k): the best items of each query, best first, without those it knows (sorted row ids)."""
    top = np.empty((len(queries), k), np.int32)
    known_query, known_item = np.divmod(known, len(items))
    for start in range(0, len(queries), chunk):
        scores = queries[start : start + chunk] @ items.T
        here = slice(*np.searchsorted(known_query, [start, start + len(scores)]))
        scores[known_query[here] - start, known_item[here]] = -np.inf
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1, kind="stable")
        top[start : start + chunk] = np.take_along_axis(best, order, 1)
    return top
