"""With what constraints: rules and knowledge beside the teacher, and fairness between groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from recstill_strategies.checks import above_zero
from recstill_strategies.grouping import nothing
from recstill_strategies.losses import masked_mean, soft_divergence

if TYPE_CHECKING:
    from recstill.api import Batch, LabelSpec, Output, Signals, StrategyContext

Loss = Callable[["Output", "Signals", "Batch"], Tensor]


@dataclass(frozen=True)
class PosteriorRegularisation:
    """Soft targets bent by rules: q ∝ p_t exp(C r(x)). For a click that is the teacher's logit plus C r(x), where r > 0
    argues for the positive answer and r < 0 against it.

    r is a column of the rows: the recipe's `rules` make `rule`, a task may bring others (from a knowledge graph). The rule's
    target is kept apart from the label: it never enters the label loss.
    """

    attribute: str = "rule"
    strength: float = 1.0
    temperature: float = 1.0

    signals: ClassVar[frozenset[str]] = frozenset({"logits", "attributes"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "unsafe"
    reference: ClassVar[str] = "Hu et al., 2016, Harnessing deep neural networks with logic rules (ACL)"
    fixed_point: ClassVar[bool] = False

    def __post_init__(self) -> None:
        above_zero(strength=self.strength, temperature=self.temperature)

    def attach(self, context: StrategyContext) -> Loss:
        def loss(student: Output, teacher: Signals, batch: Batch) -> Tensor:
            total = nothing(student)
            for label in context.labels:
                if label.kind in ("binary", "ranking"):
                    bent = self.bend(label, teacher.logits[label.name].detach().float(), batch.attributes[self.attribute])
                    rows = soft_divergence(label, student.logits[label.name], bent, self.temperature)
                    total = total + label.weight * masked_mean(rows, teacher.mask)
            return total

        return loss

    def bend(self, label: LabelSpec, z_t: Tensor, rule: Tensor) -> Tensor:
        """Return the logits of q."""
        return z_t + self.strength * torch.nan_to_num(rule)


@dataclass(frozen=True)
class Fairness:
    """|E[z_s | group = 1] - E[z_s | group = 0]|, added to what else teaches: the served score must not depend on a group that
    no model may see. Rows whose group is missing (NaN) take no part."""

    attribute: str = "group"

    signals: ClassVar[frozenset[str]] = frozenset({"attributes"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "unsafe"
    reference: ClassVar[str] = "Beutel et al., 2019, Putting fairness principles into practice (AIES)"
    fixed_point: ClassVar[bool] = False

    def attach(self, context: StrategyContext) -> Loss:
        primary = next(label.name for label in context.labels if label.primary)

        def loss(student: Output, teacher: Signals, batch: Batch) -> Tensor:
            group = batch.attributes[self.attribute]
            means = []
            for value in (0.0, 1.0):
                inside = ((group > 0.5) == bool(value)) & ~torch.isnan(group) & (teacher.mask > 0)
                if not bool(inside.any()):
                    return nothing(student)
                means.append(masked_mean(student.logits[primary].float(), inside.float()))
            return (means[1] - means[0]).abs()

        return loss
