"""Rows of a batch as padded lists: the candidates of one request, or a teacher's top items of one query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from recstill.api import Batch, Output, Signals

VERY_LOW = -1e30


@dataclass(frozen=True)
class Lists:
    """place (G, L): the row of each entry; real (G, L): False where a list is shorter than the longest."""

    place: Tensor
    real: Tensor

    def of(self, rows: Tensor) -> Tensor:
        """Return values (B,) of rows as (G, L) in float32; padding repeats some row and must be masked."""
        return rows.float()[self.place]

    def order(self, scores: Tensor) -> Tensor:
        """Return (G, L): the columns from the best score to the worst, padding last."""
        return torch.where(self.real, scores, -torch.inf).argsort(dim=1, descending=True, stable=True)

    def log_softmax(self, scores: Tensor) -> Tensor:
        """Return the log softmax over the real entries; padding gets a very low, finite number."""
        return torch.log_softmax(torch.where(self.real, scores, VERY_LOW), 1)


def to_lists(batch: Batch, teacher: Signals) -> Lists | None:
    """Return the lists of two rows or more that the teacher speaks about; None if the batch has none.

    Raise ValueError if the batch does not say which rows belong together.
    """
    if batch.groups is None:
        raise ValueError("this strategy works on lists, and the rows of this task do not say which belong together")
    rows = torch.nonzero((batch.groups >= 0) & (teacher.mask > 0)).squeeze(1)
    order = torch.argsort(batch.groups[rows], stable=True)
    rows = rows[order]
    _, sizes = torch.unique_consecutive(batch.groups[rows], return_counts=True)
    starts = torch.cumsum(sizes, 0) - sizes
    long = sizes > 1
    if not bool(long.any()):
        return None
    sizes, starts = sizes[long], starts[long]
    column = torch.arange(int(sizes.max()))
    real = column < sizes.unsqueeze(1)
    return Lists(rows[torch.where(real, starts.unsqueeze(1) + column, starts.unsqueeze(1))], real)


def nothing(student: Output) -> Tensor:
    """Return a zero that is part of the student's graph: the term of a batch that has nothing to learn from."""
    tensors = [*student.logits.values(), *student.hidden.values()]
    return torch.nan_to_num(tensors[0].float(), 0.0, 0.0, 0.0).sum() * 0.0
