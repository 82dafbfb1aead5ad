"""The rankers conform, and the formulas are the papers'."""

from __future__ import annotations

import pytest
import torch

from recstill.embeddings.tables import export_inputs, load_portable_state, portable_state
from recstill.testing import assert_passed, check_student, check_teacher
from recstill.testing.samples import LABELS, NUM_DENSE, SLOTS, inputs_for_export, inputs_for_training, sample_batch, sample_rows
from recstill_rankers.dcn import CrossLayer, DCNv2, SmallDCN
from recstill_rankers.dlrm import DLRM
from recstill_rankers.mlp import SmallMLP
from recstill_rankers.two_tower import TwoTower


@pytest.mark.parametrize(
    ("factory", "options"), [(DCNv2, {"hidden": [16], "dim": 8}), (DCNv2, {"rank": 4}), (DLRM, {"top": [16]})]
)
def test_teachers_conform(factory: type, options: dict[str, object]) -> None:
    assert_passed(check_teacher(factory, **options))


@pytest.mark.parametrize("factory", [SmallMLP, SmallDCN, TwoTower])
def test_students_conform(factory: type) -> None:
    assert_passed(check_student(factory))


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
