"""Ranking and calibration metrics, as pure functions of numpy arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from recstill.api.task import LabelSpec

Floats = NDArray[np.floating]
_EPS = 1e-7


def auc(labels: Floats, scores: Floats) -> float:
    """Area under the ROC curve, ties counted half (Mann-Whitney); labels > 0 are positive. NaN for a single class."""
    positive = labels > 0
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def group_auc(labels: Floats, scores: Floats, groups: NDArray[np.int64]) -> float:
    """Mean AUC over groups with both classes, each weighted by its number of rows (GAUC, Zhou et al., 2018)."""
    order = np.lexsort((scores, groups))
    group, score, positive = groups[order], scores[order], labels[order] > 0
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    sizes = np.diff(np.r_[starts, len(group)])
    # Mean rank within the group: positions of equal scores share their average.
    run = np.flatnonzero(np.r_[True, (group[1:] != group[:-1]) | (score[1:] != score[:-1])])
    lengths = np.diff(np.r_[run, len(group)])
    rank = np.repeat(run + (lengths - 1) / 2, lengths) - np.repeat(starts, sizes) + 1
    positives = np.add.reduceat(positive.astype(float), starts)
    rank_sum = np.add.reduceat(np.where(positive, rank, 0.0), starts)
    mixed = (positives > 0) & (positives < sizes)
    if not mixed.any():
        return float("nan")
    p, n = positives[mixed], (sizes - positives)[mixed]
    return float(np.average((rank_sum[mixed] - p * (p + 1) / 2) / (p * n), weights=sizes[mixed]))


def ndcg(labels: Floats, scores: Floats, groups: NDArray[np.int64], k: int = 10) -> float:
    """Mean NDCG@k over groups with a positive label; gain is the label, discount log2 (Järvelin & Kekäläinen, 2002)."""
    found = _discounted(labels, scores, groups, k)
    ideal = _discounted(labels, labels, groups, k)
    return float(np.mean(found[ideal > 0] / ideal[ideal > 0])) if (ideal > 0).any() else float("nan")


def _discounted(labels: Floats, by: Floats, groups: NDArray[np.int64], k: int) -> Floats:
    order = np.lexsort((-by, groups))
    group = groups[order]
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    place = np.arange(len(group)) - np.repeat(starts, np.diff(np.r_[starts, len(group)]))
    gain = np.where(place < k, labels[order] / np.log2(place + 2), 0.0)
    return np.add.reduceat(gain, starts)


def spearman(labels: Floats, scores: Floats) -> float:
    """Correlation of the ranks, ties averaged (Spearman, 1904). NaN where either side is constant."""
    ranks = np.stack([rankdata(labels), rankdata(scores)])
    return float(np.corrcoef(ranks)[0, 1]) if (ranks.std(1) > 0).all() else float("nan")


def reciprocal_rank(labels: Floats, scores: Floats, groups: NDArray[np.int64]) -> float:
    """Mean over groups of 1 / the rank of the first row with the group's best label (MRR); groups of one grade are left out."""
    order = np.lexsort((-scores, groups))
    group, label = groups[order], labels[order]
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    sizes = np.diff(np.r_[starts, len(group)])
    best, worst = np.maximum.reduceat(label, starts), np.minimum.reduceat(label, starts)
    place = np.arange(len(group)) - np.repeat(starts, sizes)
    hit = np.where(label == np.repeat(best, sizes), place, len(group))
    ranks = np.minimum.reduceat(hit, starts)[best > worst] + 1.0
    return float(np.mean(1 / ranks)) if len(ranks) else float("nan")


def log_loss(labels: Floats, probabilities: Floats) -> float:
    """Mean binary cross-entropy in nats."""
    p = np.clip(probabilities.astype(np.float64), _EPS, 1 - _EPS)
    return float(-np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p)))


def normalised_entropy(labels: Floats, probabilities: Floats) -> float:
    """Log loss over the entropy of the base rate (He et al., 2014): below 1 is better than a constant."""
    base = float(np.mean(labels))
    if base in (0.0, 1.0):
        return float("nan")
    return log_loss(labels, probabilities) / -(base * np.log(base) + (1 - base) * np.log(1 - base))


def calibration(labels: Floats, predictions: Floats) -> float:
    """sum(p) / sum(y): 1 when the predictions are right on average."""
    total = float(np.sum(labels, dtype=np.float64))
    return float(np.sum(predictions, dtype=np.float64) / total) if total else float("nan")


def calibration_curve(labels: Floats, predictions: Floats, bins: int = 20) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Mean prediction, mean label and size of bins with equally many rows."""
    order = np.argsort(predictions, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    sizes = np.array([len(part) for part in parts])
    means = np.array([predictions[part].mean(dtype=np.float64) for part in parts])
    return means, np.array([labels[part].mean(dtype=np.float64) for part in parts]), sizes


def expected_calibration_error(labels: Floats, predictions: Floats, bins: int = 20) -> float:
    """Mean |prediction - label| over bins of equal size (Naeini et al., 2015)."""
    predicted, actual, sizes = calibration_curve(labels, predictions, bins)
    return float(np.average(np.abs(predicted - actual), weights=sizes))


def predictions_of(label: LabelSpec, logits: Floats) -> Floats:
    """Turn logits into what is served: probability, class probabilities (N, C), expected count, or the value."""
    if label.kind == "binary":
        return 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -60, 60)))
    if label.kind == "multiclass":
        shifted = np.exp(logits - logits.max(1, keepdims=True))
        return shifted / shifted.sum(1, keepdims=True)
    return np.exp(np.minimum(logits.astype(np.float64), 15.0)) if label.kind == "count" else logits


def evaluate_predictions(
    labels: Sequence[LabelSpec],
    truth: Mapping[str, Floats],
    predictions: Mapping[str, Floats],
    groups: NDArray[np.int64],
) -> dict[str, float]:
    """Return all metrics by `label.metric`, over the rows whose label is known (not NaN).

    For counts and numbers AUC ranks rows above zero, errors are in label units.
    """
    found: dict[str, float] = {}
    for label in labels:
        if label.name not in predictions:
            continue
        known = ~np.isnan(truth[label.name])
        if not known.any():
            continue  # only teachers speak about it
        y, p = truth[label.name][known], predictions[label.name][known]
        if label.kind == "multiclass":
            found[f"{label.name}.accuracy"] = float(np.mean(p.argmax(1) == y))
            continue
        if label.graded:
            values = {
                "spearman": spearman(y, p),
                "ndcg@10": ndcg(y, p, groups[known]),
                "mrr": reciprocal_rank(y, p, groups[known]),
            }
            values |= {"calibration": calibration(y, p), "rmse": float(np.sqrt(np.mean((p - y) ** 2)))}
            found |= {f"{label.name}.{name}": value for name, value in values.items()}
            continue
        values = {"auc": auc(y, p), "gauc": group_auc(y, p, groups[known]), "ndcg@10": ndcg(y, p, groups[known])}
        values |= {"calibration": calibration(y, p), "ece": expected_calibration_error(y, p)}
        if label.kind == "binary":
            values |= {"logloss": log_loss(y, p), "ne": normalised_entropy(y, p)}
        else:
            values |= {"rmse": float(np.sqrt(np.mean((p - y) ** 2))), "mae": float(np.mean(np.abs(p - y)))}
        found |= {f"{label.name}.{name}": value for name, value in values.items()}
    return found


def group_ids(columns: Sequence[NDArray[np.generic]]) -> NDArray[np.int64]:
    """Number the distinct combinations of the group columns."""
    groups = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        _, codes = np.unique(column, return_inverse=True)
        groups = groups * (int(codes.max(initial=0)) + 1) + codes
    return groups
