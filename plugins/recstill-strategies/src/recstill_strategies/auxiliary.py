"""The auxiliary head: the teacher shapes the backbone, never the served head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from recstill_strategies.losses import masked_mean, soft_divergence

if TYPE_CHECKING:
    from recstill.api import Batch, LabelSpec, Output, Signals, StrategyContext


class _ScaleGradient(torch.autograd.Function):
    """Identity forward, gradient times `scale` backward."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.scale, None


class _AuxiliaryLoss(nn.Module):
    def __init__(self, labels: tuple[LabelSpec, ...], width: int, options: AuxiliaryHead) -> None:
        super().__init__()
        self.labels, self.options = labels, options
        self.sizes = [label.num_classes if label.kind == "multiclass" else 1 for label in labels]
        self.head = nn.Linear(width, sum(self.sizes))

    def forward(self, student: Output, teacher: Signals, batch: Batch) -> Tensor:
        backbone = _ScaleGradient.apply(student.hidden[self.options.hidden], self.options.gradient_scale)
        parts = torch.split(self.head(backbone.float()), self.sizes, 1)
        terms = []
        for label, part, size in zip(self.labels, parts, self.sizes, strict=True):
            if label.name in teacher.logits:
                logits = part.squeeze(1) if size == 1 else part
                divergence = soft_divergence(label, logits, teacher.logits[label.name], self.options.temperature)
                terms.append(label.weight * masked_mean(divergence, teacher.mask))
        return torch.stack(terms).sum()


@dataclass(frozen=True)
class AuxiliaryHead:
    """A second head, dropped at export, learns the teacher's predictions from the student's hidden vector.

    The served head is trained on labels alone, so a teacher that is off by a factor cannot make the student's
    probabilities wrong. `gradient_scale` is the factor on what flows back into the backbone.
    """

    hidden: str = "backbone"
    temperature: float = 1.0
    gradient_scale: float = 1.0

    signals: ClassVar[frozenset[str]] = frozenset({"logits"})
    calibration: ClassVar[str] = "safe"
    reference: ClassVar[str] = "Khani et al., 2024, Bridging the gap (RecSys); Liang et al., 2025, ExFM (WWW)"
    fixed_point: ClassVar[bool] = False  # the head that must agree with the teacher is another one

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, not {self.temperature}")

    def attach(self, context: StrategyContext) -> _AuxiliaryLoss:
        if self.hidden not in context.student_hidden:
            raise ValueError(f"the student has no hidden vector {self.hidden!r}; it has {sorted(context.student_hidden)}")
        return _AuxiliaryLoss(context.labels, context.student_hidden[self.hidden], self)
