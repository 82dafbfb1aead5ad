"""Strategies on lists: what the teacher would put on top, within the candidates of a request or the items of a query.

All are means over lists, of the primary label's logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from recstill_strategies.checks import above_zero, not_below
from recstill_strategies.grouping import Lists, nothing, to_lists

if TYPE_CHECKING:
    from recstill.api import Batch, Output, Signals, StrategyContext

CLAMP = 40.0  # e^40 is far from float32's limit and further than any ranking needs


@dataclass(frozen=True)
class _OverLists:
    label: str
    strategy: _ListStrategy
    context: StrategyContext

    def __call__(self, student: Output, teacher: Signals, batch: Batch) -> Tensor:
        lists = to_lists(batch, teacher)
        if lists is None:
            return nothing(student)
        z_s, z_t = lists.of(student.logits[self.label]), lists.of(teacher.logits[self.label].detach())
        return self.strategy.term(z_s, z_t, lists, batch, self.context).mean()


@dataclass(frozen=True)
class _ListStrategy:
    signals: ClassVar[frozenset[str]] = frozenset({"logits", "lists"})
    reduction: ClassVar[str] = "lists"
    calibration: ClassVar[str] = "unsafe"
    fixed_point: ClassVar[bool] = False

    def attach(self, context: StrategyContext) -> _OverLists:
        primary = next(label for label in context.labels if label.primary)
        if primary.kind == "multiclass":
            raise ValueError(f"lists need one score a row; label {primary.name!r} has {primary.num_classes}")
        return _OverLists(primary.name, self, context)

    def term(self, z_s: Tensor, z_t: Tensor, lists: Lists, batch: Batch, context: StrategyContext) -> Tensor:
        """Return (G,): the loss of each list, from scores (G, L)."""
        raise NotImplementedError


@dataclass(frozen=True)
class ListKL(_ListStrategy):
    """KL over candidates: T_s² KL(softmax(z_t / T_t) || softmax(z_s / T_s)). Two temperatures, since a cross-encoder's logits
    spread far wider than a dot product's."""

    temperature: float = 1.0
    teacher_temperature: float | None = None

    fixed_point: ClassVar[bool] = True
    reference: ClassVar[str] = "Cao et al., 2007, Learning to rank: ListNet; Hinton et al., 2015"

    def __post_init__(self) -> None:
        above_zero(temperature=self.temperature, teacher_temperature=self.teacher_temperature or 1.0)

    def term(self, z_s: Tensor, z_t: Tensor, lists: Lists, batch: Batch, context: StrategyContext) -> Tensor:
        log_t = lists.log_softmax(z_t / (self.teacher_temperature or self.temperature))
        log_s = lists.log_softmax(z_s / self.temperature)
        return self.temperature**2 * torch.where(lists.real, log_t.exp() * (log_t - log_s), 0.0).sum(1)


@dataclass(frozen=True)
class TopKCrossEntropy(_ListStrategy):
    """Cross-entropy between the teacher's softmax over its `top` best of the list and the student's over the whole list."""

    top: int = 40
    temperature: float = 1.0

    reference: ClassVar[str] = "Reddi et al., 2021, RankDistil (top-k objective); Hinton et al., 2015"

    def __post_init__(self) -> None:
        above_zero(temperature=self.temperature, top=self.top)

    def term(self, z_s: Tensor, z_t: Tensor, lists: Lists, batch: Batch, context: StrategyContext) -> Tensor:
        best = lists.order(z_t)[:, : self.top]
        target = torch.where(lists.real, z_t, -1e30).gather(1, best).div(self.temperature).softmax(1)
        log_s = lists.log_softmax(z_s / self.temperature).gather(1, best)
        real = lists.real.gather(1, best)
        return -(self.temperature**2) * torch.where(real, target * log_s, 0.0).sum(1)


@dataclass(frozen=True)
class RelaxedRanking(_ListStrategy):
    """RRD: the likelihood of the teacher's order of its `top` best, with all others below them in no order.

    -mean_k [z_k - log(sum_{i >= k} e^{z_i} + sum_{below} e^{z_j})]. The top is taken whole: its authors found sampling it
    unnecessary. Scores are clamped at ±40, a mean over k keeps the weight's meaning when `top` changes.
    """

    top: int = 40

    reference: ClassVar[str] = "Kang et al., 2020, DE-RRD (CIKM)"

    def __post_init__(self) -> None:
        above_zero(top=self.top)

    def term(self, z_s: Tensor, z_t: Tensor, lists: Lists, batch: Batch, context: StrategyContext) -> Tensor:
        order = lists.order(z_t)
        scores = torch.where(lists.real, z_s.clamp(-CLAMP, CLAMP), -1e30).gather(1, order)
        # From the end: log of the sum of everything at or below each place.
        below = torch.logcumsumexp(scores.flip(1), 1).flip(1)
        counted = lists.real.gather(1, order)[:, : self.top]
        terms = torch.where(counted, (below - scores)[:, : self.top], 0.0)
        return terms.sum(1) / counted.sum(1)


@dataclass(frozen=True)
class RankingDistillation(_ListStrategy):
    """RD: the teacher's `top` best are positives, weighted by place, and by how far below it the student ranks them.

    -sum_r w_r log sigma(z_r), w_r = normalised exp(-r / decay), times max(0, tanh(sharpness (rank_s - r))) once `warm_up` of
    the stage is done; the student's rank is that within the list, and no gradient flows through it.
    """

    top: int = 10
    decay: float = 1.0
    sharpness: float = 0.1
    warm_up: float = 0.1

    reference: ClassVar[str] = "Tang & Wang, 2018, Ranking distillation (KDD)"

    def __post_init__(self) -> None:
        above_zero(top=self.top, decay=self.decay, sharpness=self.sharpness)

    def term(self, z_s: Tensor, z_t: Tensor, lists: Lists, batch: Batch, context: StrategyContext) -> Tensor:
        best = lists.order(z_t)[:, : self.top]
        place = torch.arange(best.shape[1], dtype=torch.float32)
        weight = torch.where(lists.real.gather(1, best), torch.exp(-place / self.decay), 0.0)
        weight = weight / weight.sum(1, keepdim=True)
        if context.progress() >= self.warm_up:
            ranks = lists.order(z_s.detach()).argsort(1).gather(1, best).float()
            weight = weight * torch.tanh(self.sharpness * (ranks - place)).clamp(min=0.0)
        return -(weight * F.logsigmoid(z_s.gather(1, best))).sum(1)


@dataclass(frozen=True)
class CollaborativeDistillation(_ListStrategy):
    """CD: cross-entropy with the teacher's shifted, scaled score, on items drawn by exp(-rank / decay).

    The draw is replaced by its expectation, a weighted mean, which has the same gradient and no variance.
    """

    scale: float = 1.0
    shift: float = 0.0
    decay: float = 20.0

    fixed_point: ClassVar[bool] = True
    reference: ClassVar[str] = "Lee et al., 2019, Collaborative distillation for top-N recommendation (ICDM)"

    def __post_init__(self) -> None:
        above_zero(scale=self.scale, decay=self.decay)

    def term(self, z_s: Tensor, z_t: Tensor, lists: Lists, batch: Batch, context: StrategyContext) -> Tensor:
        rank = lists.order(z_t).argsort(1).float()
        weight = torch.where(lists.real, torch.exp(-rank / self.decay), 0.0)
        target = torch.sigmoid((z_t + self.shift) / self.scale)
        losses = F.binary_cross_entropy_with_logits(z_s, target, reduction="none")
        return (weight * torch.where(lists.real, losses, 0.0)).sum(1) / weight.sum(1)


@dataclass(frozen=True)
class RankDistil(_ListStrategy):
    """Cross-entropy between the top-k Plackett-Luce models of teacher and student, by `samples` orders drawn from the
    teacher's (Gumbel noise on its scores)."""

    top: int = 10
    samples: int = 8
    temperature: float = 1.0

    reference: ClassVar[str] = "Reddi et al., 2021, RankDistil (AISTATS)"

    def __post_init__(self) -> None:
        above_zero(top=self.top, samples=self.samples, temperature=self.temperature)

    def term(self, z_s: Tensor, z_t: Tensor, lists: Lists, batch: Batch, context: StrategyContext) -> Tensor:
        total = torch.zeros(len(z_s))
        plain = RelaxedRanking(self.top)
        for _ in range(self.samples):
            noise = -torch.log(-torch.log(torch.rand_like(z_t).clamp(1e-20, 1 - 1e-7)))
            total = total + plain.term(z_s, z_t / self.temperature + noise, lists, batch, context)
        return total / self.samples


@dataclass(frozen=True)
class MarginMSE(_ListStrategy):
    """Mean over pairs of a list of ((z_s_i - z_s_j) - (z_t_i - z_t_j))², on raw logits and signed.

    Over all ordered pairs this is twice the variance of z_s - z_t, which costs one pass instead of L². With `positives_only`
    a pair is a row whose label is above 0 and one whose label is not.
    """

    positives_only: bool = False

    fixed_point: ClassVar[bool] = True
    reference: ClassVar[str] = "Hofstätter et al., 2020, Improving efficient neural ranking models with cross-architecture KD"

    def term(self, z_s: Tensor, z_t: Tensor, lists: Lists, batch: Batch, context: StrategyContext) -> Tensor:
        difference = torch.where(lists.real, z_s - z_t, 0.0)
        if not self.positives_only:
            count = lists.real.sum(1)
            mean = difference.sum(1) / count
            return 2 * torch.where(lists.real, (difference - mean.unsqueeze(1)) ** 2, 0.0).sum(1) / count
        primary = next(label.name for label in context.labels if label.primary)
        positive = (lists.of(batch.labels[primary]) > 0) & lists.real
        negative = ~positive & lists.real
        pairs = (positive.unsqueeze(2) & negative.unsqueeze(1)).float()
        squares = (difference.unsqueeze(2) - difference.unsqueeze(1)) ** 2
        return (pairs * squares).sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1.0)


@dataclass(frozen=True)
class CalibratedList(_ListStrategy):
    """CLID: align probabilities that are normalised within the list, q_i = p_i / sum p, p = sigma(z).

    Unlike a softmax it leaves the scale of the probabilities to the label loss, so scores stay usable in an auction.
    """

    fixed_point: ClassVar[bool] = True
    calibration: ClassVar[str] = "as-teacher"
    reference: ClassVar[str] = "Gui et al., 2024, Calibration-compatible listwise distillation (CLID)"

    def term(self, z_s: Tensor, z_t: Tensor, lists: Lists, batch: Batch, context: StrategyContext) -> Tensor:
        log_t, log_s = lists.log_softmax(F.logsigmoid(z_t)), lists.log_softmax(F.logsigmoid(z_s))
        return torch.where(lists.real, log_t.exp() * (log_t - log_s), 0.0).sum(1)


@dataclass(frozen=True)
class UnbiasedRanking(_ListStrategy):
    """UnKD: pairs are compared only within a stratum of popularity, so the teacher's love of hits does not pass on.

    -log sigma(z_i - z_j) for i above j in the teacher's order, weighted by exp(-rank / decay) of both within the stratum
    (the expectation of drawing them so), over the teacher's `top` best of the list. Strata are quantiles of the batch.
    """

    strata: int = 3
    top: int = 60
    decay: float = 20.0

    signals: ClassVar[frozenset[str]] = frozenset({"logits", "lists", "attributes:popularity"})
    reference: ClassVar[str] = "Chen et al., 2023, Unbiased knowledge distillation for recommendation (WSDM)"

    def __post_init__(self) -> None:
        above_zero(top=self.top, decay=self.decay)
        not_below(1, strata=self.strata)

    def term(self, z_s: Tensor, z_t: Tensor, lists: Lists, batch: Batch, context: StrategyContext) -> Tensor:
        best = lists.order(z_t)[:, : self.top]
        popularity = lists.of(batch.attributes["popularity"])
        edges = torch.quantile(popularity[lists.real], torch.linspace(0, 1, self.strata + 1)[1:-1])
        stratum = torch.bucketize(popularity, edges, right=True).gather(1, best)
        real = lists.real.gather(1, best)
        scores = z_s.gather(1, best)
        same = (stratum.unsqueeze(2) == stratum.unsqueeze(1)) & real.unsqueeze(2) & real.unsqueeze(1)
        # Entries come in the teacher's order: the rank within the stratum counts earlier ones of the same.
        rank = torch.tril(same, -1).sum(2).float()
        weight = torch.exp(-rank / self.decay)
        pairs = torch.triu(same, 1) * weight.unsqueeze(2) * weight.unsqueeze(1)
        losses = -F.logsigmoid(scores.unsqueeze(2) - scores.unsqueeze(1))
        return (pairs * losses).sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1e-12)
