"""Strategies on hidden vectors: the student's, mapped by parts that are dropped at export, must come near the teacher's.

`student_hidden` and `teacher_hidden` name vectors; several names are matched pair by pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from recstill.api import Schedule
from recstill_strategies.checks import above_zero, known_width
from recstill_strategies.grouping import nothing
from recstill_strategies.losses import masked_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from recstill.api import Batch, Output, Signals, StrategyContext

Names = str | tuple[str, ...] | list[str]


def names_of(names: Names) -> tuple[str, ...]:
    """Return one name or several as a tuple."""
    return (names,) if isinstance(names, str) else tuple(names)


def matched_pairs(student: Names, teacher: Names) -> list[tuple[str, str]]:
    """Return (student, teacher) names. Raise ValueError if there are not as many of one as of the other."""
    pairs = names_of(student), names_of(teacher)
    if len(pairs[0]) != len(pairs[1]):
        raise ValueError(
            f"student_hidden names {len(pairs[0])} vectors, teacher_hidden {len(pairs[1])}: they are matched in order"
        )
    return list(zip(*pairs, strict=True))


class _OverPairs(nn.Module):
    """Sum over pairs of hidden vectors of the masked mean of a part's answer: part(h_s, h_t) -> (B,)."""

    def __init__(self, pairs: Sequence[tuple[str, str]], parts: Sequence[nn.Module], weights: Sequence[float] = ()) -> None:
        super().__init__()
        self.pairs, self.parts = list(pairs), nn.ModuleList(parts)
        self.weights = list(weights) or [1.0 / len(pairs)] * len(pairs)

    def forward(self, student: Output, teacher: Signals, batch: Batch) -> Tensor:
        total = nothing(student)
        for (own, other), part, weight in zip(self.pairs, self.parts, self.weights, strict=True):
            rows = part(student.hidden[own].float(), teacher.hidden[other].detach().float())
            total = total + weight * masked_mean(rows, teacher.mask)
        return total


def attach_pairs(context: StrategyContext, student: Names, teacher: Names, make: Callable[[int, int], nn.Module]) -> _OverPairs:
    """Build one part per pair of names from its two widths."""
    pairs = matched_pairs(student, teacher)
    widths = [
        (known_width(context.student_hidden, s, "student"), known_width(context.teacher_hidden, t, "teacher")) for s, t in pairs
    ]
    return _OverPairs(pairs, [make(*width) for width in widths])


class _Projected(nn.Module):
    """Mean over the width of (R(h_s) - h_t)²; R is linear, or has one hidden layer."""

    def __init__(self, width: int, target: int, layers: int) -> None:
        super().__init__()
        middle = (width + target) // 2
        deep = nn.Sequential(nn.Linear(width, middle), nn.ReLU(), nn.Linear(middle, target))
        self.project: nn.Module = nn.Linear(width, target) if layers == 1 else deep

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        return (self.project(own) - other).square().mean(1)


@dataclass(frozen=True)
class Hint:
    """FitNets: mean squared distance of a projected hidden vector to the teacher's; the projector trains along and is never
    exported. A mean over the width too, so one weight fits all widths."""

    student_hidden: Names = "backbone"
    teacher_hidden: Names = "backbone"
    layers: int = 1

    signals: ClassVar[frozenset[str]] = frozenset({"hidden"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "safe"
    reference: ClassVar[str] = "Romero et al., 2015, FitNets (ICLR)"
    fixed_point: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.layers not in (1, 2):
            raise ValueError(f"layers must be 1 or 2, not {self.layers}")

    def attach(self, context: StrategyContext) -> _OverPairs:
        return attach_pairs(context, self.student_hidden, self.teacher_hidden, lambda s, t: _Projected(s, t, self.layers))


class _Variational(nn.Module):
    def __init__(self, width: int, target: int, start: float) -> None:
        super().__init__()
        self.mean = nn.Linear(width, target)
        self.rho = nn.Parameter(torch.full((target,), float(torch.log(torch.expm1(torch.tensor(start))))))

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        variance = F.softplus(self.rho) + 1e-5
        return 0.5 * ((other - self.mean(own)).square() / variance + variance.log()).mean(1)


@dataclass(frozen=True)
class VariationalInformation:
    """VID: the log likelihood of the teacher's vector under a Gaussian whose mean the student gives and whose variance is
    learned per channel, so channels that the student cannot tell count less. 0.5 [(h_t - mu)²/v + log v], v = softplus(rho)."""

    student_hidden: Names = "backbone"
    teacher_hidden: Names = "backbone"
    start_variance: float = 5.0

    signals: ClassVar[frozenset[str]] = frozenset({"hidden"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "safe"
    reference: ClassVar[str] = "Ahn et al., 2019, Variational information distillation (CVPR)"
    fixed_point: ClassVar[bool] = False

    def __post_init__(self) -> None:
        above_zero(start_variance=self.start_variance)

    def attach(self, context: StrategyContext) -> _OverPairs:
        return attach_pairs(
            context, self.student_hidden, self.teacher_hidden, lambda s, t: _Variational(s, t, self.start_variance)
        )


class _Experts(nn.Module):
    def __init__(self, width: int, target: int, options: DistillationExperts, context: StrategyContext) -> None:
        super().__init__()
        middle = (width + target) // 2
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, middle), nn.ReLU(), nn.Linear(middle, target)) for _ in range(options.experts)
        )
        self.choose = nn.Linear(target, options.experts)
        self.options, self.context = options, context

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        tau = self.options.annealing.at(self.context.progress())
        logits = F.log_softmax(self.choose(other), 1)
        noise = -torch.log(-torch.log(torch.rand_like(logits).clamp(1e-20, 1 - 1e-7))) if self.training else 0.0
        gate = torch.softmax((logits + noise) / tau, 1)
        answers = torch.stack([expert(own) for expert in self.experts], 1)
        return ((gate.unsqueeze(2) * answers).sum(1) - other).square().mean(1)


@dataclass(frozen=True)
class DistillationExperts:
    """DE: several experts rebuild the teacher's vector, chosen per row by a Gumbel softmax of that vector whose temperature
    falls, so that one kind of entity does not blur another's knowledge. ||h_t - sum_k g_k E_k(h_s)||², a mean over it."""

    student_hidden: Names = "backbone"
    teacher_hidden: Names = "backbone"
    experts: int = 8
    start: float = 1.0
    stop: float = 0.1

    signals: ClassVar[frozenset[str]] = frozenset({"hidden"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "safe"
    reference: ClassVar[str] = "Kang et al., 2020, DE-RRD (CIKM)"
    fixed_point: ClassVar[bool] = False

    def __post_init__(self) -> None:
        above_zero(experts=self.experts, start=self.start, stop=self.stop)

    @property
    def annealing(self) -> Schedule:
        """The temperature over the stage."""
        return Schedule(self.start, self.stop, 1.0, "exponential")

    def attach(self, context: StrategyContext) -> _OverPairs:
        return attach_pairs(context, self.student_hidden, self.teacher_hidden, lambda s, t: _Experts(s, t, self, context))


def propose_layer_map(student: Sequence[str], teacher: Sequence[str]) -> dict[str, str]:
    """Map each student layer to the teacher layer at the same share of the depth, the last to the last (uniform skipping)."""
    if not student or not teacher:
        raise ValueError("a layer map needs hidden vectors on both sides")
    step = len(teacher) / len(student)
    return {name: teacher[min(round((place + 1) * step), len(teacher)) - 1] for place, name in enumerate(student)}


@dataclass(frozen=True)
class MultiLevel:
    """Hints on several layers: layer_map names {student layer: teacher layer}, and is proposed by depth when it is empty;
    weights {student layer: weight} are equal unless given, and sum to 1."""

    layer_map: dict[str, str] | None = None
    weights: dict[str, float] | None = None

    signals: ClassVar[frozenset[str]] = frozenset({"hidden"})
    reduction: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "safe"
    reference: ClassVar[str] = "Jiao et al., 2020, TinyBERT; Sun et al., 2019, Patient KD (uniform skipping)"
    fixed_point: ClassVar[bool] = False

    @property
    def teacher_hidden(self) -> tuple[str, ...]:
        """What must be stored of the teacher: `*` for all, until the map is known."""
        return tuple(self.layer_map.values()) if self.layer_map else ("*",)

    def attach(self, context: StrategyContext) -> _OverPairs:
        chosen = self.layer_map or propose_layer_map(list(context.student_hidden), list(context.teacher_hidden))
        loss = attach_pairs(context, tuple(chosen), tuple(chosen.values()), lambda s, t: _Projected(s, t, 1))
        given = self.weights or {}
        if unknown := set(given) - set(chosen):
            raise ValueError(f"weights name {', '.join(sorted(unknown))}, which the layer map lacks: {', '.join(chosen)}")
        raw = [given.get(name, 1.0) for name in chosen]
        loss.weights = [weight / sum(raw) for weight in raw]
        return loss
