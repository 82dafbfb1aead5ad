"""Feature, attention, contrastive and relation strategies against naive loops written from their formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from recstill.api import Batch, LabelSpec, Output, Signals, StrategyContext
from recstill_strategies.attention import AttentionTransfer
from recstill_strategies.contrastive import ContrastiveRepresentation, InfoNCE
from recstill_strategies.feature import DistillationExperts, Hint, MultiLevel, VariationalInformation, propose_layer_map
from recstill_strategies.relation import (
    FullTopology,
    HierarchicalTopology,
    ProbabilisticTransfer,
    RelationalKD,
    SimilarityPreserving,
)

N, D_S, D_T = 7, 3, 5
GENERATOR = torch.Generator().manual_seed(0)
H_S, H_T = torch.randn(N, D_S, generator=GENERATOR), torch.randn(N, D_T, generator=GENERATOR)
CONTEXT = StrategyContext((LabelSpec(name="click", primary=True),), {"backbone": D_S}, {"backbone": D_T}, num_rows=N)
BATCH = Batch(torch.zeros(N, 1), None, row_ids=torch.arange(N))


def attach(strategy: object, context: StrategyContext = CONTEXT):
    torch.manual_seed(0)
    return strategy.attach(context)


def value(loss: object, mask: torch.Tensor | None = None, h_s: torch.Tensor = H_S) -> float:
    student = Output({"click": torch.zeros(N)}, {"backbone": h_s})
    mask = torch.ones(N) if mask is None else mask
    return loss(student, Signals({"click": torch.zeros(N)}, mask, {"backbone": H_T}), BATCH).item()


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / a.norm() / b.norm())


def test_hint_is_the_mean_squared_distance_of_the_projection() -> None:
    loss = attach(Hint())
    project = loss.parts[0].project
    rows = [sum(float(project(H_S[i])[c] - H_T[i, c]) ** 2 for c in range(D_T)) / D_T for i in range(N)]
    assert value(loss) == pytest.approx(sum(rows) / N, rel=1e-5)
    mask = torch.tensor([1.0, 0, 1, 0, 0, 0, 0])
    assert value(loss, mask) == pytest.approx((rows[0] + rows[2]) / 2, rel=1e-5)


def test_vid_learns_which_channels_to_trust() -> None:
    loss = attach(VariationalInformation(start_variance=5.0))
    part = loss.parts[0]
    variance = [math.log1p(math.exp(float(r))) + 1e-5 for r in part.rho]
    assert variance[0] == pytest.approx(5.0, rel=1e-3)
    naive = 0.0
    for i in range(N):
        mean = part.mean(H_S[i])
        naive += (
            sum(0.5 * (float(H_T[i, c] - mean[c]) ** 2 / variance[c] + math.log(variance[c])) for c in range(D_T)) / D_T / N
        )
    assert value(loss) == pytest.approx(naive, rel=1e-5)


def test_experts_are_weighted_by_a_softmax_that_sharpens() -> None:
    loss = attach(DistillationExperts(experts=3), replace(CONTEXT, progress=lambda: 0.5)).eval()
    part, tau = loss.parts[0], (1.0 * 0.1) ** 0.5
    naive = 0.0
    for i in range(N):
        gate = torch.softmax(torch.log_softmax(part.choose(H_T[i]), 0) / tau, 0)
        rebuilt = sum(gate[k] * part.experts[k](H_S[i]) for k in range(3))
        naive += float((rebuilt - H_T[i]).square().mean()) / N
    assert value(loss) == pytest.approx(naive, rel=1e-4)


def test_a_layer_map_is_proposed_by_depth_and_can_be_given() -> None:
    teacher = [f"layer{i}" for i in range(1, 12)] + ["backbone"]
    assert propose_layer_map(["layer1", "layer2", "layer3", "backbone"], teacher) == {
        "layer1": "layer3", "layer2": "layer6", "layer3": "layer9", "backbone": "backbone",
    }  # fmt: skip
    context = replace(CONTEXT, student_hidden={"a": D_S, "b": D_S}, teacher_hidden={"x": D_T, "y": D_T, "z": D_T})
    assert MultiLevel(layer_map={"a": "z"}).attach(context).pairs == [("a", "z")]
    weighted = MultiLevel(weights={"a": 3.0}).attach(context)
    assert weighted.weights == [0.75, 0.25]
    with pytest.raises(ValueError, match="weights name c"):
        MultiLevel(weights={"c": 1.0}).attach(context)
    with pytest.raises(ValueError, match="no hidden vector 'q'; it has x, y, z"):
        MultiLevel(layer_map={"a": "q"}).attach(context)


def test_attention_over_a_history_ignores_padding() -> None:
    looks_t = torch.tensor([[[0.5, 0.5, 0.0]], [[0.2, 0.3, 0.5]]])
    looks_s = torch.tensor([[[0.2, 0.3, 0.5]], [[0.2, 0.3, 0.5]]])
    context = replace(CONTEXT, student_attention={"fields": (1, 3)}, teacher_attention={"fields": (1, 3)})
    loss = AttentionTransfer().attach(context)
    student = Output({"click": torch.zeros(2)}, attention={"fields": looks_s})
    found = loss(student, Signals({}, torch.ones(2), attention={"fields": looks_t}), BATCH)
    shares = [0.2 / 0.5, 0.3 / 0.5]  # the student's weight on padding is taken away and the rest made whole
    naive = sum(0.5 * math.log(0.5 / share) for share in shares) / 2
    assert found.item() == pytest.approx(naive, abs=1e-6)
    with pytest.raises(ValueError, match="both must look at the same things"):
        AttentionTransfer().attach(replace(context, student_attention={"fields": (1, 4)}))


def test_attention_maps_are_compared_at_unit_length() -> None:
    a, b = torch.rand(N, 2, 4, generator=GENERATOR), torch.rand(N, 2, 4, generator=GENERATOR)
    context = replace(CONTEXT, student_attention={"fields": (2, 4)}, teacher_attention={"fields": (2, 4)})
    student = Output({"click": torch.zeros(N)}, attention={"fields": a})
    found = AttentionTransfer(form="maps").attach(context)(student, Signals({}, torch.ones(N), attention={"fields": b}), BATCH)
    naive = 0.0
    for i in range(N):
        maps = [[sum(float(x[i, h, l]) ** 2 for h in range(2)) / 2 for l in range(4)] for x in (a, b)]  # noqa: E741
        unit = [[v / math.sqrt(sum(w * w for w in m)) for v in m] for m in maps]
        naive += sum((p - q) ** 2 for p, q in zip(*unit, strict=True)) / N
    assert found.item() == pytest.approx(naive, abs=1e-6)


def test_info_nce() -> None:
    loss = attach(InfoNCE(dim=4, temperature=0.5))
    own, other = loss.heads(H_S, H_T)
    naive = 0.0
    for i in range(N):
        scores = [float(own[i] @ other[j]) / 0.5 for j in range(N)]
        naive -= math.log(math.exp(scores[i]) / (sum(math.exp(s) for s in scores) / N)) / N
    assert value(loss) == pytest.approx(naive, abs=1e-5)


def test_crd_is_noise_contrastive_estimation_on_both_sides() -> None:
    loss = attach(ContrastiveRepresentation(dim=4, negatives=3))
    own, other = loss.heads(H_S, H_T)
    banks = loss.own_bank.clone(), loss.other_bank.clone()
    torch.manual_seed(5)
    negatives = torch.randint(0, N, (3,))
    naive = 0.0
    for anchor, bank in ((own, banks[1]), (other, banks[0])):
        p = torch.exp(torch.cat([(anchor * bank).sum(1, keepdim=True), anchor @ bank[negatives].t()], 1) / 0.1)
        p = p / (p.mean() * N)
        noise = 3 / N
        naive -= float((torch.log(p[:, 0] / (p[:, 0] + noise)) + torch.log(noise / (p[:, 1:] + noise)).sum(1)).mean()) / 2
    torch.manual_seed(5)
    assert value(loss) == pytest.approx(naive, rel=1e-4)
    assert not torch.equal(loss.own_bank, banks[0]), "the bank follows"


def test_full_topology() -> None:
    naive = sum((cosine(H_S[i], H_S[j]) - cosine(H_T[i], H_T[j])) ** 2 for i in range(N) for j in range(N)) / N**2
    assert value(attach(FullTopology())) == pytest.approx(naive, abs=1e-6)


def test_topology_looks_at_no_more_entities_than_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(FullTopology, "relate", lambda self, own, other, part, context: seen.append(len(own)) or own.sum())
    loss = attach(FullTopology(entities=4))
    student = Output({"click": torch.zeros(500)}, {"backbone": torch.randn(500, D_S)})
    batch = Batch(torch.zeros(500, 1), None, row_ids=torch.arange(500))
    loss(student, Signals({}, torch.ones(500), {"backbone": torch.randn(500, D_T)}), batch)
    assert seen == [4]


def test_hierarchical_topology_from_its_own_assignment() -> None:
    loss = attach(HierarchicalTopology(groups=3, alpha=0.4)).eval()
    part = loss.part
    hard, rebuilt = part(H_S, H_T)
    groups = hard.argmax(1).tolist()
    members = {g: [i for i in range(N) if groups[i] == g] for g in sorted(set(groups))}
    proto = [{g: torch.stack([h[i] for i in rows]).mean(0) for g, rows in members.items()} for h in (H_S, H_T)]
    to_groups = [(cosine(H_S[i], proto[0][g]) - cosine(H_T[i], proto[1][g])) ** 2 for i in range(N) for g in members]
    inside = [(cosine(H_S[i], H_S[j]) - cosine(H_T[i], H_T[j])) ** 2 for rows in members.values() for i in rows for j in rows]
    topology = sum(to_groups) / len(to_groups) + sum(inside) / len(inside)
    naive = 0.4 * topology + 0.6 * float((rebuilt - H_T).square().mean())
    assert value(loss) == pytest.approx(naive, rel=1e-4)


def test_pkt_compares_rows_of_similarities() -> None:
    naive = 0.0
    for i in range(N):
        shares = [[(1 + cosine(h[i], h[j])) / 2 for j in range(N)] for h in (H_S, H_T)]
        q, p = ([v / sum(row) for v in row] for row in shares)
        naive += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / N
    assert value(attach(ProbabilisticTransfer())) == pytest.approx(naive, abs=1e-5)


def test_similarity_preserving_compares_gram_rows_of_length_one() -> None:
    naive = 0.0
    for i in range(N):
        rows = [[float(h[i] @ h[j]) for j in range(N)] for h in (H_S, H_T)]
        unit = [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in rows]
        naive += sum((a - b) ** 2 for a, b in zip(*unit, strict=True)) / N
    assert value(attach(SimilarityPreserving())) == pytest.approx(naive, abs=1e-5)


def test_rkd_distances_and_angles() -> None:
    scaled = []
    for h in (H_S, H_T):
        d = [[float((h[i] - h[j]).norm()) for j in range(N)] for i in range(N)]
        mean = sum(map(sum, d)) / (N * (N - 1))
        scaled.append([[v / mean for v in row] for row in d])
    distance = F.smooth_l1_loss(torch.tensor(scaled[0]), torch.tensor(scaled[1])).item()
    assert value(attach(RelationalKD(distance=2.0, angle=0.0))) == pytest.approx(2 * distance, abs=1e-4)
    angles = []
    for h in (H_S, H_T):
        found = torch.zeros(N, N, N)
        for i in range(N):
            for j in range(N):
                for k in range(N):
                    a, b = h[j] - h[i], h[k] - h[i]
                    if a.norm() > 0 and b.norm() > 0:
                        found[i, j, k] = cosine(a, b)
        angles.append(found)
    angle = F.smooth_l1_loss(*angles).item()
    assert value(attach(RelationalKD(distance=0.0, angle=3.0))) == pytest.approx(3 * angle, abs=1e-4)


@pytest.mark.parametrize("strategy", [FullTopology(), ProbabilisticTransfer(), SimilarityPreserving(), RelationalKD()])
def test_a_student_with_the_teachers_geometry_loses_nothing(strategy: object) -> None:
    context = replace(CONTEXT, student_hidden={"backbone": D_T})
    rotated = H_T @ torch.linalg.qr(torch.randn(D_T, D_T, generator=GENERATOR)).Q
    assert value(attach(strategy, context), h_s=rotated) == pytest.approx(0.0, abs=1e-5)
