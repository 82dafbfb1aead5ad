"""Divergences between a student's and a teacher's logits, one value per row; zero where they agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

if TYPE_CHECKING:
    from recstill.api import LabelSpec

LossName = Literal["auto", "kl", "ce", "bce", "l1", "l2"]
_FITTING: dict[str, tuple[str, ...]] = {
    "binary": ("kl", "ce", "bce", "l1", "l2"),
    "multiclass": ("kl", "ce", "l1", "l2"),
    "count": ("kl", "l1", "l2"),
    "regression": ("l1", "l2"),
    "ranking": ("l1", "l2"),
}


def fitting_loss(labels: tuple[LabelSpec, ...], loss: LossName) -> dict[str, LossName]:
    """Return the loss of each label: the named one where it fits the label's kind, else the kind's own.

    Raise ValueError if it fits no label.
    """
    fits = {label.name: loss in _FITTING[label.kind] for label in labels}
    if loss != "auto" and not any(fits.values()):
        known = sorted({name for label in labels for name in _FITTING[label.kind]})
        raise ValueError(f"loss {loss!r} fits none of the labels: use auto, {', '.join(known)}")
    return {name: loss if fit else "auto" for name, fit in fits.items()}


def masked_mean(losses: Tensor, mask: Tensor) -> Tensor:
    """Mean over the rows that the mask keeps; zero, not NaN, when it keeps none. A mask may weigh rows."""
    return torch.where(mask > 0, losses * mask, 0.0).sum() / mask.sum().clamp(min=1e-12)


def soft_divergence(label: LabelSpec, student: Tensor, teacher: Tensor, temperature: float, loss: LossName = "auto") -> Tensor:
    """Return (B,): the divergence of softened predictions in float32, KL times T² unless another loss is named.

    binary: KL of two Bernoullis, whose gradient is T (sigma(z_s/T) - sigma(z_t/T)); multiclass: KL of the softmaxes, summed
    over classes (Hinton et al., 2015). The factor T² keeps the gradient's scale when T changes. count: KL of two Poissons,
    with gradient exp(z_s) - exp(z_t); regression, ranking: half the squared difference; these know no temperature.
    `ce` and `bce` are the cross-entropy, which differs from KL by the teacher's own entropy; `l1` and `l2` are the absolute
    and half the squared difference of the raw logits, summed over classes.
    """
    z_s, z_t, t = student.float(), teacher.detach().float(), temperature
    if loss in ("l1", "l2") or (loss == "auto" and label.kind in ("regression", "ranking")):
        difference = z_s - z_t if z_s.dim() == 1 else (z_s - z_t).flatten(1)
        values = difference.abs() if loss == "l1" else 0.5 * difference**2
        return values if values.dim() == 1 else values.sum(1)
    own = loss in ("ce", "bce")  # keep the teacher's entropy in
    if label.kind == "binary":
        p_t = torch.sigmoid(z_t / t)
        cross = F.binary_cross_entropy_with_logits(z_s / t, p_t, reduction="none")
        entropy = 0.0 if own else F.binary_cross_entropy_with_logits(z_t / t, p_t, reduction="none")
        return t**2 * (cross - entropy)
    if label.kind == "multiclass":
        log_t, log_s = F.log_softmax(z_t / t, 1), F.log_softmax(z_s / t, 1)
        return t**2 * (log_t.exp() * ((0.0 if own else log_t) - log_s)).sum(1)
    z_s, z_t = z_s.clamp(max=15.0), z_t.clamp(min=-30.0, max=15.0)
    mean = z_t.exp()
    return mean * (z_t - z_s) - mean + z_s.exp()


def hard_divergence(label: LabelSpec, student: Tensor, teacher: Tensor) -> Tensor:
    """Return (B,): cross-entropy against the teacher's decision, its more likely class."""
    if label.kind == "binary":
        return F.binary_cross_entropy_with_logits(student.float(), (teacher.detach() > 0).float(), reduction="none")
    return F.cross_entropy(student.float(), teacher.detach().argmax(1), reduction="none")
