"""Bags and sequences: means over what is there, position by position where a model asks, the same when exported."""

from __future__ import annotations

import pytest
import torch

from recstill.embeddings.batches import jagged, thinned
from recstill.embeddings.rounding import rounded, to_int8
from recstill.embeddings.tables import (
    TableOptimizer,
    export_inputs,
    load_portable_state,
    portable_state,
    round_tables,
    training_inputs,
)
from recstill.testing.samples import LABELS, NUM_DENSE, SLOTS, sample_rows

ROWS = sample_rows(12)
IDS = ROWS.ids.long()
SEEN, WORDS = slice(2, 5), slice(6, 10)


def tables(kind: str, expand: bool) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Training tables and the exported ones with the same weights."""
    torch.manual_seed(0)
    inputs = training_inputs(NUM_DENSE, SLOTS, LABELS, TableOptimizer(kind=kind))  # type: ignore[arg-type]
    training = torch.nn.ModuleDict({"tables": inputs.tables(4, expand=expand)}).eval()
    exported = torch.nn.ModuleDict({"tables": export_inputs(NUM_DENSE, SLOTS, LABELS).tables(4, expand=expand)})
    load_portable_state(exported, portable_state(training))
    return training["tables"], exported["tables"]


@pytest.mark.parametrize("kind", ["rowwise-adagrad", "adam"])
@pytest.mark.parametrize("expand", [False, True])
def test_exported_tables_say_what_training_tables_say(kind: str, expand: bool) -> None:
    training, exported = tables(kind, expand)
    sparse = jagged(IDS, SLOTS)
    assert torch.allclose(training(sparse), exported(IDS), atol=1e-6)
    assert torch.equal(training.present(sparse), exported.present(IDS))


def test_a_bag_is_the_mean_of_its_vectors_and_nothing_where_it_is_empty() -> None:
    _, exported = tables("adam", False)
    vectors = exported(IDS)
    for row in range(len(IDS)):
        for place, columns, slot in ((2, SEEN, SLOTS[2]), (4, WORDS, SLOTS[4])):
            ids = [i for i in IDS[row, columns].tolist() if i]
            start = {"item": 20, "words": 55}[slot.table]
            naive = exported.embedding.weight[[start + i for i in ids]].mean(0) if ids else torch.zeros(4)
            assert torch.allclose(vectors[row, place], naive, atol=1e-6)


def test_thinning_takes_positions_of_sequences_and_nothing_else() -> None:
    training, _ = tables("rowwise-adagrad", True)
    sparse = jagged(IDS, SLOTS)
    first_gone = thinned(sparse, SLOTS, lambda present: present & (torch.arange(3) > 0))
    ids = IDS.clone()
    ids[:, 2] = 0
    assert torch.equal(training(first_gone), training(jagged(ids, SLOTS)))
    assert torch.equal(training(thinned(sparse, SLOTS, lambda present: present)), training(sparse))


def test_eight_bits_are_off_by_half_a_step_and_pass_gradients() -> None:
    rows = torch.randn(50, 8, requires_grad=True)
    values, scale = to_int8(rows.detach())
    assert values.dtype == torch.int8
    step = rows.detach().abs().amax(1, keepdim=True) / 127
    assert ((values.float() * scale.float() - rows.detach()).abs() <= 0.6 * step).all()
    assert torch.equal(rounded(rows.detach()), values.float() * scale.float())
    rounded(rows).sum().backward()
    assert torch.equal(rows.grad, torch.ones(50, 8))
    assert torch.equal(rounded(torch.zeros(2, 4)), torch.zeros(2, 4))


def test_int8_tables_answer_alike_in_training_and_export() -> None:
    torch.manual_seed(0)
    inputs = training_inputs(NUM_DENSE, SLOTS, LABELS, TableOptimizer())
    training = torch.nn.ModuleDict({"tables": inputs.tables(4)}).eval()
    state = round_tables(training, portable_state(training), int8=True)
    assert state["tables.embedding.weight"].dtype == torch.int8
    exported = torch.nn.ModuleDict({"tables": export_inputs(NUM_DENSE, SLOTS, LABELS).tables(4)})
    load_portable_state(exported, state)
    assert torch.allclose(training["tables"](jagged(IDS, SLOTS)), exported["tables"](IDS), atol=1e-6)
