"""Strategies on the served logits: soft and hard targets, logit regression, decoupled and relational forms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from recstill.api import Schedule, value_at
from recstill_strategies.checks import above_zero, within
from recstill_strategies.grouping import nothing
from recstill_strategies.losses import LossName, fitting_loss, hard_divergence, masked_mean, soft_divergence

if TYPE_CHECKING:
    from recstill.api import Batch, LabelSpec, Output, Signals, StrategyContext

Divergence = Callable[["LabelSpec", Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class OverLabels:
    """Sum a divergence over labels, each weighted as in the task. A label that one side lacks is left out."""

    labels: tuple[LabelSpec, ...]
    divergence: Divergence

    def __call__(self, student: Output, teacher: Signals, batch: Batch) -> Tensor:
        terms = [
            label.weight
            * masked_mean(self.divergence(label, student.logits[label.name], teacher.logits[label.name]), teacher.mask)
            for label in self.labels
            if label.name in student.logits and label.name in teacher.logits
        ]
        return torch.stack(terms).sum() if terms else nothing(student)


@dataclass(frozen=True)
class SoftTarget:
    """Match the teacher's softened predictions on the served head, so the student inherits the teacher's calibration.

    loss: `auto` is KL (half the squared difference for numbers); or `kl`, `ce`, `bce`, `l1`, `l2` by name, for the labels that
    it fits.
    """

    temperature: float | Schedule = 1.0
    loss: LossName = "auto"

    signals: ClassVar[frozenset[str]] = frozenset({"logits"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "as-teacher"
    reference: ClassVar[str] = "Hinton et al., 2015, Distilling the knowledge in a neural network"
    fixed_point: ClassVar[bool] = True

    def __post_init__(self) -> None:
        above_zero(temperature=self.temperature)

    def attach(self, context: StrategyContext) -> OverLabels:
        losses = fitting_loss(context.labels, self.loss)

        def divergence(label: LabelSpec, z_s: Tensor, z_t: Tensor) -> Tensor:
            return soft_divergence(label, z_s, z_t, value_at(self.temperature, context.progress()), losses[label.name])

        return OverLabels(context.labels, divergence)


@dataclass(frozen=True)
class CrossDebias:
    """Soft targets after the teacher's logit was moved to the student's sampling of negatives: z_t + ln r_t - ln r_s.

    A model trained on a share r of the negatives overestimates the odds by 1/r; the rates come with the signals and the
    recipe (`keep_negatives`). Binary labels only: other kinds are matched as they are.
    """

    temperature: float = 1.0

    signals: ClassVar[frozenset[str]] = frozenset({"logits"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "as-teacher"
    reference: ClassVar[str] = "He et al., 2014, Practical lessons from predicting clicks on ads, section 6.3"
    fixed_point: ClassVar[bool] = True

    def __post_init__(self) -> None:
        above_zero(temperature=self.temperature)

    def attach(self, context: StrategyContext) -> Callable[[Output, Signals, Batch], Tensor]:
        own = torch.log(torch.tensor(context.sampling_rate))

        def loss(student: Output, teacher: Signals, batch: Batch) -> Tensor:
            shift = torch.log(torch.tensor(teacher.sampling_rate)) - own

            def divergence(label: LabelSpec, z_s: Tensor, z_t: Tensor) -> Tensor:
                return soft_divergence(label, z_s, z_t + shift if label.kind == "binary" else z_t, self.temperature)

            return OverLabels(context.labels, divergence)(student, teacher, batch)

        return loss


@dataclass(frozen=True)
class LogitRegression:
    """Mean (z_s - z_t)² of raw logits: the limit of soft targets at high temperature, up to a factor of 8 for clicks."""

    signals: ClassVar[frozenset[str]] = frozenset({"logits"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "unsafe"  # a mean of logits is not a mean of probabilities
    reference: ClassVar[str] = "Ba & Caruana, 2014; Tian et al., 2023, KD-DAGFM (WSDM)"
    fixed_point: ClassVar[bool] = True

    def attach(self, context: StrategyContext) -> OverLabels:
        return OverLabels(context.labels, lambda label, s, t: 2.0 * soft_divergence(label, s, t, 1.0, "l2"))


@dataclass(frozen=True)
class HardTarget:
    """Learn the teacher's decisions as if they were labels; for counts and numbers there is no decision to learn."""

    signals: ClassVar[frozenset[str]] = frozenset({"logits"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "unsafe"
    reference: ClassVar[str] = "Lee, 2013, Pseudo-label"
    fixed_point: ClassVar[bool] = False  # a decision is more certain than the teacher that made it

    def attach(self, context: StrategyContext) -> OverLabels:
        classes = tuple(label for label in context.labels if label.kind in ("binary", "multiclass"))
        if not classes:
            raise ValueError("hard-target needs a binary or multiclass label")
        return OverLabels(classes, hard_divergence)


@dataclass(frozen=True)
class SoftHardMix:
    """`soft_share` soft targets, the rest hard targets."""

    temperature: float = 1.0
    soft_share: float = 0.5

    signals: ClassVar[frozenset[str]] = frozenset({"logits"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "unsafe"
    reference: ClassVar[str] = "Hinton et al., 2015, section 2"
    fixed_point: ClassVar[bool] = False

    def __post_init__(self) -> None:
        above_zero(temperature=self.temperature)
        within(0, 1, soft_share=self.soft_share)

    def attach(self, context: StrategyContext) -> Callable[[Output, Signals, Batch], Tensor]:
        soft, hard = SoftTarget(self.temperature).attach(context), HardTarget().attach(context)
        return lambda student, teacher, batch: torch.lerp(
            hard(student, teacher, batch), soft(student, teacher, batch), self.soft_share
        )


@dataclass(frozen=True)
class DecoupledKD:
    """DKD: T² (alpha KL(target / not target) + beta KL(among the other classes)), warmed up over the first `warm_up`.

    With two classes nothing is left among the others, so binary labels are refused.
    """

    alpha: float = 1.0
    beta: float = 8.0
    temperature: float = 4.0
    warm_up: float = 0.1

    signals: ClassVar[frozenset[str]] = frozenset({"logits"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "unsafe"
    reference: ClassVar[str] = "Zhao et al., 2022, Decoupled knowledge distillation (CVPR)"
    fixed_point: ClassVar[bool] = True

    def __post_init__(self) -> None:
        above_zero(temperature=self.temperature)
        within(0, 1, warm_up=self.warm_up)

    def attach(self, context: StrategyContext) -> Callable[[Output, Signals, Batch], Tensor]:
        labels = [label for label in context.labels if label.kind == "multiclass" and label.num_classes > 2]
        if not labels:
            raise ValueError(
                "dkd needs a label with three classes or more: with two, the part among the other classes is always zero; "
                "use soft-target"
            )

        def loss(student: Output, teacher: Signals, batch: Batch) -> Tensor:
            total = nothing(student)
            for label in labels:
                target = torch.nan_to_num(batch.labels[label.name]).long()
                mask = teacher.mask * ~torch.isnan(batch.labels[label.name])
                rows = self.rows(student.logits[label.name], teacher.logits[label.name].detach(), target)
                total = total + label.weight * masked_mean(rows, mask)
            return total * (min(context.progress() / self.warm_up, 1.0) if self.warm_up else 1.0)

        return loss

    def rows(self, z_s: Tensor, z_t: Tensor, target: Tensor) -> Tensor:
        """Return (B,) from logits (B, C) and target classes (B,)."""
        t = self.temperature
        log_s, log_t = F.log_softmax(z_s.float() / t, 1), F.log_softmax(z_t.float() / t, 1)
        hit = F.one_hot(target, z_s.shape[1]).bool()
        pairs = []
        for log in (log_s, log_t):
            own = log[hit]
            rest = torch.logsumexp(log.masked_fill(hit, -1e30), 1)
            pairs.append(torch.stack([own, rest], 1))
        binary = (pairs[1].exp() * (pairs[1] - pairs[0])).sum(1)
        among = [F.log_softmax(z.float().div(t).masked_fill(hit, -1e30), 1) for z in (z_s, z_t)]
        others = torch.where(hit, 0.0, among[1].exp() * (among[1] - among[0])).sum(1)
        return t**2 * (self.alpha * binary + self.beta * others)


@dataclass(frozen=True)
class Dist:
    """DIST: match correlations instead of values: 1 - rho between the class probabilities of a row (`beta`), and between the
    probabilities of one class over the batch (`gamma`), times T².

    Scale-free, so a far stronger teacher does no harm; two classes are perfectly (anti)correlated, so binary labels use the
    second part only.
    """

    beta: float = 1.0
    gamma: float = 1.0
    temperature: float = 1.0

    signals: ClassVar[frozenset[str]] = frozenset({"logits"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "unsafe"
    reference: ClassVar[str] = "Huang et al., 2022, Knowledge distillation from a stronger teacher (NeurIPS)"
    fixed_point: ClassVar[bool] = True

    def __post_init__(self) -> None:
        above_zero(temperature=self.temperature)

    def attach(self, context: StrategyContext) -> Callable[[Output, Signals, Batch], Tensor]:
        labels = [label for label in context.labels if label.kind in ("binary", "multiclass")]
        if not labels:
            raise ValueError("dist needs a binary or multiclass label")

        def loss(student: Output, teacher: Signals, batch: Batch) -> Tensor:
            keep = teacher.mask > 0
            if int(keep.sum()) < 2:
                return nothing(student)
            terms = []
            for label in labels:
                z_s, z_t = student.logits[label.name].float()[keep], teacher.logits[label.name].detach().float()[keep]
                if label.kind == "binary":
                    p_s, p_t = (torch.sigmoid(z / self.temperature).unsqueeze(1) for z in (z_s, z_t))
                    terms.append(label.weight * self.gamma * (1 - correlation(p_s.t(), p_t.t())).mean())
                else:
                    p_s, p_t = (torch.softmax(z / self.temperature, 1) for z in (z_s, z_t))
                    rows, columns = (1 - correlation(p_s, p_t)).mean(), (1 - correlation(p_s.t(), p_t.t())).mean()
                    terms.append(label.weight * (self.beta * rows + self.gamma * columns))
            return self.temperature**2 * torch.stack(terms).sum()

        return loss


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return (N,): Pearson's correlation of each pair of rows (N, M); 0 where a row is constant, as where nothing is known."""
    a, b = first - first.mean(1, keepdim=True), second - second.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1) + 1e-16).sqrt()
