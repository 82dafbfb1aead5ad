"""How well scores put rows in order. Equal scores are averaged over: a metric is its mean over all orders that they allow, so
that the order of the rows never matters. Where a metric means nothing it is `Undefined`, with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

from recstill.api.measured import Undefined

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating]
    Ints = NDArray[np.int64]

NO_ROW = "there is no row whose label is known"


def why_undefined(labels: Floats, scores: Floats) -> str:
    """Return why no metric can be taken of these rows, or nothing: there are none, or some are not finite numbers."""
    if not len(labels):
        return NO_ROW
    for name, values in (("score", scores), ("label", labels)):
        if wrong := int((~np.isfinite(values)).reshape(len(values), -1).any(1).sum()):
            return f"the {name} of {wrong:,} of {len(values):,} rows is not a finite number"
    return ""


def auc(labels: Floats, scores: Floats) -> float:
    """Area under the ROC curve, ties counted half (Mann-Whitney); labels > 0 are positive."""
    if reason := why_undefined(labels, scores):
        return Undefined(reason)
    positive = labels > 0
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative:
        return Undefined(f"all {len(labels):,} labels are {'positive' if num_positive else 'negative'}")
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def group_auc(labels: Floats, scores: Floats, groups: Ints) -> float:
    """Mean AUC over groups with both classes, each weighted by its number of rows (GAUC, Zhou et al., 2018)."""
    if reason := why_undefined(labels, scores):
        return Undefined(reason)
    lists = _Lists.of(labels, scores, groups)
    positive = lists.labels > 0
    # Mean rank within the group, 1 the lowest: positions of equal scores share their average.
    rank = np.repeat(lists.sizes, lists.sizes) - np.repeat(lists.tie_places + (lists.tie_sizes - 1) / 2, lists.tie_sizes)
    positives = np.add.reduceat(positive.astype(float), lists.starts)
    rank_sum = np.add.reduceat(np.where(positive, rank, 0.0), lists.starts)
    mixed = (positives > 0) & (positives < lists.sizes)
    if not mixed.any():
        return Undefined("no group has both a positive and a negative row")
    p, n = positives[mixed], (lists.sizes - positives)[mixed]
    return float(np.average((rank_sum[mixed] - p * (p + 1) / 2) / (p * n), weights=lists.sizes[mixed]))


def ndcg(labels: Floats, scores: Floats, groups: Ints, k: int = 10) -> float:
    """Mean NDCG@k over groups with a positive label; gain is the label, discount log2 (Järvelin & Kekäläinen, 2002). Rows of
    equal scores share the mean of their gains (McSherry & Najork, 2008)."""
    if reason := why_undefined(labels, scores):
        return Undefined(reason)
    if (labels < 0).any():
        return Undefined("a label is below 0, and a gain cannot be")
    found, ideal = _discounted(labels, scores, groups, k), _discounted(labels, labels, groups, k)
    if not (ideal > 0).any():
        return Undefined("no group has a row with a label above 0")
    return float(np.mean(found[ideal > 0] / ideal[ideal > 0]))


def _discounted(labels: Floats, by: Floats, groups: Ints, k: int) -> Floats:
    lists = _Lists.of(labels, by, groups)
    discount = np.where(lists.places < k, 1 / np.log2(lists.places + 2), 0.0)
    mean_gain = np.add.reduceat(lists.labels.astype(np.float64), lists.ties) / lists.tie_sizes
    gains = mean_gain * np.add.reduceat(discount, lists.ties)
    found: Floats = np.add.reduceat(gains, np.searchsorted(lists.ties, lists.starts))
    return found


def spearman(labels: Floats, scores: Floats) -> float:
    """Correlation of the ranks, ties averaged (Spearman, 1904)."""
    if reason := why_undefined(labels, scores):
        return Undefined(reason)
    for name, values in (("labels", labels), ("scores", scores)):
        if (values == values[0]).all():
            return Undefined(f"all {name} are the same, so they have no order")
    return float(np.corrcoef(np.stack([rankdata(labels), rankdata(scores)]))[0, 1])


def reciprocal_rank(labels: Floats, scores: Floats, groups: Ints) -> float:
    """Mean over groups of 1 / the rank of the first row with the group's best label (MRR); groups of one grade are left out.

    Of t rows of one score, r of them best, that begin at rank a + 1, the first best one is expected at
    sum over j of C(t - 1 - j, r - 1) / C(t, r) / (a + j + 1), j from 0 to t - r.
    """
    if reason := why_undefined(labels, scores):
        return Undefined(reason)
    lists = _Lists.of(labels, scores, groups)
    best, worst = (pick.reduceat(lists.labels, lists.starts) for pick in (np.maximum, np.minimum))
    if not (best > worst).any():
        return Undefined("every group has rows of one grade only")
    hit = (lists.labels == np.repeat(best, lists.sizes)) & np.repeat(best > worst, lists.sizes)
    hits = np.add.reduceat(hit.astype(np.int64), lists.ties)
    with_hit = np.flatnonzero(hits)
    _, first = np.unique(np.searchsorted(lists.starts, lists.ties[with_hit], side="right"), return_index=True)
    chosen = with_hit[first]
    return float(np.mean(_first_of(lists.tie_places[chosen], lists.tie_sizes[chosen], hits[chosen])))


def _first_of(above: Ints, tied: Ints, hits: Ints) -> Floats:
    """The expected 1 / rank of the first of some hits among tied rows, below `above` others."""
    expected, chance = np.zeros(len(above)), hits / tied
    for step in range(int((tied - hits).max()) + 1):
        alive = step <= tied - hits
        expected[alive] += chance[alive] / (above[alive] + step + 1)
        left = np.maximum(tied - 1 - step, 1)
        chance = np.where(alive, chance * (tied - hits - step) / left, 0.0)
    return expected


@dataclass(frozen=True)
class _Lists:
    """Rows sorted by group, the highest score first: `starts` of the groups, `ties`, where each run of one score begins."""

    labels: Floats
    starts: Ints
    ties: Ints

    @classmethod
    def of(cls, labels: Floats, scores: Floats, groups: Ints) -> _Lists:
        # By label last: sums of tied rows then come out the same to the last bit, whatever the order of the rows.
        order = np.lexsort((labels, -scores, groups))
        group, score = groups[order], scores[order]
        is_new = np.r_[True, group[1:] != group[:-1]]
        is_other = is_new | np.r_[True, score[1:] != score[:-1]]
        return cls(labels[order], np.flatnonzero(is_new), np.flatnonzero(is_other))

    @cached_property
    def sizes(self) -> Ints:
        """The rows of each group."""
        return np.diff(np.r_[self.starts, len(self.labels)])

    @cached_property
    def tie_sizes(self) -> Ints:
        """The rows of each run of one score."""
        return np.diff(np.r_[self.ties, len(self.labels)])

    @cached_property
    def places(self) -> Ints:
        """The place of each row in its group, 0 the best."""
        return np.arange(len(self.labels)) - np.repeat(self.starts, self.sizes)

    @cached_property
    def tie_places(self) -> Ints:
        """The place of the first row of each run."""
        return self.places[self.ties]
