"""The loss of the labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

if TYPE_CHECKING:
    from recstill.api.batch import Batch, Output
    from recstill.api.task import LabelSpec


def label_loss(label: LabelSpec, logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean loss of one label over rows whose label is known, a scalar.

    binary: cross-entropy; multiclass: softmax cross-entropy; count: Poisson deviance with a log link, whose optimum keeps
    sum(exp(z)) = sum(y) (McCullagh & Nelder, 1989); regression: squared error. Count logits are clamped at 15, so that one
    wild step cannot overflow exp.
    """
    if label.kind == "binary":
        return F.binary_cross_entropy_with_logits(logits, target)
    if label.kind == "multiclass":
        return F.cross_entropy(logits, target.long())
    if label.kind == "count":
        return F.poisson_nll_loss(logits.clamp(max=15.0), target, log_input=True)
    return F.mse_loss(logits, target)


def ranking_loss(logits: Tensor, target: Tensor, groups: Tensor) -> Tensor:
    """Return the mean over pairs of a positive and a negative of one list of -log sigmoid(z+ - z-), a scalar (BPR, Rendle et
    al., 2009). A list has one positive, which comes first, and the same number of negatives as every other."""
    size = int((groups == groups[0]).sum())
    scores = logits.view(-1, size)
    if not bool((target.view(-1, size)[:, 0] > 0).all()):
        raise ValueError("a ranking label needs lists whose first row is the positive")
    return -F.logsigmoid(scores[:, :1] - scores[:, 1:]).mean()


def label_terms(labels: tuple[LabelSpec, ...], output: Output, batch: Batch) -> dict[str, Tensor]:
    """Return the weighted loss of each label that a row of the batch knows, by its name, each a scalar."""
    terms = {}
    for label in labels:
        logits, target = output.logits[label.name].float(), batch.labels[label.name]
        known = ~torch.isnan(target)
        groups = batch.groups
        if not bool(known.all()):
            if not bool(known.any()):
                continue
            logits, target, groups = logits[known], target[known], None if groups is None else groups[known]
        if label.kind == "ranking":
            assert groups is not None
            terms[label.name] = label.weight * ranking_loss(logits, target, groups)
        else:
            terms[label.name] = label.weight * label_loss(label, logits, target)
    return terms


def supervised_loss(labels: tuple[LabelSpec, ...], output: Output, batch: Batch) -> Tensor:
    """Return the weighted sum over the labels; rows whose label is NaN take no part in it."""
    terms = label_terms(labels, output, batch)
    return torch.stack(list(terms.values())).sum() if terms else next(iter(output.logits.values())).sum() * 0.0
