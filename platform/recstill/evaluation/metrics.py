"""Metrics of probabilities and amounts, as pure functions of numpy arrays, and all metrics of a label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recstill.api.measured import Undefined
from recstill.data.columns import codes_of
from recstill.evaluation.ranking import auc, group_auc, ndcg, reciprocal_rank, spearman, why_undefined

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from recstill.api.task import LabelSpec
    from recstill.data.columns import Typed

Floats = NDArray[np.floating]
_EPS = 1e-7


def log_loss(labels: Floats, probabilities: Floats) -> float:
    """Mean binary cross-entropy in nats."""
    if reason := why_undefined(labels, probabilities):
        return Undefined(reason)
    if labels.min() < 0 or labels.max() > 1:
        return Undefined("a label lies outside of 0 to 1")
    p = np.clip(probabilities.astype(np.float64), _EPS, 1 - _EPS)
    return float(-np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p)))


def normalised_entropy(labels: Floats, probabilities: Floats) -> float:
    """Log loss over the entropy of the base rate (He et al., 2014): below 1 is better than a constant."""
    loss = log_loss(labels, probabilities)
    if isinstance(loss, Undefined):
        return loss
    base = float(np.mean(labels))
    if base in (0.0, 1.0):
        return Undefined(f"all {len(labels):,} labels are {base:g}, so their entropy is 0")
    return loss / -(base * np.log(base) + (1 - base) * np.log(1 - base))


def calibration(labels: Floats, predictions: Floats) -> float:
    """sum(p) / sum(y): 1 when the predictions are right on average."""
    if reason := why_undefined(labels, predictions):
        return Undefined(reason)
    total = float(np.sum(labels, dtype=np.float64))
    return float(np.sum(predictions, dtype=np.float64) / total) if total else Undefined("the labels add up to 0")


def calibration_curve(labels: Floats, predictions: Floats, bins: int = 20) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Mean prediction, mean label and size of bins with equally many rows, all of them finite. Rows of one prediction count
    with their mean label, so that it does not matter which of them falls into which bin."""
    order = np.argsort(predictions, kind="stable")
    predicted, label = predictions[order], labels[order].astype(np.float64)
    ties = np.flatnonzero(np.r_[True, predicted[1:] != predicted[:-1]])
    if 0 < len(ties) < len(order):
        sizes = np.diff(np.r_[ties, len(order)])
        label = np.repeat(np.add.reduceat(label, ties) / sizes, sizes)
    parts = [part for part in np.array_split(np.arange(len(order)), bins) if len(part)]
    means = np.array([predicted[part].mean(dtype=np.float64) for part in parts])
    return means, np.array([label[part].mean() for part in parts]), np.array([len(part) for part in parts])


def expected_calibration_error(labels: Floats, predictions: Floats, bins: int = 20) -> float:
    """Mean |prediction - label| over bins of equal size (Naeini et al., 2015)."""
    if reason := why_undefined(labels, predictions):
        return Undefined(reason)
    predicted, actual, sizes = calibration_curve(labels, predictions, bins)
    return float(np.average(np.abs(predicted - actual), weights=sizes))


def mean_error(labels: Floats, predictions: Floats, power: int) -> float:
    """Mean |prediction - label| for power 1, its root mean square for power 2."""
    if reason := why_undefined(labels, predictions):
        return Undefined(reason)
    errors = np.abs(predictions.astype(np.float64) - labels)  # amounts of 1e20 have squares that float32 cannot hold
    return float(np.mean(errors**power) ** (1 / power))


def accuracy(labels: Floats, probabilities: Floats) -> float:
    """Share of rows whose class has the highest of their probabilities (N, C); one of several highest counts as its share."""
    if reason := why_undefined(labels, probabilities):
        return Undefined(reason)
    highest = probabilities == probabilities.max(1, keepdims=True)
    hit = highest & (labels[:, None] == np.arange(probabilities.shape[1]))
    return float(np.mean(hit.any(1) / highest.sum(1)))


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
    """Return all metrics by `label.metric`, over the rows whose label is known (not NaN); `Undefined` where one means nothing.

    For counts and numbers AUC ranks rows above zero, errors are in label units.
    """
    found: dict[str, float] = {}
    for label in labels:
        if label.name not in predictions:
            continue
        known = ~np.isnan(truth[label.name])
        y, p = truth[label.name][known], predictions[label.name][known]
        values = _metrics_of(label, y, p, groups[known])
        found |= {f"{label.name}.{name}": value for name, value in values.items()}
    return found


def _metrics_of(label: LabelSpec, y: Floats, p: Floats, groups: NDArray[np.int64]) -> dict[str, float]:
    if label.kind == "multiclass":
        return {"accuracy": accuracy(y, p)}
    if label.graded:
        ranks = {"spearman": spearman(y, p), "ndcg@10": ndcg(y, p, groups), "mrr": reciprocal_rank(y, p, groups)}
        return {**ranks, "calibration": calibration(y, p), "rmse": mean_error(y, p, 2)}
    values = {"auc": auc(y, p), "gauc": group_auc(y, p, groups), "ndcg@10": ndcg(y, p, groups)}
    values |= {"calibration": calibration(y, p), "ece": expected_calibration_error(y, p)}
    if label.kind == "binary":
        return {**values, "logloss": log_loss(y, p), "ne": normalised_entropy(y, p)}
    return {**values, "rmse": mean_error(y, p, 2), "mae": mean_error(y, p, 1)}


def group_ids(columns: Sequence[Typed | NDArray[np.generic]]) -> NDArray[np.int64]:
    """Number the distinct combinations of the group columns from 0, in their order, without numbers that nobody has."""
    groups = codes_of(columns[0])
    for column in columns[1:]:
        codes = codes_of(column)
        groups = codes_of(groups * (int(codes.max(initial=0)) + 1) + codes)
    return groups
