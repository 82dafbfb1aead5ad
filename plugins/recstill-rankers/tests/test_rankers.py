"""The rankers conform, and the formulas are the papers'."""

from __future__ import annotations

import pytest
import torch

from recstill.api import LabelSpec
from recstill.embeddings.tables import TableOptimizer, export_inputs, load_portable_state, portable_state, training_inputs
from recstill.testing import assert_passed, check_student, check_teacher
from recstill.testing.samples import LABELS, NUM_DENSE, SLOTS, inputs_for_export, inputs_for_training, sample_batch, sample_rows
from recstill_rankers import register_students, register_teachers
from recstill_rankers.dcn import CrossLayer, DCNv2, SmallDCN
from recstill_rankers.din import DIN
from recstill_rankers.dlrm import DLRM
from recstill_rankers.mlp import SmallMLP
from recstill_rankers.multitask import ESMM, PLE, MMoE, SharedBottom
from recstill_rankers.two_tower import TwoTower

SMALL = {"dcnv2": {"hidden": [16], "dim": 8}, "dlrm": {"top": [16]}}


@pytest.mark.parametrize("name", register_teachers())
def test_teachers_conform(name: str) -> None:
    assert_passed(check_teacher(register_teachers()[name], **SMALL.get(name, {})))


@pytest.mark.parametrize("name", register_students())
def test_students_conform(name: str) -> None:
    assert_passed(check_student(register_students()[name]))


def test_low_rank_cross_layers_conform() -> None:
    assert_passed(check_teacher(DCNv2, rank=4))


def test_an_mmoe_gate_weighs_experts_by_a_softmax() -> None:
    model, batch = MMoE(inputs_for_training(), dim=4, experts=3, expert=[5], tower=[]).eval(), sample_batch(6)
    inputs = model.embed(batch)
    experts = torch.stack([torch.relu(body.linears[0](inputs)) for body in model.experts.bodies], 1)
    weights = torch.exp(model.gates["click"](inputs))
    naive = sum(weights[:, [k]] / weights.sum(1, keepdim=True) * experts[:, k] for k in range(3))
    assert torch.allclose(model(batch).hidden["gated_click"], naive, atol=1e-5)


def test_ple_towers_read_their_own_and_the_shared_experts_only() -> None:
    model, batch = PLE(inputs_for_training(), dim=4, levels=1, tower=[]).eval(), sample_batch(6)
    before = model(batch).logits["click"]
    with torch.no_grad():
        for parameter in model.levels[0]["own_amount"].parameters():
            parameter.add_(1.0)
    after = model(batch).logits
    assert torch.equal(before, after["click"])


def test_esmm_serves_the_product_of_both_probabilities() -> None:
    labels = (LABELS[0], LabelSpec(name="convert"))
    inputs = training_inputs(NUM_DENSE, SLOTS, labels, TableOptimizer())
    model, batch = ESMM(inputs, first="click", after="convert").eval(), sample_batch(9)
    plain = SharedBottom.forward(model, batch).logits
    expected = torch.sigmoid(plain["click"]) * torch.sigmoid(plain["convert"])
    assert torch.allclose(torch.sigmoid(model(batch).logits["convert"]), expected, atol=1e-6)
    with pytest.raises(ValueError, match="must be binary labels: click, convert"):
        ESMM(inputs, first="click", after="amount")


def test_a_two_towers_logit_is_the_dot_product_of_its_vectors() -> None:
    output = TwoTower(inputs_for_training(), dim=8, hidden=[16])(sample_batch())
    assert torch.allclose(output.logits["click"], (output.hidden["query"] * output.hidden["item"]).sum(1))


def test_a_cross_layer_is_x0_times_wx_plus_b_plus_x() -> None:
    layer, x0, x = CrossLayer(3, 0), torch.randn(2, 3), torch.randn(2, 3)
    naive = torch.stack([x0[i] * (layer.weight.weight @ x[i] + layer.weight.bias) + x[i] for i in range(2)])
    assert torch.allclose(layer(x0, x), naive, atol=1e-6)


def test_dlrm_uses_every_pair_of_vectors_once() -> None:
    model = DLRM(inputs_for_training(), dim=4)
    num_vectors = len(SLOTS) + 1
    assert len(model.pairs) == num_vectors * (num_vectors - 1) // 2
    assert len(set(model.pairs.tolist())) == len(model.pairs)


@pytest.mark.parametrize("factory", [DCNv2, DLRM, SmallMLP, SmallDCN, TwoTower])
def test_the_same_definition_trains_and_exports_with_the_same_answers(factory: type) -> None:
    trained = factory(inputs_for_training()).eval()
    exported = factory(inputs_for_export()).eval()
    load_portable_state(exported, portable_state(trained))
    batch, ids = sample_batch(), sample_rows().ids.long()
    from dataclasses import replace

    for label, logits in trained(batch).logits.items():
        assert torch.allclose(logits, exported(replace(batch, sparse=ids)).logits[label], atol=1e-6)


def test_dim_that_fused_tables_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        SmallMLP(inputs_for_training(), dim=6)
    assert SmallMLP(export_inputs(NUM_DENSE, SLOTS, LABELS), dim=6) is not None


def test_din_weighs_what_is_there_by_the_candidate_and_never_padding() -> None:
    model, batch = DIN(inputs_for_training(), dim=4, attention=[5]).eval(), sample_batch(12)
    assert model.targets == {"seen": "item"}
    looks, present = model(batch).attention["seen"], model.tables.present(batch.sparse)[:, model.places["seen"]]
    assert (looks[:, 0][present == 0] == 0).all()
    there = present.sum(1) > 0
    assert torch.allclose(looks[there].sum((1, 2)), torch.ones(int(there.sum())), atol=1e-6)
    vectors = model.tables(batch.sparse)
    row = int(present.sum(1).argmax())
    candidate, history = vectors[row, 1], vectors[row, model.places["seen"]][present[row] > 0]
    attention = model.attention["seen"]
    pairs = [torch.cat([k, candidate, k - candidate, k * candidate]) for k in history]
    scores = torch.stack([attention.score(attention.body(pair[None])) for pair in pairs]).flatten()
    assert torch.allclose(looks[row, 0][present[row] > 0], torch.softmax(scores, 0), atol=1e-6)
