"""List strategies against naive loops written from their formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from recstill.api import Batch, LabelSpec, Output, Signals, StrategyContext
from recstill_strategies.lists import (
    CalibratedList,
    CollaborativeDistillation,
    ListKL,
    MarginMSE,
    RankDistil,
    RankingDistillation,
    RelaxedRanking,
    TopKCrossEntropy,
    UnbiasedRanking,
)

CONTEXT = StrategyContext((LabelSpec(name="click", primary=True),), {}, {})
# Two lists of four and three rows, one row alone, one row of no list.
GROUPS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, -1])
LISTS = [[0, 1, 2, 3], [4, 5, 6]]
Z_S = torch.tensor([0.3, -1.0, 2.0, 0.1, -0.5, 0.4, 1.5, 9.0, 9.0])
Z_T = torch.tensor([1.0, 0.2, -0.7, 2.2, 0.9, -1.1, 0.3, -9.0, -9.0])


def batch(**attributes: torch.Tensor) -> Batch:
    labels = {"click": torch.tensor([1.0, 0, 0, 1, 0, 0, 1, 0, 0])}
    return Batch(torch.zeros(9, 1), None, labels=labels, groups=GROUPS, attributes=attributes)


def value(strategy: object, z_s: torch.Tensor = Z_S, context: StrategyContext = CONTEXT, **attributes: torch.Tensor) -> float:
    return strategy.attach(context)(Output({"click": z_s}), Signals({"click": Z_T}, torch.ones(9)), batch(**attributes)).item()


def softmax(values: list[float]) -> list[float]:
    return [math.exp(v) / sum(math.exp(w) for w in values) for v in values]


def by_teacher(rows: list[int]) -> list[int]:
    return sorted(rows, key=lambda row: -float(Z_T[row]))


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


@pytest.mark.parametrize("t", [1.0, 2.0])
def test_list_kl(t: float) -> None:
    naive = 0.0
    for rows in LISTS:
        p, q = softmax([float(Z_T[r]) / 3 for r in rows]), softmax([float(Z_S[r]) / t for r in rows])
        naive += t**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 2
    assert value(ListKL(temperature=t, teacher_temperature=3.0)) == pytest.approx(naive, abs=1e-5)


def test_topk_cross_entropy() -> None:
    naive = 0.0
    for rows in LISTS:
        best = by_teacher(rows)[:2]
        p, q = softmax([float(Z_T[r]) for r in best]), softmax([float(Z_S[r]) for r in rows])
        naive -= sum(a * math.log(q[rows.index(r)]) for a, r in zip(p, best, strict=True)) / 2
    assert value(TopKCrossEntropy(top=2)) == pytest.approx(naive, abs=1e-5)


def test_relaxed_ranking() -> None:
    naive = 0.0
    for rows in LISTS:
        order = by_teacher(rows)
        for k in range(2):
            below = sum(math.exp(float(Z_S[r])) for r in order[k:])
            naive -= (float(Z_S[order[k]]) - math.log(below)) / 2 / 2
    assert value(RelaxedRanking(top=2)) == pytest.approx(naive, abs=1e-5)


def test_relaxed_ranking_clamps_scores_that_would_overflow() -> None:
    scores = Z_S * 1e6
    found = RelaxedRanking().attach(CONTEXT)(Output({"click": scores}), Signals({"click": Z_T}, torch.ones(9)), batch())
    assert torch.isfinite(found)
    assert found <= 80 + math.log(4)


@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_ranking_distillation_before_and_after_its_warm_up(progress: float) -> None:
    naive = 0.0
    for rows in LISTS:
        best = by_teacher(rows)[:2]
        weights = [math.exp(-r / 2.0) for r in range(2)]
        ranks = sorted(rows, key=lambda row: -float(Z_S[row]))
        for r, row in enumerate(best):
            weight = weights[r] / sum(weights)
            if progress:
                weight *= max(0.0, math.tanh(0.1 * (ranks.index(row) - r)))
            naive -= weight * math.log(sigmoid(float(Z_S[row]))) / 2
    context = replace(CONTEXT, progress=lambda: progress)
    assert value(RankingDistillation(top=2, decay=2.0), context=context) == pytest.approx(naive, abs=1e-5)


def test_collaborative() -> None:
    naive = 0.0
    for rows in LISTS:
        order = by_teacher(rows)
        weights = {row: math.exp(-order.index(row) / 3.0) for row in rows}
        for row in rows:
            p, q = sigmoid((float(Z_T[row]) + 0.5) / 2.0), sigmoid(float(Z_S[row]))
            naive -= weights[row] / sum(weights.values()) * (p * math.log(q) + (1 - p) * math.log(1 - q)) / 2
    assert value(CollaborativeDistillation(scale=2.0, shift=0.5, decay=3.0)) == pytest.approx(naive, abs=1e-5)


@pytest.mark.parametrize("positives_only", [False, True])
def test_margin_mse_over_all_pairs_and_over_positive_pairs(positives_only: bool) -> None:
    naive, labels = 0.0, batch().labels["click"]
    for rows in LISTS:
        pairs = [(a, b) for a in rows for b in rows if not positives_only or (labels[a] > 0 and labels[b] <= 0)]
        margins = [float((Z_S[a] - Z_S[b]) - (Z_T[a] - Z_T[b])) ** 2 for a, b in pairs]
        naive += sum(margins) / len(pairs) / 2
    assert value(MarginMSE(positives_only=positives_only)) == pytest.approx(naive, abs=1e-5)


def test_clid_normalises_probabilities_within_the_list() -> None:
    naive = 0.0
    for rows in LISTS:
        p, q = [sigmoid(float(Z_T[r])) for r in rows], [sigmoid(float(Z_S[r])) for r in rows]
        naive += sum(a / sum(p) * math.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q, strict=True)) / 2
    assert value(CalibratedList()) == pytest.approx(naive, abs=1e-5)


def test_clid_leaves_the_scale_of_small_probabilities_alone() -> None:
    """Halving every small probability of a list changes next to nothing, where a softmax of logits would not care at all and
    a pointwise loss very much: the label loss alone decides the scale."""
    low = Z_S - 9.0
    shifted = value(CalibratedList(), low - math.log(2))
    assert shifted == pytest.approx(value(CalibratedList(), low), rel=1e-3)


def test_unkd_compares_within_strata_of_popularity_only() -> None:
    popularity = torch.tensor([1.0, 1, 9, 9, 1, 9, 9, 1, 1])
    naive = 0.0
    for rows in LISTS:
        total = weights = 0.0
        for stratum in (1.0, 9.0):
            order = [r for r in by_teacher(rows) if popularity[r] == stratum]
            for i in range(len(order)):
                for j in range(i + 1, len(order)):
                    weight = math.exp(-i / 20) * math.exp(-j / 20)
                    total -= weight * math.log(sigmoid(float(Z_S[order[i]] - Z_S[order[j]])))
                    weights += weight
        naive += total / weights / 2
    assert value(UnbiasedRanking(strata=2), popularity=popularity) == pytest.approx(naive, abs=1e-5)


def test_rank_distil_without_noise_is_the_likelihood_of_the_teachers_order() -> None:
    """With a temperature near zero the drawn order is the teacher's own."""
    torch.manual_seed(0)
    assert value(RankDistil(top=3, samples=1, temperature=1e-4)) == pytest.approx(value(RelaxedRanking(top=3)), abs=1e-5)


def test_a_batch_without_lists_gives_zero_and_one_that_cannot_have_any_is_refused() -> None:
    student, teacher = Output({"click": Z_S}), Signals({"click": Z_T}, torch.ones(9))
    assert ListKL().attach(CONTEXT)(student, teacher, replace(batch(), groups=torch.arange(9))) == 0
    with pytest.raises(ValueError, match="do not say which belong together"):
        ListKL().attach(CONTEXT)(student, teacher, replace(batch(), groups=None))
    with pytest.raises(ValueError, match="lists need one score a row"):
        ListKL().attach(replace(CONTEXT, labels=(LabelSpec(name="g", kind="multiclass", num_classes=3, primary=True),)))


def test_a_lists_order_in_the_batch_does_not_matter() -> None:
    shuffled = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    mixed = replace(batch(), groups=GROUPS[shuffled], labels={"click": batch().labels["click"][shuffled]})
    signals = Signals({"click": Z_T[shuffled]}, torch.ones(9))
    for strategy in (ListKL(), RelaxedRanking(), MarginMSE()):
        found = strategy.attach(CONTEXT)(Output({"click": Z_S[shuffled]}), signals, mixed)
        assert found.item() == pytest.approx(value(strategy), abs=1e-5)
