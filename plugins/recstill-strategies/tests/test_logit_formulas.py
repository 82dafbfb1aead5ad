"""Logit, head, multi-task, committee, perturbed and constrained strategies against naive formulas, limits and identities."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from recstill.api import Batch, LabelSpec, Output, Schedule, Signals, StrategyContext
from recstill.testing.samples import LABELS, sample_batch, sample_signals
from recstill_strategies.auxiliary import AuxiliaryHead, DecoupledTowers, StudentAdapter
from recstill_strategies.committee import CommitteeTarget, Continual, Rocket, Trajectory
from recstill_strategies.constraints import Fairness, PosteriorRegularisation
from recstill_strategies.logit import CrossDebias, DecoupledKD, Dist, LogitRegression, SoftTarget
from recstill_strategies.losses import soft_divergence
from recstill_strategies.multitask import CrossDistil, MultiTask
from recstill_strategies.perturbed import Adversarial, FeatureDropout, MixUp, SequenceAugment, UncertaintyWeighted

CLICK, GRADE, AMOUNT = LABELS
ONE = StrategyContext((CLICK,), {"backbone": 8}, {"backbone": 8})
Z_S, Z_T = torch.tensor([0.3, -2.0, 4.0]), torch.tensor([1.0, -1.0, 0.0])


def three_rows(**more: object) -> Batch:
    return Batch(torch.zeros(3, 1), None, labels={"click": torch.tensor([1.0, 0.0, 1.0])}, **more)


def click(logits: torch.Tensor) -> Output:
    return Output({"click": logits})


def said(logits: torch.Tensor, **more: object) -> Signals:
    return Signals({"click": logits}, torch.ones(len(logits)), **more)


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def test_logit_regression_is_the_mean_squared_difference_and_the_limit_of_soft_targets() -> None:
    found = LogitRegression().attach(ONE)(click(Z_S), said(Z_T), three_rows())
    assert found.item() == pytest.approx(float(((Z_S - Z_T) ** 2).mean()))
    hot = SoftTarget(temperature=1000.0).attach(ONE)(click(Z_S), said(Z_T), three_rows())
    assert hot.item() == pytest.approx(found.item() / 8, rel=1e-2)


@pytest.mark.parametrize(("loss", "naive"), [
    ("ce", lambda s, t: -(sigmoid(t) * math.log(sigmoid(s)) + (1 - sigmoid(t)) * math.log(1 - sigmoid(s)))),
    ("l1", lambda s, t: abs(s - t)),
    ("l2", lambda s, t: 0.5 * (s - t) ** 2),
])  # fmt: skip
def test_a_named_loss_is_used_where_it_fits(loss: str, naive: object) -> None:
    found = SoftTarget(loss=loss).attach(ONE)(click(Z_S), said(Z_T), three_rows())
    assert found.item() == pytest.approx(sum(naive(float(s), float(t)) for s, t in zip(Z_S, Z_T, strict=True)) / 3, abs=1e-5)


def test_kl_and_ce_have_the_same_gradient() -> None:
    gradients = []
    for loss in ("kl", "ce"):
        z_s = Z_S.clone().requires_grad_()
        SoftTarget(temperature=2.0, loss=loss).attach(ONE)(click(z_s), said(Z_T), three_rows()).backward()
        gradients.append(z_s.grad)
    assert torch.allclose(*gradients, atol=1e-6)


def test_a_loss_that_fits_no_label_is_refused() -> None:
    with pytest.raises(ValueError, match="loss 'bce' fits none of the labels: use auto, kl, l1, l2"):
        SoftTarget(loss="bce").attach(StrategyContext((AMOUNT,), {}, {}))


def test_a_schedule_moves_the_temperature() -> None:
    strategy = SoftTarget(temperature=Schedule(4.0, 1.0, until=0.5))
    for progress, t in ((0.0, 4.0), (0.25, 2.5), (0.5, 1.0), (1.0, 1.0)):
        found = strategy.attach(replace(ONE, progress=lambda p=progress: p))(click(Z_S), said(Z_T), three_rows())
        assert found.item() == pytest.approx(float(soft_divergence(CLICK, Z_S, Z_T, t).mean()), abs=1e-6)
    assert Schedule(1.0, 0.01, shape="exponential").at(0.5) == pytest.approx(0.1)
    assert Schedule(0.0, 1.0, shape="cosine").at(0.25) == pytest.approx((1 - math.cos(math.pi / 4)) / 2)
    with pytest.raises(ValueError, match="until must be above 0"):
        Schedule(0, 1, until=0)


def test_cross_debias_adds_the_log_of_the_sampling_rates() -> None:
    """Odds on a tenth of the negatives are ten times too high; the student keeps half of its own."""
    context = replace(ONE, sampling_rate=0.5)
    found = CrossDebias().attach(context)(click(Z_S), said(Z_T, sampling_rate=0.1), three_rows())
    shifted = Z_T + math.log(0.1) - math.log(0.5)
    assert found.item() == pytest.approx(float(soft_divergence(CLICK, Z_S, shifted, 1.0).mean()), abs=1e-6)


def test_dkd_splits_kl_into_its_two_parts() -> None:
    z_s, z_t = sample_signals(6, seed=1).logits["grade"], sample_signals(6, seed=2).logits["grade"]
    target = torch.tensor([0, 1, 2, 3, 0, 1])
    found = DecoupledKD(alpha=1.5, beta=3.0, temperature=2.0).rows(z_s, z_t, target)
    for row in range(6):
        q, p = ([math.exp(float(v) / 2) for v in z[row]] for z in (z_s, z_t))
        q, p = ([v / sum(x) for v in x] for x in (q, p))
        y = int(target[row])
        tckd = p[y] * math.log(p[y] / q[y]) + (1 - p[y]) * math.log((1 - p[y]) / (1 - q[y]))
        others = [(p[c] / (1 - p[y]), q[c] / (1 - q[y])) for c in range(4) if c != y]
        nckd = sum(a * math.log(a / b) for a, b in others)
        assert found[row].item() == pytest.approx(4 * (1.5 * tckd + 3.0 * nckd), abs=1e-4)
        # The identity of the paper: KL = TCKD + (1 - p_y) NCKD.
        kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        assert kl == pytest.approx(tckd + (1 - p[y]) * nckd, abs=1e-6)


def test_dkd_on_a_binary_label_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"three classes or more.*use soft-target"):
        DecoupledKD().attach(ONE)


def test_dist_is_one_minus_correlation_over_rows_and_columns_times_t_squared() -> None:
    z_s, z_t = sample_signals(6, seed=1).logits["grade"], sample_signals(6, seed=2).logits["grade"]
    context = StrategyContext((GRADE,), {}, {})
    found = Dist(beta=2.0, gamma=3.0, temperature=2.0).attach(context)(
        Output({"grade": z_s}), Signals({"grade": z_t}, torch.ones(6)), three_rows()
    )
    p_s, p_t = torch.softmax(z_s / 2, 1), torch.softmax(z_t / 2, 1)
    rows = [1 - float(torch.corrcoef(torch.stack([p_s[i], p_t[i]]))[0, 1]) for i in range(6)]
    columns = [1 - float(torch.corrcoef(torch.stack([p_s[:, j], p_t[:, j]]))[0, 1]) for j in range(4)]
    assert found.item() == pytest.approx(4 * (2 * sum(rows) / 6 + 3 * sum(columns) / 4), abs=1e-4)


def test_dist_does_not_mind_a_teacher_that_is_surer_by_a_factor() -> None:
    p = torch.tensor([0.01, 0.02, 0.03])
    context = StrategyContext((CLICK,), {}, {})
    found = Dist().attach(context)(click(torch.logit(p)), said(torch.logit(10 * p)), three_rows())
    assert found.item() == pytest.approx(0.0, abs=1e-4)


def test_the_auxiliary_label_scale_multiplies_the_teachers_probability_up_to_one() -> None:
    p = torch.tensor([0.01, 0.1, 0.5])
    found = AuxiliaryHead(label_scale=5.0).divergence(CLICK, Z_S, torch.logit(p))
    expected = soft_divergence(CLICK, Z_S, torch.logit(torch.tensor([0.05, 0.5, 1 - 1e-6])), 1.0)
    assert torch.allclose(found, expected, atol=1e-4)


def test_a_stalled_teacher_leaves_the_towers_parameters_alone() -> None:
    loss = DecoupledTowers().attach(ONE)
    student = Output({"click": torch.randn(3, requires_grad=True)}, {"backbone": torch.randn(3, 8, requires_grad=True)})
    loss(student, Signals({"click": Z_T}, torch.zeros(3)), three_rows()).backward()
    assert not student.hidden["backbone"].grad.any()
    assert not student.logits["click"].grad.any()


def test_the_student_adapter_learns_from_labels_and_teaches_the_head_only() -> None:
    torch.manual_seed(0)
    loss = StudentAdapter().attach(ONE)
    hidden = torch.randn(3, 8, requires_grad=True)
    adapted = loss.adapters["click"](Z_T.unsqueeze(1)).squeeze(1)
    head = loss.tower(hidden)["click"]
    y = torch.tensor([1.0, 0.0, 1.0])
    naive = F.binary_cross_entropy_with_logits(adapted, y) + soft_divergence(CLICK, head, adapted, 1.0).mean()
    found = loss(Output({"click": Z_S}, {"backbone": hidden}), said(Z_T), three_rows())
    assert found.item() == pytest.approx(naive.item(), abs=1e-6)


def test_multi_task_weighs_labels_and_leaves_out_what_a_teacher_does_not_know() -> None:
    labels = (CLICK, LabelSpec(name="convert", weight=0.5))
    context = StrategyContext(labels, {}, {})
    unknown = torch.tensor([0.5, math.nan, -1.0])
    student = Output({"click": Z_S, "convert": Z_S})
    teacher = Signals({"click": Z_T, "convert": unknown}, torch.ones(3))
    batch = Batch(torch.zeros(3, 1), None, labels={"click": torch.ones(3), "convert": torch.ones(3)})
    found = MultiTask(weights={"convert": 3.0}, temperatures={"click": 2.0}).attach(context)(student, teacher, batch)
    first = soft_divergence(CLICK, Z_S, Z_T, 2.0).mean()
    second = soft_divergence(labels[1], Z_S[[0, 2]], unknown[[0, 2]], 1.0).mean()
    assert found.item() == pytest.approx(float(first + 0.5 * 3.0 * second), abs=1e-5)
    with pytest.raises(ValueError, match="name nothing"):
        MultiTask(weights={"nothing": 1.0}).attach(context)


def test_cross_distil_orders_classes_calibrates_and_corrects() -> None:
    labels = (CLICK, LabelSpec(name="convert"))
    context = StrategyContext(labels, {}, {})
    loss = CrossDistil(correction=0.3, ranking=0.0).attach(context)
    y = {"click": torch.tensor([1.0, 1, 0]), "convert": torch.tensor([1.0, 0, 0])}
    teacher = Signals({"click": Z_T, "convert": Z_T}, torch.ones(3))
    student = Output({"click": Z_S, "convert": Z_S})
    found = loss(student, teacher, Batch(torch.zeros(3, 1), None, labels=y))
    naive = 0.0
    for name in y:
        target = 0.7 * torch.sigmoid(Z_T) + 0.3 * y[name]  # the cross layer starts as the identity, Platt scaling too
        naive += F.binary_cross_entropy_with_logits(Z_T, y[name]) + F.binary_cross_entropy_with_logits(Z_S, target)
    assert found.item() == pytest.approx(float(naive), abs=1e-5)
    ordered = loss._quadruplet(torch.tensor([3.0, 2.0, 1.0]), y["click"], y["convert"], torch.ones(3, dtype=torch.bool))
    assert ordered.item() == pytest.approx(-math.log(sigmoid(1.0)))


def test_a_committee_averages_probabilities_not_logits() -> None:
    context = replace(ONE, num_teachers=2)
    teacher = replace(said(torch.tensor([3.0, 0, 0])), others=(said(torch.tensor([-1.0, 0, 0])),))
    found = CommitteeTarget(weights=(0.25, 0.75)).attach(context)(click(Z_S), teacher, three_rows())
    p = 0.25 * sigmoid(3.0) + 0.75 * sigmoid(-1.0)
    target = torch.tensor([math.log(p / (1 - p)), 0.0, 0.0])
    assert found.item() == pytest.approx(float(soft_divergence(CLICK, Z_S, target, 1.0).mean()), abs=1e-5)
    with pytest.raises(ValueError, match="weights names 3 teachers, the recipe has 2"):
        CommitteeTarget(weights=(1, 1, 1)).attach(context)


def test_a_row_that_one_teacher_did_not_score_is_taught_by_the_other() -> None:
    other = Signals({"click": torch.tensor([5.0, 5, 5])}, torch.tensor([1.0, 0, 0]))
    teacher = replace(said(Z_T), others=(other,))
    found = CommitteeTarget().attach(replace(ONE, num_teachers=2))(click(Z_S), teacher, three_rows())
    p = (sigmoid(1.0) + sigmoid(5.0)) / 2
    target = torch.tensor([math.log(p / (1 - p)), -1.0, 0.0])
    assert found.item() == pytest.approx(float(soft_divergence(CLICK, Z_S, target, 1.0).mean()), abs=1e-5)


def test_a_learned_gate_learns_from_labels_whom_to_believe() -> None:
    torch.manual_seed(0)
    loss = CommitteeTarget(gate="learned").attach(replace(ONE, num_teachers=2))
    y = torch.tensor([1.0, 0.0, 1.0])
    right, wrong = torch.where(y > 0, 3.0, -3.0), torch.where(y > 0, -3.0, 3.0)
    optimizer = torch.optim.SGD(loss.parameters(), lr=1.0)
    hidden = torch.randn(3, 8)
    student = Output({"click": Z_S}, {"backbone": hidden})
    for _ in range(60):
        optimizer.zero_grad()
        loss(student, replace(said(right), others=(said(wrong),)), three_rows()).backward()
        optimizer.step()
    assert torch.softmax(loss.gate(hidden), 1)[:, 0].min() > 0.8


def test_a_trajectory_ends_with_the_final_teacher() -> None:
    final, early, middle = (torch.full((3,), v) for v in (3.0, -1.0, 1.0))
    teacher = replace(said(final), others=(said(early), said(middle)))
    for progress, expected in ((0.0, early), (0.3, middle), (0.6, final), (1.0, final)):
        context = replace(ONE, num_teachers=3, progress=lambda p=progress: p)
        found = Trajectory(arrival=0.6).attach(context)(click(Z_S), teacher, three_rows())
        assert found.item() == pytest.approx(float(soft_divergence(CLICK, Z_S, expected, 1.0).mean()), abs=1e-4)


def test_continual_adds_the_previous_student() -> None:
    teacher = replace(said(Z_T), others=(said(-Z_T),))
    found = Continual(previous=0.5).attach(replace(ONE, num_teachers=2))(click(Z_S), teacher, three_rows())
    naive = soft_divergence(CLICK, Z_S, Z_T, 1.0).mean() + 0.5 * soft_divergence(CLICK, Z_S, -Z_T, 1.0).mean()
    assert found.item() == pytest.approx(float(naive), abs=1e-6)


def test_rocket_pulls_the_light_head_to_the_booster_and_never_the_other_way() -> None:
    torch.manual_seed(0)
    loss = Rocket(hint=2.0).attach(ONE)
    hidden, z_s = torch.randn(3, 8), Z_S.clone().requires_grad_()
    boosted = loss.booster(hidden)[:, 0]
    naive = F.binary_cross_entropy_with_logits(boosted, torch.tensor([1.0, 0, 1])) + 2 * (Z_S - boosted).square().mean()
    found = loss(Output({"click": z_s}, {"backbone": hidden}), said(Z_T), three_rows())
    assert found.item() == pytest.approx(naive.item(), abs=1e-5)
    (gradient,) = torch.autograd.grad(found, z_s)
    assert torch.allclose(gradient, 2 * 2 * (Z_S - boosted.detach()) / 3, atol=1e-6)


def test_uncertain_rows_count_less() -> None:
    strategy = UncertaintyWeighted(power=2.0)
    certainty = strategy.certainty(CLICK, torch.tensor([0.0, 2.0, 50.0]))
    p = sigmoid(2.0)
    entropy = -(p * math.log(p) + (1 - p) * math.log(1 - p))
    assert certainty.tolist() == pytest.approx([0.0, (1 - entropy / math.log(2)) ** 2, 1.0], abs=1e-5)
    batch = Batch(torch.zeros(3, 1), None, labels={"click": torch.tensor([1.0, math.nan, 1.0])})
    only = UncertaintyWeighted(unlabelled_only=True).attach(ONE)(click(Z_S), said(Z_T), batch)
    assert only.item() == pytest.approx(float(soft_divergence(CLICK, Z_S, Z_T, 1.0)[1]), abs=1e-5)


class Linear(torch.nn.Module):
    """A student of one table and no more: its logit is the sum of its vectors and of the dense columns."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = torch.nn.Parameter(torch.randn(64, 3, 4, generator=torch.Generator().manual_seed(0)))

    def forward(self, batch: Batch, on_embeddings: object = None) -> Output:
        vectors = self.vectors if on_embeddings is None else on_embeddings(self.vectors)
        return Output({"click": vectors.sum((1, 2)) + batch.dense.sum(1)})


def test_feature_dropout_zeroes_whole_features() -> None:
    student, batch = Linear(), sample_batch()
    teacher = Signals({"click": torch.zeros(64)}, torch.ones(64))
    context = replace(ONE, student=student)
    torch.manual_seed(3)
    kept = (torch.rand(64, 3) >= 0.5).float().unsqueeze(2)
    expected = soft_divergence(CLICK, (student.vectors * kept).sum((1, 2)) + batch.dense.sum(1), torch.zeros(64), 1.0).mean()
    torch.manual_seed(3)
    found = FeatureDropout(share=0.5).attach(context)(click(torch.zeros(64)), teacher, batch)
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)


def test_sequences_are_cropped_to_a_window_or_masked_and_never_emptied() -> None:
    lengths = torch.arange(1, 9).repeat(200)
    present = torch.arange(8)[None] < lengths[:, None]
    for crop, mask in ((0.5, 0.0), (1.0, 0.4), (0.5, 1.0)):
        kept = SequenceAugment(crop=crop, mask=mask).shorten(present)
        assert (kept <= present).all()
        assert (kept.sum(1) >= 1).all()
    cropped = SequenceAugment(crop=0.5, mask=0.0).shorten(present)
    shorter = cropped.sum(1) < lengths
    assert 0.3 < shorter[lengths > 1].float().mean() < 0.7  # a coin for each row
    assert torch.equal(cropped[shorter].sum(1), (0.5 * lengths[shorter]).ceil().long())
    edges = cropped[shorter].int().diff(dim=1).abs().sum(1) + cropped[shorter][:, 0].int()
    assert (edges <= 2).all()  # one window


def test_mix_up_mixes_inputs_and_the_teachers_probabilities_alike() -> None:
    student, batch = Linear(), sample_batch()
    z_t = torch.randn(64, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(4)
    share, other = float(torch.distributions.Beta(0.4, 0.4).sample()), torch.randperm(64)
    mixed = student(batch).logits["click"] * share + student(batch).logits["click"][other] * (1 - share)  # it is linear
    p = share * torch.sigmoid(z_t) + (1 - share) * torch.sigmoid(z_t)[other]
    expected = soft_divergence(CLICK, mixed, torch.logit(p), 1.0).mean()
    torch.manual_seed(4)
    found = MixUp().attach(replace(ONE, student=student))(
        click(torch.zeros(64)), Signals({"click": z_t}, torch.ones(64)), batch
    )
    assert found.item() == pytest.approx(expected.item(), abs=1e-4)


def test_adversarial_rows_are_worse_by_the_steepest_step() -> None:
    student, batch = Linear(), sample_batch()
    z_t = torch.randn(64, generator=torch.Generator().manual_seed(1))
    plain = soft_divergence(CLICK, student(batch).logits["click"], z_t, 1.0)
    found = Adversarial(epsilon=0.1).attach(replace(ONE, student=student))(
        click(torch.zeros(64)), Signals({"click": z_t}, torch.ones(64)), batch
    )
    z_s = student(batch).logits["click"].detach()
    sign = torch.sign(torch.sigmoid(z_s) - torch.sigmoid(z_t)).view(-1, 1, 1)
    lengths = student.vectors.detach().norm(dim=2, keepdim=True)
    moved = (
        student.vectors.detach() + 0.1 * lengths * sign * torch.ones(64, 3, 4) / 2
    )  # the gradient is constant over 4 entries
    expected = soft_divergence(CLICK, moved.sum((1, 2)) + batch.dense.sum(1), z_t, 1.0).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    assert found > plain.mean()


def test_a_rule_bends_the_teachers_odds_by_its_exponent() -> None:
    rule = torch.tensor([1.0, 0.0, -2.0])
    found = PosteriorRegularisation(strength=1.5).bend(CLICK, Z_T, rule)
    for row in range(3):
        p = sigmoid(float(Z_T[row]))
        weight = p * math.exp(1.5 * float(rule[row]))
        assert sigmoid(float(found[row])) == pytest.approx(weight / (weight + 1 - p), abs=1e-5)


def test_fairness_is_the_distance_of_the_groups_means() -> None:
    batch = three_rows(attributes={"group": torch.tensor([1.0, 0.0, 1.0])})
    found = Fairness().attach(ONE)(click(Z_S), said(Z_T), batch)
    assert found.item() == pytest.approx(abs((0.3 + 4.0) / 2 - -2.0))
    alone = three_rows(attributes={"group": torch.ones(3)})
    assert Fairness().attach(ONE)(click(Z_S), said(Z_T), alone) == 0
