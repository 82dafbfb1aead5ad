"""Who teaches: several teachers, the checkpoints of one, or the student's own deeper half."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from recstill_strategies.checks import above_zero, known_width, not_below
from recstill_strategies.grouping import nothing
from recstill_strategies.logit import SoftTarget
from recstill_strategies.losses import masked_mean, soft_divergence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from recstill.api import Batch, LabelSpec, Output, Signals, StrategyContext


def _average(label: LabelSpec, logits: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return the logits of the weighted mean prediction: probabilities and means are averaged, not logits.

    weights: (teachers,) or (B, teachers). sum_i w_i KL(p_i || q) = KL(mean p || q) + const, so this is what several terms
    would pull towards.
    """
    stacked = torch.stack([z.detach().float() for z in logits], 1)
    share = weights.expand(len(stacked), -1) if weights.dim() == 1 else weights
    if label.kind == "binary":
        p = (share * torch.sigmoid(stacked)).sum(1).clamp(1e-7, 1 - 1e-7)
        return torch.logit(p)
    if label.kind == "multiclass":
        return (share.unsqueeze(2) * torch.softmax(stacked, 2)).sum(1).clamp(min=1e-12).log()
    if label.kind == "count":
        return (share * stacked.clamp(max=15.0).exp()).sum(1).clamp(min=1e-12).log()
    return (share * stacked).sum(1)


def _masked(teachers: Sequence[Signals], weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's shares of the teachers that scored it (B, teachers), and the mask of rows that any scored."""
    scored = torch.stack([(teacher.mask > 0).float() for teacher in teachers], 1)
    share = weights * scored
    return share / share.sum(1, keepdim=True).clamp(min=1e-12), scored.max(1).values


class _GateLoss(nn.Module):
    def __init__(self, options: CommitteeTarget, context: StrategyContext) -> None:
        super().__init__()
        self.options, self.labels = options, context.labels
        width = known_width(context.student_hidden, options.hidden, "student")
        self.gate = nn.Linear(width, context.num_teachers)
        with torch.no_grad():
            self.gate.weight.zero_(), self.gate.bias.zero_()  # starts as a plain mean

    def forward(self, student: Output, teacher: Signals, batch: Batch) -> Tensor:
        teachers = (teacher, *teacher.others)
        weights = torch.softmax(self.gate(student.hidden[self.options.hidden].detach().float()), 1)
        share, mask = _masked(teachers, weights)
        total = nothing(student)
        for label in self.labels:
            logits = [t.logits[label.name] for t in teachers]
            target = _average(label, logits, share.detach())
            follow = soft_divergence(label, student.logits[label.name], target, self.options.temperature)
            total = total + label.weight * masked_mean(follow, mask)
            if label.kind == "binary":  # the gate learns from labels which teacher to believe, never from the student
                y = batch.labels[label.name]
                p = (share * torch.sigmoid(torch.stack([z.detach().float() for z in logits], 1))).sum(1).clamp(1e-6, 1 - 1e-6)
                rows = F.binary_cross_entropy(p, torch.nan_to_num(y), reduction="none")
                total = total + label.weight * masked_mean(rows, mask * ~torch.isnan(y))
        return total


@dataclass(frozen=True)
class CommitteeTarget:
    """Soft targets of several teachers' mean prediction. gate `fixed`: `weights`, equal unless given; gate `learned`: a
    linear gate on the student's hidden vector that labels train. Rows that a teacher did not score go to the others."""

    gate: Literal["fixed", "learned"] = "fixed"
    weights: tuple[float, ...] = ()
    temperature: float = 1.0
    hidden: str = "backbone"

    signals: ClassVar[frozenset[str]] = frozenset({"logits", "committee"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "as-teacher"
    reference: ClassVar[str] = "You et al., 2017, Learning from multiple teacher networks (KDD)"
    fixed_point: ClassVar[bool] = False

    def __post_init__(self) -> None:
        above_zero(temperature=self.temperature)
        not_below(0, **{f"weights.{place}": weight for place, weight in enumerate(self.weights)})
        if self.gate not in ("fixed", "learned"):
            raise ValueError(f"gate must be fixed or learned, not {self.gate!r}")

    def attach(self, context: StrategyContext) -> Callable[[Output, Signals, Batch], Tensor]:
        if self.gate == "learned":
            return _GateLoss(self, context)
        count = context.num_teachers
        if self.weights and len(self.weights) != count:
            raise ValueError(f"weights names {len(self.weights)} teachers, the recipe has {count}")
        raw = torch.tensor(self.weights or [1.0] * count)
        return _mixture(context, lambda: raw / raw.sum(), self.temperature)


def _mixture(
    context: StrategyContext, weights_now: Callable[[], Tensor], temperature: float
) -> Callable[[Output, Signals, Batch], Tensor]:
    def loss(student: Output, teacher: Signals, batch: Batch) -> Tensor:
        teachers = (teacher, *teacher.others)
        share, mask = _masked(teachers, weights_now()[: len(teachers)])
        total = nothing(student)
        for label in context.labels:
            target = _average(label, [t.logits[label.name] for t in teachers], share)
            follow = soft_divergence(label, student.logits[label.name], target, temperature)
            total = total + label.weight * masked_mean(follow, mask)
        return total

    return loss


@dataclass(frozen=True)
class Trajectory:
    """HetComp's curriculum: the checkpoints of one teacher's training (`teacher.checkpoints`) teach one after the other, easy
    ones first, and the final teacher from `arrival` of the stage on. Between two of them their predictions are mixed."""

    temperature: float = 1.0
    arrival: float = 0.6

    signals: ClassVar[frozenset[str]] = frozenset({"logits", "committee"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "as-teacher"
    reference: ClassVar[str] = "Kang et al., 2023, Distillation from heterogeneous models for top-K recommendation (WWW)"
    fixed_point: ClassVar[bool] = False

    def __post_init__(self) -> None:
        above_zero(temperature=self.temperature, arrival=self.arrival)

    def attach(self, context: StrategyContext) -> Callable[[Output, Signals, Batch], Tensor]:
        count = context.num_teachers

        def weights_now() -> Tensor:
            # The final teacher comes first in the signals, then the checkpoints in the order of their epochs.
            place = min(context.progress() / self.arrival, 1.0) * (count - 1)
            easy = torch.tensor([max(0.0, 1 - abs(place - n)) for n in range(count)])
            return torch.cat([easy[-1:], easy[:-1]])

        return _mixture(context, weights_now, self.temperature)


@dataclass(frozen=True)
class Continual:
    """Continual distillation: KL to the big teacher, and `previous` times KL to the student of the last release, which is the
    recipe's second teacher. What the last student knew is kept where the new rows are silent about it."""

    temperature: float = 1.0
    previous: float = 0.5

    signals: ClassVar[frozenset[str]] = frozenset({"logits", "committee"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "as-teacher"
    reference: ClassVar[str] = "Li & Hoiem, 2017, Learning without forgetting; Xu et al., 2020, GraphSAIL (CIKM)"
    fixed_point: ClassVar[bool] = False

    def __post_init__(self) -> None:
        above_zero(temperature=self.temperature)
        not_below(0, previous=self.previous)

    def attach(self, context: StrategyContext) -> Callable[[Output, Signals, Batch], Tensor]:
        follow = SoftTarget(self.temperature).attach(context)

        def loss(student: Output, teacher: Signals, batch: Batch) -> Tensor:
            total = follow(student, teacher, batch)
            for other in teacher.others:
                total = total + self.previous * follow(student, other, batch)
            return total

        return loss


class _RocketLoss(nn.Module):
    def __init__(self, labels: tuple[LabelSpec, ...], width: int, options: Rocket) -> None:
        super().__init__()
        self.labels, self.options = labels, options
        layers: list[nn.Module] = []
        for size in options.booster:
            layers += [nn.Linear(width, size), nn.ReLU()]
            width = size
        self.booster = nn.Sequential(*layers, nn.Linear(width, len(labels)))

    def forward(self, student: Output, teacher: Signals, batch: Batch) -> Tensor:
        boosted = self.booster(student.hidden[self.options.hidden].float())
        total = nothing(student)
        for place, label in enumerate(self.labels):
            y = batch.labels[label.name]
            known = (~torch.isnan(y)).float() * teacher.mask
            rows = F.binary_cross_entropy_with_logits(boosted[:, place], torch.nan_to_num(y), reduction="none")
            hint = (student.logits[label.name].float() - boosted[:, place].detach()).square()
            total = total + label.weight * (masked_mean(rows, known) + self.options.hint * masked_mean(hint, teacher.mask))
        return total


@dataclass(frozen=True)
class Rocket:
    """Co-distillation: a deeper booster on the shared bottom learns the labels at the same time, and the light head follows
    its logits, BCE(booster, y) + hint mean (z_light - sg(z_booster))². No teacher is asked; the booster is not exported."""

    hidden: str = "backbone"
    booster: tuple[int, ...] = (128, 64)
    hint: float = 0.03

    signals: ClassVar[frozenset[str]] = frozenset()
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "unsafe"
    reference: ClassVar[str] = "Zhou et al., 2018, Rocket launching (AAAI)"
    fixed_point: ClassVar[bool] = False

    def __post_init__(self) -> None:
        not_below(0, hint=self.hint)

    def attach(self, context: StrategyContext) -> _RocketLoss:
        labels = tuple(label for label in context.labels if label.kind == "binary")
        if not labels:
            raise ValueError("rocket needs a binary label")
        return _RocketLoss(labels, known_width(context.student_hidden, self.hidden, "student"), self)
