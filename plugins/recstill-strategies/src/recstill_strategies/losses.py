"""Divergences between a student's and a teacher's logits, one value per row; zero where they agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

if TYPE_CHECKING:
    from recstill.api import LabelSpec


def masked_mean(losses: Tensor, mask: Tensor) -> Tensor:
    """Mean over the rows that the mask keeps; zero, not NaN, when it keeps none."""
    return torch.where(mask > 0, losses, 0.0).sum() / mask.sum().clamp(min=1.0)


def soft_divergence(label: LabelSpec, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return (B,): T² KL(teacher || student) of softened predictions, in float32.

    binary: KL of two Bernoullis, whose gradient is T (sigma(z_s/T) - sigma(z_t/T)); multiclass: KL of the softmaxes, summed
    over classes (Hinton et al., 2015). The factor T² keeps the gradient's scale when T changes. count: KL of two Poissons,
    with gradient exp(z_s) - exp(z_t); regression: half the squared difference; both know no temperature.
    """
    z_s, z_t, t = student.float(), teacher.detach().float(), temperature
    if label.kind == "binary":
        p_t = torch.sigmoid(z_t / t)
        cross = F.binary_cross_entropy_with_logits(z_s / t, p_t, reduction="none")
        return t**2 * (cross - F.binary_cross_entropy_with_logits(z_t / t, p_t, reduction="none"))
    if label.kind == "multiclass":
        log_t, log_s = F.log_softmax(z_t / t, 1), F.log_softmax(z_s / t, 1)
        return t**2 * (log_t.exp() * (log_t - log_s)).sum(1)
    if label.kind == "count":
        z_s, z_t = z_s.clamp(max=15.0), z_t.clamp(min=-30.0, max=15.0)
        mean = z_t.exp()
        return mean * (z_t - z_s) - mean + z_s.exp()
    return 0.5 * (z_s - z_t) ** 2


def hard_divergence(label: LabelSpec, student: Tensor, teacher: Tensor) -> Tensor:
    """Return (B,): cross-entropy against the teacher's decision, its more likely class."""
    if label.kind == "binary":
        return F.binary_cross_entropy_with_logits(student.float(), (teacher.detach() > 0).float(), reduction="none")
    return F.cross_entropy(student.float(), teacher.detach().argmax(1), reduction="none")
