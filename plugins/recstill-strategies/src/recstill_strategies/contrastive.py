"""Contrastive strategies: a row's student vector must be told apart from other rows by the teacher's vector of the same row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from recstill_strategies.checks import above_zero, known_width
from recstill_strategies.grouping import nothing

if TYPE_CHECKING:
    from recstill.api import Batch, Output, Signals, StrategyContext


class _Heads(nn.Module):
    """Both sides to unit vectors of one width."""

    def __init__(self, width: int, target: int, dim: int) -> None:
        super().__init__()
        self.own, self.other = nn.Linear(width, dim), nn.Linear(target, dim)

    def forward(self, own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(self.own(own.float()), dim=1), F.normalize(self.other(other.detach().float()), dim=1)


class _InfoNCELoss(nn.Module):
    def __init__(self, heads: _Heads, options: InfoNCE) -> None:
        super().__init__()
        self.heads, self.options = heads, options

    def forward(self, student: Output, teacher: Signals, batch: Batch) -> Tensor:
        rows = torch.nonzero(teacher.mask > 0).squeeze(1)
        if len(rows) < 2:
            return nothing(student)
        if len(rows) > self.options.rows:  # the matrix of all pairs grows with the square
            rows = rows[torch.randperm(len(rows))[: self.options.rows]]
        own, other = student.hidden[self.options.student_hidden][rows], teacher.hidden[self.options.teacher_hidden][rows]
        own, other = self.heads(own, other)
        scores = own @ other.t() / self.options.temperature
        # A mean over the other rows, not a sum, inside the logarithm keeps the loss's scale for every batch size.
        return (torch.logsumexp(scores, 1) - math.log(len(rows)) - scores.diagonal()).mean()


@dataclass(frozen=True)
class InfoNCE:
    """In-batch: -log (e^{s_ii} / mean_j e^{s_ij}), s = cosine of both sides' projections over the temperature."""

    student_hidden: str = "backbone"
    teacher_hidden: str = "backbone"
    dim: int = 32
    temperature: float = 0.1
    rows: int = 1024

    signals: ClassVar[frozenset[str]] = frozenset({"hidden"})
    reduction: ClassVar[str] = "pairs"
    calibration: ClassVar[str] = "safe"
    reference: ClassVar[str] = "Oord et al., 2018, Contrastive predictive coding; Tian et al., 2020"
    fixed_point: ClassVar[bool] = False

    def __post_init__(self) -> None:
        above_zero(dim=self.dim, temperature=self.temperature, rows=self.rows)

    def attach(self, context: StrategyContext) -> _InfoNCELoss:
        return _InfoNCELoss(_heads(context, self.student_hidden, self.teacher_hidden, self.dim), self)


class _CRDLoss(nn.Module):
    def __init__(self, heads: _Heads, options: ContrastiveRepresentation, num_rows: int) -> None:
        super().__init__()
        self.heads, self.options = heads, options
        size = max(2, min(num_rows, options.bank))
        for name in ("own", "other"):
            self.register_buffer(f"{name}_bank", F.normalize(torch.randn(size, options.dim), dim=1))
        self.register_buffer("normaliser", torch.zeros(2))
        self.own_bank: Tensor
        self.other_bank: Tensor
        self.normaliser: Tensor

    def forward(self, student: Output, teacher: Signals, batch: Batch) -> Tensor:
        rows = torch.nonzero(teacher.mask > 0).squeeze(1)
        if not len(rows):
            return nothing(student)
        assert batch.row_ids is not None
        place = batch.row_ids[rows] % len(self.own_bank)
        own, other = self.heads(
            student.hidden[self.options.student_hidden][rows], teacher.hidden[self.options.teacher_hidden][rows]
        )
        negatives = torch.randint(0, len(self.own_bank), (self.options.negatives,))
        loss = self._side(0, own, self.other_bank, place, negatives) + self._side(1, other, self.own_bank, place, negatives)
        with torch.no_grad():
            keep = self.options.momentum
            for bank, fresh in ((self.own_bank, own), (self.other_bank, other)):
                bank[place] = F.normalize(keep * bank[place] + (1 - keep) * fresh.detach(), dim=1)
        return loss

    def _side(self, side: int, anchor: Tensor, bank: Tensor, place: Tensor, negatives: Tensor) -> Tensor:
        bank = bank.clone()  # it is updated before the backward pass
        scores = torch.cat([(anchor * bank[place]).sum(1, keepdim=True), anchor @ bank[negatives].t()], 1)
        p = (scores / self.options.temperature).exp()
        if self.normaliser[side] == 0:  # the constant of noise-contrastive estimation, from the first batch
            self.normaliser[side] = float(p.detach().mean()) * len(bank)
        p = p / float(self.normaliser[side])
        chance = self.options.negatives / len(bank)
        positive, others = p[:, 0], p[:, 1:]
        log_d = torch.log(positive / (positive + chance))
        log_not = torch.log(chance / (others + chance))
        return -(log_d + log_not.sum(1)).mean() / 2


@dataclass(frozen=True)
class ContrastiveRepresentation:
    """CRD: noise-contrastive estimation against a memory bank by row id, D = p / (p + m/M), on both sides.

    The bank has at most `bank` rows of `dim` floats; larger data shares them by row id modulo the size.
    """

    student_hidden: str = "backbone"
    teacher_hidden: str = "backbone"
    dim: int = 32
    negatives: int = 256
    temperature: float = 0.1
    momentum: float = 0.5
    bank: int = 262_144

    signals: ClassVar[frozenset[str]] = frozenset({"hidden"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "safe"
    reference: ClassVar[str] = "Tian et al., 2020, Contrastive representation distillation (ICLR)"
    fixed_point: ClassVar[bool] = False

    def __post_init__(self) -> None:
        above_zero(dim=self.dim, temperature=self.temperature, negatives=self.negatives, bank=self.bank)

    def attach(self, context: StrategyContext) -> _CRDLoss:
        heads = _heads(context, self.student_hidden, self.teacher_hidden, self.dim)
        return _CRDLoss(heads, self, context.num_rows)


def _heads(context: StrategyContext, student: str, teacher: str, dim: int) -> _Heads:
    widths = known_width(context.student_hidden, student, "student"), known_width(context.teacher_hidden, teacher, "teacher")
    return _Heads(*widths, dim)
