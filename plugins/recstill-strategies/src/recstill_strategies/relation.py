"""Strategies on relations: how far entities are from each other in the teacher's space must hold in the student's.

Entities are the rows' hidden vectors; at most `entities` of a batch take part, drawn at random, so the cost stays linear in
the batch. Several names are put under each other: for a two-tower, queries and items form one topology.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from recstill_strategies.checks import above_zero, known_width, within
from recstill_strategies.feature import Names, matched_pairs
from recstill_strategies.grouping import nothing

if TYPE_CHECKING:
    from recstill.api import Batch, Output, Signals, StrategyContext


class _OverEntities(nn.Module):
    """Gather the entities of a batch and ask the strategy."""

    def __init__(self, strategy: _RelationStrategy, context: StrategyContext) -> None:
        super().__init__()
        self.strategy, self.context = strategy, context
        self.pairs = matched_pairs(strategy.student_hidden, strategy.teacher_hidden)
        own = {known_width(context.student_hidden, name, "student") for name, _ in self.pairs}
        other = {known_width(context.teacher_hidden, name, "teacher") for _, name in self.pairs}
        if len(own) > 1 or len(other) > 1:
            raise ValueError("vectors that form one topology must have one width on each side")
        self.part = strategy.part(own.pop(), other.pop())

    def forward(self, student: Output, teacher: Signals, batch: Batch) -> Tensor:
        rows = torch.nonzero(teacher.mask > 0).squeeze(1)
        if len(rows) < 3:
            return nothing(student)
        limit = self.strategy.entities // len(self.pairs)
        if len(rows) > limit:
            rows = rows[torch.randperm(len(rows))[:limit]]
        own = torch.cat([student.hidden[name][rows].float() for name, _ in self.pairs])
        other = torch.cat([teacher.hidden[name][rows].detach().float() for _, name in self.pairs])
        return self.strategy.relate(own, other, self.part, self.context)


@dataclass(frozen=True)
class _RelationStrategy:
    student_hidden: Names = "backbone"
    teacher_hidden: Names = "backbone"
    entities: int = 256

    signals: ClassVar[frozenset[str]] = frozenset({"hidden"})
    reduction: ClassVar[str] = "pairs"
    calibration: ClassVar[str] = "safe"
    fixed_point: ClassVar[bool] = False

    def __post_init__(self) -> None:
        above_zero(entities=self.entities - 2)

    def attach(self, context: StrategyContext) -> _OverEntities:
        return _OverEntities(self, context)

    def part(self, width: int, target: int) -> nn.Module | None:
        """Return what trains beside the student, if anything."""
        return None

    def relate(self, own: Tensor, other: Tensor, part: nn.Module | None, context: StrategyContext) -> Tensor:
        """Return the loss of entities (E, d_s) and (E, d_t)."""
        raise NotImplementedError


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """Return (N, M): the cosine of every row of one with every row of the other."""
    return F.normalize(first, dim=1, eps=1e-8) @ F.normalize(second, dim=1, eps=1e-8).t()


@dataclass(frozen=True)
class RelationalKD(_RelationStrategy):
    """RKD: smooth L1 of distances over their mean, and of the cosines of angles among up to `triples` entities."""

    distance: float = 25.0
    angle: float = 50.0
    triples: int = 32

    reference: ClassVar[str] = "Park et al., 2019, Relational knowledge distillation (CVPR)"

    def relate(self, own: Tensor, other: Tensor, part: nn.Module | None, context: StrategyContext) -> Tensor:
        scaled = [self._distances(vectors) for vectors in (own, other)]
        total = self.distance * F.smooth_l1_loss(scaled[0], scaled[1])
        if self.angle:
            angles = [self._angles(vectors[: self.triples]) for vectors in (own, other)]
            total = total + self.angle * F.smooth_l1_loss(angles[0], angles[1])
        return total

    def _distances(self, vectors: Tensor) -> Tensor:
        # By the Gram matrix: all differences of 256 entities of 200 dimensions would be 13 M numbers a step.
        norms = vectors.square().sum(1)
        squares = norms.unsqueeze(1) + norms.unsqueeze(0) - 2 * vectors @ vectors.t()
        distances = (squares.clamp(min=0.0) + 1e-12).sqrt() * (1 - torch.eye(len(vectors)))
        mean = distances.sum() / (len(vectors) * (len(vectors) - 1))
        return distances / mean.clamp(min=1e-12)

    def _angles(self, vectors: Tensor) -> Tensor:
        directions = F.normalize(vectors.unsqueeze(0) - vectors.unsqueeze(1), dim=2, eps=1e-8)
        return torch.bmm(directions, directions.transpose(1, 2))


@dataclass(frozen=True)
class ProbabilisticTransfer(_RelationStrategy):
    """PKT: KL between the rows of the normalised similarities (1 + cos) / 2."""

    reference: ClassVar[str] = "Passalis & Tefas, 2018, Probabilistic knowledge transfer (ECCV)"

    def relate(self, own: Tensor, other: Tensor, part: nn.Module | None, context: StrategyContext) -> Tensor:
        shares = []
        for vectors in (own, other):
            similar = (cosines(vectors, vectors) + 1) / 2
            shares.append((similar / similar.sum(1, keepdim=True)).clamp(min=1e-12))
        return (shares[1] * (shares[1].log() - shares[0].log())).sum(1).mean()


@dataclass(frozen=True)
class SimilarityPreserving(_RelationStrategy):
    """SP: squared distance of the Gram matrices with rows of length 1, a mean over rows (the paper divides by one more E)."""

    reference: ClassVar[str] = "Tung & Mori, 2019, Similarity-preserving knowledge distillation (ICCV)"

    def relate(self, own: Tensor, other: Tensor, part: nn.Module | None, context: StrategyContext) -> Tensor:
        grams = [F.normalize(vectors @ vectors.t(), dim=1, eps=1e-12) for vectors in (own, other)]
        return (grams[0] - grams[1]).square().sum(1).mean()


@dataclass(frozen=True)
class FullTopology(_RelationStrategy):
    """FTD: mean over all pairs of (cos(s_i, s_j) - cos(t_i, t_j))²."""

    reference: ClassVar[str] = "Kang et al., 2021, Topology distillation for recommender systems (KDD)"

    def relate(self, own: Tensor, other: Tensor, part: nn.Module | None, context: StrategyContext) -> Tensor:
        return (cosines(own, own) - cosines(other, other)).square().mean()


class _Grouping(nn.Module):
    """Groups of entities, found by rebuilding the teacher's vector with one expert per group."""

    def __init__(self, width: int, target: int, groups: int) -> None:
        super().__init__()
        middle = (width + target) // 2
        self.choose = nn.Linear(target, groups)
        self.into = nn.Parameter(torch.randn(groups, width, middle) / width**0.5)
        self.out = nn.Parameter(torch.randn(groups, middle, target) / middle**0.5)

    def forward(self, own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Return the hard assignment (E, groups), with a soft gradient, and what each entity's expert rebuilds (E, d_t)."""
        logits = self.choose(other)
        noise = -torch.log(-torch.log(torch.rand_like(logits).clamp(1e-20, 1 - 1e-7))) if self.training else 0.0
        soft = torch.softmax(logits + noise, 1)
        hard = F.one_hot(soft.argmax(1), soft.shape[1]).float()
        answers = torch.einsum("ed,gdm->egm", own, self.into).relu()
        answers = torch.einsum("egm,gmt->egt", answers, self.out)
        chosen = hard + soft - soft.detach()
        return hard, (chosen.unsqueeze(2) * answers).sum(1)


@dataclass(frozen=True)
class HierarchicalTopology(_RelationStrategy):
    """HTD: relations among entities only within a group, and of all entities to the prototypes of all groups, where groups
    are learned by rebuilding: alpha (within + to prototypes) + (1 - alpha) rebuilding.

    A prototype is the mean vector of a group, on each side of its own space.
    """

    groups: int = 30
    alpha: float = 0.5

    reference: ClassVar[str] = "Kang et al., 2021, Topology distillation for recommender systems (KDD)"

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero(groups=self.groups)
        within(0, 1, alpha=self.alpha)

    def part(self, width: int, target: int) -> nn.Module:
        return _Grouping(width, target, self.groups)

    def relate(self, own: Tensor, other: Tensor, part: nn.Module | None, context: StrategyContext) -> Tensor:
        assert part is not None
        hard, rebuilt = part(own, other)
        used = hard.sum(0) > 0
        shares = (hard[:, used] / hard[:, used].sum(0)).t()
        to_groups = (cosines(own, shares @ own) - cosines(other, shares @ other)).square().mean()
        together = hard @ hard.t()
        inside = (cosines(own, own) - cosines(other, other)).square() * together
        topology = to_groups + inside.sum() / together.sum().clamp(min=1.0)
        return self.alpha * topology + (1 - self.alpha) * (rebuilt - other).square().mean()
