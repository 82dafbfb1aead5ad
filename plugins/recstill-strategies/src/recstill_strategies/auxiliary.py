"""Strategies that never touch the served head: the teacher shapes the backbone through parts that are dropped at export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from recstill_strategies.checks import above_zero, known_width
from recstill_strategies.grouping import nothing
from recstill_strategies.losses import masked_mean, soft_divergence

if TYPE_CHECKING:
    from collections.abc import Sequence

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


class _Tower(nn.Module):
    """Layers and one linear head for all labels. forward: (B, width) -> {label: logits}."""

    def __init__(self, labels: Sequence[LabelSpec], width: int, hidden: Sequence[int] = ()) -> None:
        super().__init__()
        self.sizes = {label.name: label.num_classes if label.kind == "multiclass" else 1 for label in labels}
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [nn.Linear(width, size), nn.ReLU()]
            width = size
        self.layers = nn.Sequential(*layers, nn.Linear(width, sum(self.sizes.values())))

    def forward(self, hidden: Tensor) -> dict[str, Tensor]:
        parts = torch.split(self.layers(hidden.float()), list(self.sizes.values()), 1)
        return {n: part.squeeze(1) if size == 1 else part for (n, size), part in zip(self.sizes.items(), parts, strict=True)}


class _AuxiliaryLoss(nn.Module):
    def __init__(self, labels: tuple[LabelSpec, ...], width: int, options: AuxiliaryHead | DecoupledTowers) -> None:
        super().__init__()
        self.labels, self.options = labels, options
        self.tower = _Tower(labels, width, getattr(options, "tower", ()))

    def forward(self, student: Output, teacher: Signals, batch: Batch) -> Tensor:
        backbone = _ScaleGradient.apply(student.hidden[self.options.hidden], self.options.gradient_scale)
        terms = [nothing(student)]
        for label, logits in zip(self.labels, self.tower(backbone).values(), strict=True):
            if label.name in teacher.logits:
                divergence = self.options.divergence(label, logits, teacher.logits[label.name])
                terms.append(label.weight * masked_mean(divergence, teacher.mask))
            if isinstance(self.options, DecoupledTowers) and label.kind == "binary":
                target = batch.labels[label.name]
                known = (~torch.isnan(target)).float() * teacher.mask
                losses = F.binary_cross_entropy_with_logits(logits, torch.nan_to_num(target), reduction="none")
                terms.append(label.weight * self.options.label_weight * masked_mean(losses, known))
        return torch.stack(terms).sum()


@dataclass(frozen=True)
class AuxiliaryHead:
    """A second head, dropped at export, learns the teacher's predictions from the student's hidden vector.

    The served head is trained on labels alone, so a teacher that is off by a factor cannot make the student's
    probabilities wrong. `gradient_scale` is the factor on what flows back into the backbone; `label_scale` multiplies the
    teacher's probability, min(1, label_scale p_t), which keeps rare labels from vanishing.
    """

    hidden: str = "backbone"
    temperature: float = 1.0
    gradient_scale: float = 1.0
    label_scale: float = 1.0

    signals: ClassVar[frozenset[str]] = frozenset({"logits"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "safe"
    reference: ClassVar[str] = "Khani et al., 2024, Bridging the gap (RecSys); Liang et al., 2025, ExFM (WWW)"
    fixed_point: ClassVar[bool] = False  # the head that must agree with the teacher is another one

    def __post_init__(self) -> None:
        above_zero(temperature=self.temperature, label_scale=self.label_scale)

    def divergence(self, label: LabelSpec, logits: Tensor, teacher: Tensor) -> Tensor:
        """Return (B,): the soft divergence to the teacher, whose probability may be scaled."""
        if label.kind == "binary" and self.label_scale != 1.0:
            scaled = (self.label_scale * torch.sigmoid(teacher.detach().float() / self.temperature)).clamp(1e-6, 1 - 1e-6)
            teacher = torch.logit(scaled) * self.temperature
        return soft_divergence(label, logits, teacher, self.temperature)

    def attach(self, context: StrategyContext) -> _AuxiliaryLoss:
        return _AuxiliaryLoss(context.labels, known_width(context.student_hidden, self.hidden, "student"), self)


@dataclass(frozen=True)
class DecoupledTowers:
    """A second tower beside the served one learns labels and teacher from the shared backbone; the served one only labels.

    A teacher feed that stalls (all rows masked) leaves the served tower's own parameters as they would be without it.
    """

    hidden: str = "backbone"
    tower: tuple[int, ...] = (32,)
    temperature: float = 1.0
    label_weight: float = 1.0
    gradient_scale: float = 1.0

    signals: ClassVar[frozenset[str]] = frozenset({"logits"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "safe"
    reference: ClassVar[str] = "ByteDance, 2026, Rec-Distill (decoupled towers)"
    fixed_point: ClassVar[bool] = False

    def __post_init__(self) -> None:
        above_zero(temperature=self.temperature)

    def divergence(self, label: LabelSpec, logits: Tensor, teacher: Tensor) -> Tensor:
        """Return (B,): the soft divergence to the teacher."""
        return soft_divergence(label, logits, teacher, self.temperature)

    def attach(self, context: StrategyContext) -> _AuxiliaryLoss:
        return _AuxiliaryLoss(context.labels, known_width(context.student_hidden, self.hidden, "student"), self)


class _AdapterLoss(nn.Module):
    def __init__(self, labels: Sequence[LabelSpec], width: int, options: StudentAdapter) -> None:
        super().__init__()
        self.labels, self.options = list(labels), options
        self.tower = _Tower(labels, width)
        size = options.size
        self.adapters = nn.ModuleDict(
            {label.name: nn.Sequential(nn.Linear(1, size), nn.ReLU(), nn.Linear(size, 1)) for label in labels}
        )

    def forward(self, student: Output, teacher: Signals, batch: Batch) -> Tensor:
        terms = [nothing(student)]
        for label, logits in zip(self.labels, self.tower(student.hidden[self.options.hidden]).values(), strict=True):
            # Bounded input: an MLP of a logit of 1e4 would answer 1e4 times something.
            read = teacher.logits[label.name].detach().float().clamp(-15, 15).unsqueeze(1)
            adapted = self.adapters[label.name](read).squeeze(1)
            target = batch.labels[label.name]
            known = (~torch.isnan(target)).float() * teacher.mask
            fresh = F.binary_cross_entropy_with_logits(adapted, torch.nan_to_num(target), reduction="none")
            follow = soft_divergence(label, logits, adapted.detach(), 1.0)
            terms.append(label.weight * (masked_mean(fresh, known) + masked_mean(follow, teacher.mask)))
        return torch.stack(terms).sum()


@dataclass(frozen=True)
class StudentAdapter:
    """For stale teachers: a tiny network 1 → size → 1 re-fits the teacher's logit to the fresh labels, and an auxiliary head
    follows what it says. The adapter learns from labels only, the head from the adapter only."""

    hidden: str = "backbone"
    size: int = 8

    signals: ClassVar[frozenset[str]] = frozenset({"logits"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "safe"
    reference: ClassVar[str] = "Liang et al., 2025, External large foundation model (ExFM, WWW), algorithm 1"
    fixed_point: ClassVar[bool] = False

    def attach(self, context: StrategyContext) -> _AdapterLoss:
        labels = [label for label in context.labels if label.kind == "binary"]
        if not labels:
            raise ValueError("student-adapter needs a binary label")
        return _AdapterLoss(labels, known_width(context.student_hidden, self.hidden, "student"), self)
