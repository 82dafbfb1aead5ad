"""What a distillation strategy is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from recstill.api.batch import Batch, Output, Signals
    from recstill.api.task import LabelSpec

Calibration = Literal["safe", "as-teacher", "unsafe"]


@dataclass(frozen=True)
class StrategyContext:
    """What a strategy may know before training: the labels, and the width of each hidden vector of both sides."""

    labels: tuple[LabelSpec, ...]
    student_hidden: Mapping[str, int]
    teacher_hidden: Mapping[str, int]


class DistillationLoss(Protocol):
    """The callable that training uses; an `nn.Module` when it has parameters of its own."""

    def __call__(self, student: Output, teacher: Signals, batch: Batch) -> Tensor:
        """Return the loss of the batch, a scalar: a mean over the rows that the mask keeps."""


class Strategy(Protocol):
    """A distillation loss, chosen by name in a recipe; its options are the fields of the class (a frozen dataclass).

    Declare `signals` (what it needs of the teacher: `logits`, `hidden:NAME`), `calibration` (`safe`: the served head never
    sees the teacher; `as-teacher`: it becomes as calibrated as the teacher; `unsafe`: neither), `reference`, and
    `fixed_point` (a student whose logits equal the teacher's feels no pull; the conformance kit checks it).
    `attach` returns the loss; trainable parts that live in it (heads, projectors) are trained and never exported.
    """

    signals: ClassVar[frozenset[str]]
    calibration: ClassVar[Calibration]
    reference: ClassVar[str]
    fixed_point: ClassVar[bool]

    def attach(self, context: StrategyContext) -> DistillationLoss:
        """Return the loss for these labels and widths. Raise ValueError if it cannot work with them."""
