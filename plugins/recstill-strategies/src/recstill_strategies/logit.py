"""Strategies on the served logits: soft targets, hard targets, their mix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from recstill.api import Batch, LabelSpec, Output, Signals, StrategyContext
from recstill_strategies.losses import hard_divergence, masked_mean, soft_divergence

Divergence = Callable[[LabelSpec, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class _OverLabels:
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
        return torch.stack(terms).sum()


@dataclass(frozen=True)
class SoftTarget:
    """Match the teacher's softened predictions on the served head, so the student inherits the teacher's calibration."""

    temperature: float = 1.0

    signals: ClassVar[frozenset[str]] = frozenset({"logits"})
    calibration: ClassVar[str] = "as-teacher"
    reference: ClassVar[str] = "Hinton et al., 2015, Distilling the knowledge in a neural network"
    fixed_point: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _positive("temperature", self.temperature)

    def attach(self, context: StrategyContext) -> _OverLabels:
        return _OverLabels(context.labels, lambda label, s, t: soft_divergence(label, s, t, self.temperature))


@dataclass(frozen=True)
class HardTarget:
    """Learn the teacher's decisions as if they were labels; for counts and numbers there is no decision to learn."""

    signals: ClassVar[frozenset[str]] = frozenset({"logits"})
    calibration: ClassVar[str] = "unsafe"
    reference: ClassVar[str] = "Lee, 2013, Pseudo-label"
    fixed_point: ClassVar[bool] = False  # a decision is more certain than the teacher that made it

    def attach(self, context: StrategyContext) -> _OverLabels:
        classes = tuple(label for label in context.labels if label.kind in ("binary", "multiclass"))
        if not classes:
            raise ValueError("hard-target needs a binary or multiclass label")
        return _OverLabels(classes, hard_divergence)


@dataclass(frozen=True)
class SoftHardMix:
    """`soft_share` soft targets, the rest hard targets."""

    temperature: float = 1.0
    soft_share: float = 0.5

    signals: ClassVar[frozenset[str]] = frozenset({"logits"})
    calibration: ClassVar[str] = "unsafe"
    reference: ClassVar[str] = "Hinton et al., 2015, section 2"
    fixed_point: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _positive("temperature", self.temperature)
        if not 0 <= self.soft_share <= 1:
            raise ValueError(f"soft_share must be between 0 and 1, not {self.soft_share}")

    def attach(self, context: StrategyContext) -> Callable[[Output, Signals, Batch], Tensor]:
        soft, hard = SoftTarget(self.temperature).attach(context), HardTarget().attach(context)
        return lambda student, teacher, batch: torch.lerp(
            hard(student, teacher, batch), soft(student, teacher, batch), self.soft_share
        )


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be above 0, not {value}")
