"""Rows that are drawn as training goes."""

from __future__ import annotations

import pytest
import torch

from recstill.api import LabelSpec, Slot
from recstill.embeddings.catalogue import Catalogue, CatalogueRows, ListSampler, Side
from recstill.embeddings.tables import (
    TableOptimizer,
    export_inputs,
    load_portable_state,
    portable_state,
    table_penalty,
    training_inputs,
)
from recstill.testing.samples import LABELS, NUM_DENSE, QUERY, SLOTS, sample_batch, sample_rows
from recstill.training.losses import ranking_loss, supervised_loss

SLOTS_2 = (Slot("user", "user", 4), Slot("item", "item", 6), Slot("kind", "kind", 3))


def catalogue() -> Catalogue:
    queries = Side(torch.tensor([[0.1], [0.2], [0.3]]), torch.tensor([[1], [2], [3]], dtype=torch.int32), [1], [0])
    dense = torch.arange(5.0).unsqueeze(1)
    items = Side(dense, torch.tensor([[i + 1, i % 3] for i in range(5)], dtype=torch.int32), [0], [1, 2])
    return Catalogue(queries, items, SLOTS_2, {"popularity": torch.tensor([9.0, 7, 5, 3, 1])})


def test_a_pair_has_the_columns_of_both_sides_in_their_places() -> None:
    batch = catalogue().pairs(torch.tensor([2, 0]), torch.tensor([4, 1]), {}, None)
    assert torch.allclose(batch.dense, torch.tensor([[4.0, 0.3], [1.0, 0.1]]))
    assert batch.sparse.values().view(3, 2).t().tolist() == [[3, 5, 1], [1, 2, 1]]
    assert batch.row_ids.tolist() == [14, 1]
    assert batch.attributes["popularity"].tolist() == [1.0, 7.0]
    assert [part.tolist() for part in catalogue().split(batch.row_ids)] == [[2, 0], [4, 1]]


def test_a_sweep_meets_every_query_and_every_item() -> None:
    seen = [catalogue().split(batch.row_ids) for batch in catalogue().sweep(batch_size=2)]
    assert torch.cat([queries for queries, _ in seen]).unique().tolist() == [0, 1, 2]
    assert torch.cat([items for _, items in seen]).tolist() == [0, 1, 2, 3, 4]


def rows(lists: ListSampler | None = None) -> CatalogueRows:
    positives = torch.tensor([[0, 0], [0, 1], [1, 2], [2, 3]])
    known = (positives[:, 0] * 5 + positives[:, 1]).sort().values
    return CatalogueRows(catalogue(), positives, known, "cited", negatives=2, lists=lists)


def test_negatives_follow_their_positive_and_are_no_known_items() -> None:
    torch.manual_seed(0)
    for _ in range(20):
        batch = rows().batch(torch.tensor([0, 3]))
        assert batch.labels["cited"].tolist() == [1, 0, 0, 1, 0, 0]
        assert batch.groups.tolist() == [0, 0, 0, 1, 1, 1]
        negatives = batch.row_ids[batch.labels["cited"] == 0]
        assert not set(negatives.tolist()) & set(rows().known.tolist())


def test_lists_come_behind_the_labels_with_the_teachers_items_first() -> None:
    torch.manual_seed(0)
    batch = rows(ListSampler(torch.tensor([[4, 2], [0, 1], [1, 0]]), queries=2, random=3)).batch(torch.tensor([0]))
    assert batch.labels["cited"][:3].tolist() == [1, 0, 0]
    assert torch.isnan(batch.labels["cited"][3:]).all()
    assert batch.groups[3:].tolist() == [1] * 5 + [2] * 5
    queries, items = catalogue().split(batch.row_ids[3:])
    top = {0: [4, 2], 1: [0, 1], 2: [1, 0]}
    assert items[:2].tolist() == top[int(queries[0])]
    assert items[5:7].tolist() == top[int(queries[5])]


def test_bpr_compares_each_positive_with_its_negatives() -> None:
    scores = torch.tensor([1.0, 0.0, 2.0, -1.0, 0.5, 0.5])
    labels, groups = torch.tensor([1.0, 0, 0, 1, 0, 0]), torch.tensor([0, 0, 0, 1, 1, 1])
    margins = torch.tensor([1.0, -1.0, -1.5, -1.5])
    assert torch.allclose(ranking_loss(scores, labels, groups), -torch.nn.functional.logsigmoid(margins).mean())
    with pytest.raises(ValueError, match="first row is the positive"):
        ranking_loss(scores, 1 - labels, groups)


def test_rows_without_a_label_take_no_part_in_the_label_loss() -> None:
    from dataclasses import replace

    from recstill.api import Output

    batch, logits = sample_batch(), {"click": torch.randn(64), "grade": torch.randn(64, 4), "amount": torch.randn(64)}
    blank = {name: values.clone() for name, values in batch.labels.items()}
    for values in blank.values():
        values[32:] = torch.nan
    half = supervised_loss(LABELS, Output({n: v[:32] for n, v in logits.items()}), sample_rows().batch(torch.arange(32)))
    assert torch.allclose(supervised_loss(LABELS, Output(logits), replace(batch, labels=blank)), half)
    none = {name: torch.full_like(values, torch.nan) for name, values in blank.items()}
    assert supervised_loss(LABELS, Output(logits), replace(batch, labels=none)) == 0


def test_an_epoch_by_group_keeps_lists_together() -> None:
    from dataclasses import replace

    grouped = replace(sample_rows(), by_group=True)
    order = grouped.order(torch.Generator().manual_seed(1))
    assert sorted(order.tolist()) == list(range(64))
    changes = (grouped.groups[order].diff() != 0).sum()
    assert changes == len(grouped.groups.unique()) - 1


def test_joined_rows_lack_the_labels_that_one_side_lacks() -> None:
    first, second = sample_rows(8), sample_rows(4)
    del second.labels["grade"]
    both = first.joined(second)
    assert len(both) == 12
    assert torch.isnan(both.labels["grade"][8:]).all()
    assert torch.equal(both.take(torch.tensor([9])).dense, second.dense[[1]])


def test_adam_tables_hold_the_same_weights_under_the_same_names_and_pull_on_seen_rows_only() -> None:
    optimizer = TableOptimizer(kind="adam", l2=0.5, init_std=0.1)
    inputs = training_inputs(NUM_DENSE, SLOTS, LABELS, optimizer, query=QUERY)
    tables, batch = torch.nn.Module(), sample_batch()
    tables.tables = inputs.tables(6)
    vectors = tables.tables.train()(batch.sparse)
    exported = torch.nn.Module()
    exported.tables = export_inputs(NUM_DENSE, SLOTS, LABELS, QUERY).tables(6)
    load_portable_state(exported, portable_state(tables))
    assert torch.equal(exported.tables(sample_rows().ids.long()), vectors)
    assert table_penalty(tables).item() == pytest.approx(0.25 * float(vectors.square().sum((1, 2)).mean()))
    tables.tables.frozen, tables.tables.penalty = True, None
    assert not tables.tables(batch.sparse).requires_grad
    with pytest.raises(ValueError, match="use rowwise-adagrad"):
        training_inputs(1, [Slot("a", "a", 10**8)], (LabelSpec(name="y", primary=True),), optimizer).tables(8)
