"""Attention transfer: the student looks where the teacher looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from recstill_strategies.feature import Names, matched_pairs
from recstill_strategies.grouping import nothing
from recstill_strategies.losses import masked_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from recstill.api import Batch, Output, Signals, StrategyContext


@dataclass(frozen=True)
class AttentionTransfer:
    """Match attention (B, heads, ..., L), averaged over heads.

    form `kl`: KL(a_t || a_s) of attention weights, as of a target over a history; positions to which the teacher gives
    exactly zero are padding and count on neither side. form `maps`: squared distance of the L2-normalised mean over heads of
    |a|^power, for any maps.
    """

    student_attention: Names = "fields"
    teacher_attention: Names = "fields"
    form: Literal["kl", "maps"] = "kl"
    power: float = 2.0

    signals: ClassVar[frozenset[str]] = frozenset({"attention"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "safe"
    reference: ClassVar[str] = "Zagoruyko & Komodakis, 2017, Paying more attention to attention (ICLR)"
    fixed_point: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.form not in ("kl", "maps"):
            raise ValueError(f"form must be kl or maps, not {self.form!r}")

    def attach(self, context: StrategyContext) -> Callable[[Output, Signals, Batch], Tensor]:
        pairs = matched_pairs(self.student_attention, self.teacher_attention)
        for own, other in pairs:
            for name, side, found in (
                (own, "student", context.student_attention),
                (other, "teacher", context.teacher_attention),
            ):
                if name not in found:
                    raise ValueError(f"the {side} has no attention {name!r}; it has {', '.join(sorted(found)) or 'none'}")
            if context.student_attention[own][1:] != context.teacher_attention[other][1:]:
                raise ValueError(
                    f"attention {own!r} is over {context.student_attention[own][1:]}, the teacher's {other!r} over "
                    f"{context.teacher_attention[other][1:]}: both must look at the same things"
                )

        def loss(student: Output, teacher: Signals, batch: Batch) -> Tensor:
            total = nothing(student)
            for own, other in pairs:
                rows = self.rows(student.attention[own].float(), teacher.attention[other].detach().float())
                total = total + masked_mean(rows, teacher.mask) / len(pairs)
            return total

        return loss

    def rows(self, own: Tensor, other: Tensor) -> Tensor:
        """Return (B,) from attention (B, heads, ..., L)."""
        if self.form == "maps":
            maps = [a.abs().pow(self.power).mean(1).flatten(1) for a in (own, other)]
            unit = [m / m.norm(dim=1, keepdim=True).clamp(min=1e-12) for m in maps]
            return (unit[0] - unit[1]).square().sum(1)
        a_s, a_t = own.mean(1), other.mean(1)
        real = a_t > 0
        shares = [
            torch.where(real, a, 0.0) / torch.where(real, a, 0.0).sum(-1, keepdim=True).clamp(min=1e-12) for a in (a_s, a_t)
        ]
        logs = [share.clamp(min=1e-12).log() for share in shares]
        divergence = torch.where(real, shares[1] * (logs[1] - logs[0]), 0.0).sum(-1)
        return divergence if divergence.dim() == 1 else divergence.flatten(1).mean(1)
