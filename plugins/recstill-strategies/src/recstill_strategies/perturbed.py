"""On what the student learns: rows without labels, changed rows, and rows changed to hurt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from recstill_strategies.checks import above_zero, not_below, within
from recstill_strategies.grouping import nothing
from recstill_strategies.logit import SoftTarget
from recstill_strategies.losses import masked_mean, soft_divergence

if TYPE_CHECKING:
    from recstill.api import Batch, LabelSpec, Output, Signals, StrategyContext, StudentForward

Loss = Callable[["Output", "Signals", "Batch"], Tensor]


def _runner(context: StrategyContext, name: str) -> StudentForward:
    if context.student is None:
        raise ValueError(f"{name} runs the student again, and here there is none to run")
    return context.student


@dataclass(frozen=True)
class UncertaintyWeighted:
    """Soft targets weighted by the teacher's certainty, (1 - H(p_t) / ln C)^power: off the impressions it was trained on a
    teacher guesses, and its guesses near one half teach nothing. `unlabelled_only` leaves labelled rows to other strategies."""

    power: float = 1.0
    temperature: float = 1.0
    unlabelled_only: bool = False

    signals: ClassVar[frozenset[str]] = frozenset({"logits"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "as-teacher"
    reference: ClassVar[str] = "Xu et al., 2022, UKD: debiasing conversion rate estimation (WWW)"
    fixed_point: ClassVar[bool] = True

    def __post_init__(self) -> None:
        above_zero(temperature=self.temperature)
        not_below(0, power=self.power)

    def attach(self, context: StrategyContext) -> Loss:
        labels = tuple(label for label in context.labels if label.kind in ("binary", "multiclass"))
        if not labels:
            raise ValueError("uncertainty-weighted needs a binary or multiclass label")

        def loss(student: Output, teacher: Signals, batch: Batch) -> Tensor:
            total = nothing(student)
            for label in labels:
                mask = teacher.mask * self.certainty(label, teacher.logits[label.name].detach().float())
                if self.unlabelled_only:
                    mask = mask * torch.isnan(batch.labels[label.name])
                rows = soft_divergence(label, student.logits[label.name], teacher.logits[label.name], self.temperature)
                total = total + label.weight * masked_mean(rows, mask)
            return total

        return loss

    def certainty(self, label: LabelSpec, z_t: Tensor) -> Tensor:
        """Return (B,) between 0 and 1."""
        logits = torch.stack([torch.zeros_like(z_t), z_t], 1) if label.kind == "binary" else z_t
        log_p = torch.log_softmax(logits, 1)
        entropy = -(log_p.exp() * log_p.clamp(min=-100.0)).sum(1)
        share = entropy / torch.log(torch.tensor(float(logits.shape[1])))
        return (1 - share).clamp(0, 1) ** self.power


@dataclass(frozen=True)
class FeatureDropout:
    """Consistency under lost features: the student sees the row with a share of its embeddings zeroed and must still say what
    the teacher says of the whole row."""

    share: float = 0.2
    temperature: float = 1.0

    signals: ClassVar[frozenset[str]] = frozenset({"logits"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "as-teacher"
    reference: ClassVar[str] = "Yao et al., 2021, Self-supervised learning for large-scale item recommendations (CIKM)"
    fixed_point: ClassVar[bool] = False

    def __post_init__(self) -> None:
        above_zero(temperature=self.temperature)
        within(0, 1, share=self.share)

    def attach(self, context: StrategyContext) -> Loss:
        run, follow = _runner(context, "feature-dropout"), SoftTarget(self.temperature).attach(context)

        def loss(student: Output, teacher: Signals, batch: Batch) -> Tensor:
            def drop(vectors: Tensor) -> Tensor:
                kept = (torch.rand(vectors.shape[:2]) >= self.share).float().unsqueeze(2)
                return vectors * kept

            return follow(run(batch, drop), teacher, batch)

        return loss


@dataclass(frozen=True)
class SequenceAugment:
    """Consistency under a shorter history: the student sees every sequence cropped to a window of `crop` of its length, or
    with a share `mask` of its positions gone (a coin for each row), and must still say what the teacher says of the whole."""

    crop: float = 0.6
    mask: float = 0.3
    temperature: float = 1.0

    signals: ClassVar[frozenset[str]] = frozenset({"logits"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "as-teacher"
    reference: ClassVar[str] = "Xie et al., 2022, Contrastive learning for sequential recommendation (ICDE): crop and mask"
    fixed_point: ClassVar[bool] = False

    def __post_init__(self) -> None:
        above_zero(crop=self.crop, temperature=self.temperature)
        within(0, 1, crop=self.crop, mask=self.mask)

    def attach(self, context: StrategyContext) -> Loss:
        run, follow = _runner(context, "sequence-augment"), SoftTarget(self.temperature).attach(context)
        return lambda student, teacher, batch: follow(run(batch, on_sequence=self.shorten), teacher, batch)

    def shorten(self, present: Tensor) -> Tensor:
        """Return which of the positions (B, L) stay: at least one of those that there are."""
        place, length = present.cumsum(1) - 1, present.sum(1, keepdim=True)
        window = (self.crop * length).ceil()
        start = ((length - window + 1) * torch.rand(len(present), 1)).floor()
        cropped = (place >= start) & (place < start + window)
        masked = torch.rand(present.shape) >= self.mask
        masked |= place == (length * torch.rand(len(present), 1)).floor()  # one stays, whatever the draw
        return present & torch.where(torch.rand(len(present), 1) < 0.5, cropped, masked)


@dataclass(frozen=True)
class MixUp:
    """Mix-up: rows are mixed in pairs, dense features and embeddings by m and 1 - m, m ~ Beta(alpha, alpha), and so are the
    teacher's predictions; between real rows the student learns the teacher's straight line."""

    alpha: float = 0.4

    signals: ClassVar[frozenset[str]] = frozenset({"logits"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "as-teacher"
    reference: ClassVar[str] = "Zhang et al., 2018, mixup (ICLR); Beyer et al., 2022, A good teacher is patient and consistent"
    fixed_point: ClassVar[bool] = False

    def __post_init__(self) -> None:
        above_zero(alpha=self.alpha)

    def attach(self, context: StrategyContext) -> Loss:
        run = _runner(context, "mix-up")
        labels = tuple(label for label in context.labels if label.kind == "binary")
        if not labels:
            raise ValueError("mix-up needs a binary label")

        def loss(student: Output, teacher: Signals, batch: Batch) -> Tensor:
            share = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
            other = torch.randperm(len(batch.dense))

            def mix(values: Tensor) -> Tensor:
                return share * values + (1 - share) * values[other]

            changed = run(replace(batch, dense=mix(batch.dense)), mix)
            mask = teacher.mask * teacher.mask[other]
            total = nothing(changed)
            for label in labels:
                p = mix(torch.sigmoid(teacher.logits[label.name].detach().float())).clamp(1e-6, 1 - 1e-6)
                rows = soft_divergence(label, changed.logits[label.name], torch.logit(p), 1.0)
                total = total + label.weight * masked_mean(rows, mask)
            return total

        return loss


@dataclass(frozen=True)
class Adversarial:
    """KL to the teacher at the worst nearby embeddings: e + epsilon |e| g / |g|, g the gradient of that KL. Only embeddings
    can be moved; ids and numbers of a real request cannot."""

    epsilon: float = 0.05
    temperature: float = 1.0

    signals: ClassVar[frozenset[str]] = frozenset({"logits"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "as-teacher"
    reference: ClassVar[str] = "Miyato et al., 2018, Virtual adversarial training; He et al., 2018, APR (SIGIR)"
    fixed_point: ClassVar[bool] = False

    def __post_init__(self) -> None:
        above_zero(epsilon=self.epsilon, temperature=self.temperature)

    def attach(self, context: StrategyContext) -> Loss:
        run, follow = _runner(context, "adversarial"), SoftTarget(self.temperature).attach(context)

        def loss(student: Output, teacher: Signals, batch: Batch) -> Tensor:
            moves: list[Tensor] = []
            lengths: list[Tensor] = []

            def watch(vectors: Tensor) -> Tensor:
                moves.append(torch.zeros_like(vectors, requires_grad=True))
                lengths.append(vectors.detach().norm(dim=2, keepdim=True))
                return vectors.detach() + moves[-1]

            probed = follow(run(batch, watch), teacher, batch)
            if not moves or not probed.requires_grad:
                return nothing(student)
            gradients = torch.autograd.grad(probed, moves)
            worst = [
                self.epsilon * length * gradient / gradient.norm(dim=2, keepdim=True).clamp(min=1e-20)
                for gradient, length in zip(gradients, lengths, strict=True)
            ]
            steps = iter(worst)
            return follow(run(batch, lambda vectors: vectors + next(steps)), teacher, batch)

        return loss
