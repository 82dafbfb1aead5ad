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
    """Return the mean loss of one label, a scalar.

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


def supervised_loss(labels: tuple[LabelSpec, ...], output: Output, batch: Batch) -> Tensor:
    """Return the weighted sum over the labels."""
    losses = [label.weight * label_loss(label, output.logits[label.name].float(), batch.labels[label.name]) for label in labels]
    return torch.stack(losses).sum()
