"""Strategies over several labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise, permutations
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from recstill_strategies.checks import above_zero, not_below, within
from recstill_strategies.grouping import nothing
from recstill_strategies.losses import masked_mean, soft_divergence

if TYPE_CHECKING:
    from collections.abc import Callable

    from recstill.api import Batch, LabelSpec, Output, Signals, StrategyContext


@dataclass(frozen=True)
class MultiTask:
    """Soft targets with a weight and a temperature per label. A label that only one side has is left out, and so is a row
    whose teacher logit is NaN: the label was outside of what that teacher knows.

    weights: {label: weight}, temperatures: {label: T}; a label that is not named has weight 1 and temperature 1.
    outside: weight of rows whose own label is not known (outside of the label's space); 1 treats all rows alike.
    """

    weights: dict[str, float] = field(default_factory=dict)
    temperatures: dict[str, float] = field(default_factory=dict)
    outside: float = 1.0

    signals: ClassVar[frozenset[str]] = frozenset({"logits"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "as-teacher"
    reference: ClassVar[str] = "Hinton et al., 2015, per label; Ma et al., 2018, ESMM (label spaces)"
    fixed_point: ClassVar[bool] = True

    def __post_init__(self) -> None:
        above_zero(**{f"temperatures.{name}": value for name, value in self.temperatures.items()})
        not_below(0, outside=self.outside, **{f"weights.{name}": value for name, value in self.weights.items()})

    def attach(self, context: StrategyContext) -> Callable[[Output, Signals, Batch], Tensor]:
        names = {label.name for label in context.labels}
        if unknown := (set(self.weights) | set(self.temperatures)) - names:
            raise ValueError(
                f"weights or temperatures name {', '.join(sorted(unknown))}; the labels are {', '.join(sorted(names))}"
            )

        def loss(student: Output, teacher: Signals, batch: Batch) -> Tensor:
            total = nothing(student)
            for label in context.labels:
                weight = label.weight * self.weights.get(label.name, 1.0)
                if label.name not in student.logits or label.name not in teacher.logits or not weight:
                    continue
                z_t = teacher.logits[label.name].detach().float()
                bad = torch.isnan(z_t).flatten(1).any(1) if z_t.dim() > 1 else torch.isnan(z_t)
                unknown = torch.isnan(batch.labels[label.name]) if label.name in batch.labels else torch.zeros_like(bad)
                mask = teacher.mask * (~bad).float() * torch.where(unknown, self.outside, 1.0)
                rows = soft_divergence(
                    label, student.logits[label.name], torch.nan_to_num(z_t), self.temperatures.get(label.name, 1.0)
                )
                total = total + weight * masked_mean(rows, mask)
            return total

        return loss


class _CrossLoss(nn.Module):
    """Teachers of every binary label read the teacher's logits of all of them, learn the order that the labels together
    imply, are calibrated, and teach."""

    def __init__(self, labels: list[LabelSpec], options: CrossDistil, context: StrategyContext) -> None:
        super().__init__()
        self.labels, self.options, self.context = labels, options, context
        count = len(labels)
        self.cross = nn.Linear(count, count, bias=False)
        with torch.no_grad():
            self.cross.weight.copy_(torch.eye(count))
        self.scale, self.shift = nn.Parameter(torch.ones(count)), nn.Parameter(torch.zeros(count))

    def forward(self, student: Output, teacher: Signals, batch: Batch) -> Tensor:
        read = torch.stack([teacher.logits[label.name].detach().float().clamp(-15, 15) for label in self.labels], 1)
        labels = torch.stack([batch.labels[label.name] for label in self.labels], 1)
        known = (~torch.isnan(labels)).all(1) & (teacher.mask > 0)
        labels = torch.nan_to_num(labels)
        ranked = self.cross(read)
        # Platt scaling on what ranking learned: its gradient must not flow back into the ranking.
        calibrated = ranked.detach() * self.scale + self.shift
        keep = known.float()
        total = nothing(student)
        ramp = min(self.context.progress() / self.options.warm_up, 1.0) if self.options.warm_up else 1.0
        for place, label in enumerate(self.labels):
            fit = F.binary_cross_entropy_with_logits(calibrated[:, place], labels[:, place], reduction="none")
            target = torch.sigmoid(calibrated[:, place].detach())
            corrected = (1 - self.options.correction) * target + self.options.correction * labels[:, place]
            corrected = torch.where(known, corrected, target)
            follow = F.binary_cross_entropy_with_logits(student.logits[label.name].float(), corrected, reduction="none")
            total = total + masked_mean(fit, keep) + ramp * label.weight * masked_mean(follow, teacher.mask)
        for own, other in permutations(range(len(self.labels)), 2):
            order = self._quadruplet(ranked[:, own], labels[:, own], labels[:, other], known)
            total = total + self.options.ranking * order
        return total

    def _quadruplet(self, scores: Tensor, own: Tensor, other: Tensor, known: Tensor) -> Tensor:
        """-log sigma of score differences between the classes ++ > +- > -+ > --, by each class's mean score."""
        classes = [(own > 0) & (other > 0), (own > 0) & (other <= 0), (own <= 0) & (other > 0), (own <= 0) & (other <= 0)]
        means = [torch.where(c & known, scores, 0.0).sum() / (c & known).sum() for c in classes if bool((c & known).any())]
        if len(means) < 2:
            return scores.sum() * 0.0
        return torch.stack([-F.logsigmoid(better - worse) for better, worse in pairwise(means)]).mean()


@dataclass(frozen=True)
class CrossDistil:
    """Cross-task distillation: each label's teacher also learns the order that the other labels imply (bought at a discount
    above bought above neither), is Platt-calibrated, error-corrected with the label, t* = (1 - l) t + l y, and teaches.

    The quadruplet order is taken between class means instead of sampled quadruplets, which is its expectation to first order.
    """

    correction: float = 0.3
    ranking: float = 0.1
    warm_up: float = 0.2

    signals: ClassVar[frozenset[str]] = frozenset({"logits"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "as-teacher"
    reference: ClassVar[str] = "Yang et al., 2022, Cross-task knowledge distillation in multi-task recommendation (AAAI)"
    fixed_point: ClassVar[bool] = False

    def __post_init__(self) -> None:
        within(0, 1, correction=self.correction, warm_up=self.warm_up)
        not_below(0, ranking=self.ranking)

    def attach(self, context: StrategyContext) -> _CrossLoss:
        labels = [label for label in context.labels if label.kind == "binary"]
        if not labels:
            raise ValueError("cross-distil needs binary labels")
        return _CrossLoss(labels, self, context)
