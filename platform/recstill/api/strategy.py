"""What a distillation strategy is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from recstill.api.batch import Batch, Output, Signals
    from recstill.api.task import LabelSpec

Calibration = Literal["safe", "as-teacher", "unsafe"]
Reduction = Literal["rows", "lists", "pairs"]
OnEmbeddings = Callable[["Tensor"], "Tensor"]
OnSequence = Callable[["Tensor"], "Tensor"]


@dataclass(frozen=True)
class Schedule:
    """A number that moves from `start` to `stop` over the first `until` (0 to 1] of the stage, and then stays."""

    start: float
    stop: float
    until: float = 1.0
    shape: Literal["linear", "cosine", "exponential"] = "linear"

    def __post_init__(self) -> None:
        if not 0 < self.until <= 1:
            raise ValueError(f"until must be above 0 and at most 1, not {self.until}")
        if self.shape not in ("linear", "cosine", "exponential"):
            raise ValueError(f"shape must be linear, cosine or exponential, not {self.shape!r}")
        if self.shape == "exponential" and min(self.start, self.stop) <= 0:
            raise ValueError("an exponential schedule needs start and stop above 0")

    def at(self, progress: float) -> float:
        """Return the value when this share (0 to 1) of the stage is done."""
        share = min(max(progress, 0.0) / self.until, 1.0)
        if self.shape == "exponential":
            return float(self.start * (self.stop / self.start) ** share)
        if self.shape == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return self.start + (self.stop - self.start) * share


def value_at(value: float | Schedule, progress: float) -> float:
    """Return a number as it is, a schedule's value at this point."""
    return value.at(progress) if isinstance(value, Schedule) else value


class StudentForward(Protocol):
    """Runs the student once more, on a changed batch or with changed embeddings."""

    def __call__(
        self, batch: Batch, on_embeddings: OnEmbeddings | None = None, on_sequence: OnSequence | None = None
    ) -> Output:
        """Return the output for a batch.

        `on_embeddings` maps the looked-up vectors (B, slots, dim) to what the model sees; `on_sequence` maps the positions that
        a sequence has, (B, width) bool, to those that it keeps.
        """


@dataclass(frozen=True)
class StrategyContext:
    """What a strategy may know before training.

    labels: those of the task. student_hidden, teacher_hidden: the width of each hidden vector. student_attention,
    teacher_attention: the shape (H, L) of each map. num_rows: rows of the snapshot, for memory banks by row id.
    num_teachers: how many teachers the recipe has. progress: the share of the stage that is done, 0 to 1, asked at every
    step. sampling_rate: the share of negatives that the student's rows keep. student: runs the student again, for
    augmentation and adversarial strategies; None outside of training.
    """

    labels: tuple[LabelSpec, ...]
    student_hidden: Mapping[str, int]
    teacher_hidden: Mapping[str, int]
    student_attention: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    teacher_attention: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    num_rows: int = 0
    num_teachers: int = 1
    progress: Callable[[], float] = lambda: 1.0
    sampling_rate: float = 1.0
    student: StudentForward | None = None


class DistillationLoss(Protocol):
    """The callable that training uses; an `nn.Module` when it has parameters of its own."""

    def __call__(self, student: Output, teacher: Signals, batch: Batch) -> Tensor:
        """Return the loss of the batch, a scalar: a mean over what the mask keeps, so that weights fit every batch size."""


class Strategy(Protocol):
    """A distillation loss, chosen by name in a recipe; its options are the fields of the class (a frozen dataclass).

    Declare
    signals: what it needs: `logits`, `hidden`, `attention` of the teacher, `lists` (rows come grouped by request),
    `committee` (two teachers or more), `attributes:NAME` (a column of the rows); empty if it learns from labels alone.
    reduction: what it is a mean over: `rows`, `lists`, or `pairs` of rows.
    calibration: `safe` (the served head never sees the teacher), `as-teacher` (it becomes as calibrated as the teacher) or
    `unsafe` (neither). reference: the source of the formula. fixed_point: a student equal to its teacher feels no pull on
    its logits; the conformance kit checks it.
    `attach` returns the loss; trainable parts that live in it (heads, projectors) are trained and never exported.
    """

    signals: ClassVar[frozenset[str]]
    reduction: ClassVar[Reduction]
    calibration: ClassVar[Calibration]
    reference: ClassVar[str]
    fixed_point: ClassVar[bool]

    def attach(self, context: StrategyContext) -> DistillationLoss:
        """Return the loss for these labels and widths. Raise ValueError if it cannot work with them."""
