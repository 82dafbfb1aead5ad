"""Formulas against naive loops, limits and identities."""

from __future__ import annotations

import math

import pytest
import torch

from recstill.api import LabelSpec, Output, Signals, StrategyContext
from recstill.testing import assert_passed, check_strategy
from recstill.testing.samples import LABELS, sample_batch, sample_signals
from recstill_strategies.auxiliary import AuxiliaryHead
from recstill_strategies.logit import HardTarget, SoftHardMix, SoftTarget
from recstill_strategies.losses import masked_mean, soft_divergence

CLICK, GRADE, AMOUNT = LABELS


@pytest.mark.parametrize("factory", [SoftTarget, HardTarget, SoftHardMix, AuxiliaryHead])
def test_it_conforms(factory: type) -> None:
    assert_passed(check_strategy(factory))


@pytest.mark.parametrize("factory", [SoftTarget, SoftHardMix, AuxiliaryHead])
def test_it_conforms_at_a_higher_temperature(factory: type) -> None:
    assert_passed(check_strategy(factory, temperature=4.0))


@pytest.mark.parametrize("t", [1.0, 2.0, 8.0])
def test_binary_soft_target_equals_the_naive_formula(t: float) -> None:
    z_s, z_t = torch.tensor([0.3, -2.0, 4.0]), torch.tensor([1.0, -1.0, 0.0])
    found = soft_divergence(CLICK, z_s, z_t, t)
    for place in range(3):
        p, q = (1 / (1 + math.exp(-float(z[place]) / t)) for z in (z_t, z_s))
        naive = t**2 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
        assert found[place].item() == pytest.approx(naive, abs=1e-5)


@pytest.mark.parametrize("t", [1.0, 3.0])
def test_multiclass_soft_target_equals_the_naive_formula_summed_over_classes(t: float) -> None:
    signals, student = sample_signals(4, seed=5).logits["grade"], sample_signals(4, seed=6).logits["grade"]
    found = soft_divergence(GRADE, student, signals, t)
    for row in range(4):
        p = [math.exp(float(z) / t) for z in signals[row]]
        q = [math.exp(float(z) / t) for z in student[row]]
        naive = t**2 * sum(a / sum(p) * math.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q, strict=True))
        assert found[row].item() == pytest.approx(naive, abs=1e-5)


def test_at_temperature_one_the_gradient_is_the_difference_of_probabilities() -> None:
    z_s = torch.tensor([0.3, -2.0, 4.0], requires_grad=True)
    z_t = torch.tensor([1.0, -1.0, 0.0])
    soft_divergence(CLICK, z_s, z_t, 1.0).sum().backward()
    assert torch.allclose(z_s.grad, torch.sigmoid(z_s) - torch.sigmoid(z_t), atol=1e-6)


def test_at_high_temperature_it_becomes_logit_regression() -> None:
    z_s = torch.tensor([0.3, -2.0, 4.0], requires_grad=True)
    z_t = torch.tensor([1.0, -1.0, 0.0])
    soft_divergence(CLICK, z_s, z_t, 300.0).sum().backward()
    assert torch.allclose(z_s.grad, (z_s - z_t).detach() / 4, atol=1e-3)


def test_a_count_is_pulled_by_the_difference_of_means() -> None:
    z_s, z_t = torch.tensor([0.5, 1.0], requires_grad=True), torch.tensor([1.0, 0.0])
    soft_divergence(AMOUNT, z_s, z_t, 1.0).sum().backward()
    assert torch.allclose(z_s.grad, z_s.detach().exp() - z_t.exp(), atol=1e-6)


def test_the_mix_lies_between_its_ends() -> None:
    context = StrategyContext(LABELS, {}, {})
    batch, student, teacher = sample_batch(), Output(sample_signals(seed=2).logits), sample_signals()
    soft, hard = (s.attach(context)(student, teacher, batch) for s in (SoftTarget(), HardTarget()))
    mix = SoftHardMix(soft_share=0.25).attach(context)(student, teacher, batch)
    assert mix.item() == pytest.approx(0.25 * soft.item() + 0.75 * hard.item(), rel=1e-5)


def test_the_auxiliary_heads_gradient_is_scaled_on_its_way_to_the_backbone() -> None:
    batch, teacher, gradients = sample_batch(), sample_signals(), []
    for scale in (1.0, 0.25):
        hidden = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        torch.manual_seed(0)
        loss = AuxiliaryHead(gradient_scale=scale).attach(StrategyContext(LABELS, {"backbone": 8}, {}))
        loss(Output({}, {"backbone": hidden}), teacher, batch).backward()
        gradients.append(hidden.grad)
    assert torch.allclose(gradients[0] * 0.25, gradients[1])


def test_a_label_that_one_side_lacks_is_left_out() -> None:
    context = StrategyContext((*LABELS, LabelSpec(name="other")), {}, {})
    student, teacher = (
        Output({"click": torch.randn(64)}),
        Signals({"click": torch.randn(64), "x": torch.randn(64)}, torch.ones(64)),
    )
    expected = masked_mean(soft_divergence(CLICK, student.logits["click"], teacher.logits["click"], 1.0), teacher.mask)
    assert torch.equal(SoftTarget().attach(context)(student, teacher, sample_batch()), expected)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: SoftTarget(temperature=0), "temperature must be above 0"),
        (lambda: SoftHardMix(soft_share=2), "soft_share must be between 0 and 1"),
        (lambda: AuxiliaryHead(hidden="x").attach(StrategyContext(LABELS, {"backbone": 8}, {})), "no hidden vector 'x'"),
        (lambda: HardTarget().attach(StrategyContext((AMOUNT,), {}, {})), "needs a binary or multiclass label"),
    ],
)
def test_options_that_cannot_work_are_refused(build: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()  # type: ignore[operator]
