"""Pruning removes what matters least, and an adapter starts as nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recstill.embeddings.tables import load_portable_state, portable_state
from recstill.testing.samples import inputs_for_training, sample_batch
from recstill_rankers.dlrm import SmallDLRM
from recstill_rankers.heads import AdaptedLinear, Body
from recstill_rankers.mlp import SmallMLP


def test_a_unit_weighs_what_it_reads_times_what_is_read_of_it() -> None:
    body, reader = Body(3, [4], 0.0), nn.Linear(4 + 2, 1)
    with torch.no_grad():
        body.linears[0].weight.copy_(torch.diag(torch.tensor([1.0, 2, 3, 4]))[:, :3] + 0.01)
        reader.weight.copy_(torch.tensor([[0.0, 0, 9.0, 1.0, 0.1, 1.0]]))
    kept = body.linears[0].weight[[0, 1]].clone(), reader.weight[:, [0, 1, 2, 3]].clone()
    assert body.narrow(0.5, reader, offset=2) == [2]
    assert torch.equal(body.linears[0].weight, kept[0])
    assert torch.equal(reader.weight, kept[1])


@pytest.mark.parametrize(("factory", "options"), [(SmallMLP, {"hidden": [16, 8]}), (SmallDLRM, {"top": [16, 8]})])
def test_the_options_that_pruning_returns_build_a_model_of_the_same_answers(
    factory: type, options: dict[str, list[int]]
) -> None:
    model, batch = factory(inputs_for_training(), **options), sample_batch()
    before = sum(p.numel() for p in model.parameters())
    left = model.prune(0.25)
    assert list(left.values()) == [[12, 6]]
    again = factory(inputs_for_training(), **{**options, **left})
    load_portable_state(again, portable_state(model))
    for label, logits in model.eval()(batch).logits.items():
        assert torch.equal(logits, again.eval()(batch).logits[label])
    assert sum(p.numel() for p in again.parameters()) < before


def test_pruning_nothing_of_weight_changes_next_to_nothing() -> None:
    model, batch = SmallMLP(inputs_for_training(), hidden=[8]), sample_batch()
    with torch.no_grad():
        model.heads.linear.weight[:, [1, 4]] = 0.0
    before = model.eval()(batch).logits["click"]
    model.prune(0.25)
    assert torch.allclose(model(batch).logits["click"], before, atol=1e-6)


def test_an_adapter_starts_as_nothing_and_learns_a_correction_of_its_rank() -> None:
    torch.manual_seed(0)
    layer, inputs = AdaptedLinear(6, 5, rank=2), torch.randn(7, 6)
    assert torch.equal(layer(inputs), nn.functional.linear(inputs, layer.weight, layer.bias))
    with torch.no_grad():
        layer.up.normal_()
    correction = layer(inputs) - nn.functional.linear(inputs, layer.weight, layer.bias)
    assert torch.linalg.matrix_rank(correction) == 2
