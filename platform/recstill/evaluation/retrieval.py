"""Full ranking: every query against the whole catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from recstill.api.measured import Undefined

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recstill.evaluation.metrics import Floats


@dataclass(frozen=True)
class HeldOut:
    """What retrieval is judged on: pairs (N, 2) of a query and the item it should find; known: row ids (query * items +
    item), sorted, that are left out of the ranking since the query had them before."""

    pairs: NDArray[np.int64]
    known: NDArray[np.int64]


@dataclass(frozen=True)
class Ranks:
    """Where each held-out item stands: (N,) items above it, and others of its own score. An item whose query has a score that
    is not a finite number stands nowhere: `is_known` is false."""

    above: NDArray[np.int64]
    tied: NDArray[np.int64]
    is_known: NDArray[np.bool_]


def rank_of_targets(queries: Floats, items: Floats, held_out: HeldOut, chunk: int = 512) -> Ranks:
    """Rank each held-out item among all items that its query does not know.

    queries (Q, d), items (I, d): a score is a dot product.
    """
    above, tied = (np.empty(len(held_out.pairs), np.int64) for _ in range(2))
    is_known = np.empty(len(held_out.pairs), np.bool_)
    known_query, known_item = np.divmod(held_out.known, len(items))
    starts = np.searchsorted(known_query, np.arange(len(queries) + 1))
    for start in range(0, len(held_out.pairs), chunk):
        here = slice(start, start + chunk)
        query, item = held_out.pairs[here].T
        scores = queries[query] @ items.T
        target = scores[np.arange(len(query)), item][:, None].copy()
        is_known[here] = np.isfinite(scores).all(1)
        sizes = starts[query + 1] - starts[query]
        rows = np.repeat(np.arange(len(query)), sizes)
        columns = known_item[np.repeat(starts[query] - np.r_[0, np.cumsum(sizes)[:-1]], sizes) + np.arange(sizes.sum())]
        scores[rows, columns] = -np.inf
        scores[np.arange(len(query)), item] = -np.inf  # the item itself is neither above itself nor beside
        above[here], tied[here] = (scores > target).sum(1), (scores == target).sum(1)
    return Ranks(above, tied, is_known)


def retrieval_metrics(ranks: Ranks, queries: NDArray[np.int64], k: int) -> dict[str, float]:
    """Return recall@k (mean over queries of the share of their items found), ndcg@k and mrr of the ranks of held-out items.

    With one held-out item a query, recall@k is the hit rate and ndcg@k is 1 / log2(rank + 2) where it is found. An item that
    t others tie with stands at each of t + 1 places with the same chance: its part is the mean over them. All are `Undefined`
    where a score is not a finite number, or nothing is held out.
    """
    if reason := _why_undefined(ranks):
        return dict.fromkeys((f"recall@{k}", f"ndcg@{k}", "mrr"), Undefined(reason))
    _, place, counts = np.unique(queries, return_inverse=True, return_counts=True)
    last = ranks.above + ranks.tied + 1
    found = np.clip(k - ranks.above, 0, ranks.tied + 1) / (ranks.tied + 1)
    discounts = 1 / np.log2(np.arange(k) + 2)
    ideal = np.array([discounts[:count].sum() for count in np.minimum(counts, k)])
    gain = _mean_between(discounts, np.minimum(ranks.above, k), np.minimum(last, k), ranks.tied + 1)
    reciprocal = _mean_between(1 / (np.arange(last.max()) + 1.0), ranks.above, last, ranks.tied + 1)

    def per_query(values: Floats) -> Any:
        return np.bincount(place, values, len(counts))

    return {
        f"recall@{k}": float(np.mean(per_query(found) / counts)),
        f"ndcg@{k}": float(np.mean(per_query(gain) / ideal)),
        "mrr": float(np.mean(per_query(reciprocal) / counts)),
    }


def _why_undefined(ranks: Ranks) -> str:
    if not len(ranks.is_known):
        return "nothing is held out"
    wrong = int((~ranks.is_known).sum())
    return f"{wrong:,} of {len(ranks.is_known):,} held-out items have a score that is not a finite number" if wrong else ""


def _mean_between(values: Floats, start: NDArray[np.int64], stop: NDArray[np.int64], count: NDArray[np.int64]) -> Floats:
    """The sum of values[start:stop] over `count`, for each pair of ends."""
    totals = np.r_[0.0, np.cumsum(values)]
    single = values[np.minimum(start, len(values) - 1)] * (stop > start)  # exact where there is one: no sums to subtract
    return np.where(stop - start <= 1, single, totals[stop] - totals[start]) / count


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
