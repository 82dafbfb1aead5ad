"""Every bundled model reads a table without categories, without numbers, of one column: trained, exported, explained."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
import torch

from recstill.api import LabelSpec, Slot
from recstill.data.transform import Encoded
from recstill.embeddings.batches import TensorRows
from recstill.embeddings.tables import (
    TableOptimizer,
    export_inputs,
    load_portable_state,
    portable_state,
    training_inputs,
)
from recstill.export.attribution import export_attributions, mean_row
from recstill.export.graph import Layout, ServingGraph, export_graph
from recstill.recipes.columns import reads_columns
from recstill.recipes.platform import Platform
from recstill.settings import Settings
from recstill.training.config import TrainingConfig
from recstill.training.loop import fit
from recstill.training.losses import supervised_loss

if TYPE_CHECKING:
    from pathlib import Path

LABELS = (LabelSpec(name="click", primary=True), LabelSpec(name="buy"))
SHOP, CITY = Slot("shop", "shop", 9), Slot("city", "city", 5)
# Dense columns by feature, slots, and which of both are the query's.
TABLES: dict[str, tuple[tuple[str, ...], tuple[Slot, ...], tuple[list[int], list[int]]]] = {
    "numbers": (("age", "age", "income", "income", "income"), (), ([0, 1], [])),
    "categories": ((), (SHOP, CITY), ([], [0])),
    "one number": (("age", "age"), (), ([], [])),
    "one category": ((), (SHOP,), ([], [])),
}
_WHOLLY = ("small-mlp", "additive", "small-din", "small-dlrm", "two-tower")
_EXPLAINED = ("small-mlp", "small-din", "small-dlrm", "small-autoint")
SMALL: dict[str, dict[str, Any]] = {
    "dcnv2": {"dim": 4, "hidden": [8]}, "dlrm": {"dim": 4, "bottom": [8], "top": [8]}, "mmoe": {"experts": 2, "expert": [8]},
    "ple": {"shared": 1, "own": 1, "expert": [8]}, "din": {"dim": 4, "hidden": [8]},
}  # fmt: skip


def cases() -> list[tuple[str, str, str]]:
    """Every class of model that reads encoded rows, once (a small student is a large teacher of other sizes), and two tables;
    the models that treat numbers and categories most differently, and all tables."""
    platform = Platform.open(Settings.from_environment())
    students = platform.catalog("students")
    found = {("students", name): factory for name, factory in students.items()}
    for name, factory in platform.catalog("teachers").items():
        if not reads_columns(factory) and not any(issubclass(student, factory) for student in students.values()):
            found["teachers", name] = factory
    pairs = [(*model, table) for model in sorted(found) for table in ("numbers", "one category")]
    return pairs + [("students", name, table) for name in _WHOLLY for table in ("categories", "one number")]


def rows_of(names: tuple[str, ...], slots: tuple[Slot, ...], count: int = 64) -> TensorRows:
    random = np.random.default_rng(0)
    dense = random.uniform(-1, 1, size=(count, len(names))).astype(np.float32)
    ids = [random.integers(0, slot.num_rows, (count, 1)) for slot in slots]
    encoded = Encoded(dense, np.concatenate(ids, 1) if ids else np.zeros((count, 0), np.int64))
    told = dense[:, 0] > 0 if names else encoded.ids[:, 0] % 2
    labels = {label.name: np.asarray(told, np.float32) for label in LABELS}
    return TensorRows.build(encoded, slots, labels, np.arange(count), np.zeros(count, np.int64))


def asked(session: onnxruntime.InferenceSession, parts: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Ask a graph as a server does: what it does not read is left out of it."""
    return session.run(None, {entry.name: parts[entry.name] for entry in session.get_inputs()})


@pytest.mark.parametrize(("kind", "name", "table"), cases())
def test_every_model_reads_a_table_of_any_shape(kind: str, name: str, table: str, tmp_path: Path) -> None:
    factory = Platform.open(Settings.from_environment()).catalog(kind)[name]
    names, slots, (query_dense, query_slots) = TABLES[table]
    query = (tuple(query_dense), tuple(query_slots))

    def build(inputs: Any) -> Any:
        torch.manual_seed(0)
        return factory(inputs, **SMALL.get(name, {}))

    training = training_inputs(len(names), slots, LABELS, TableOptimizer(), query=query, dense_names=names)
    if name == "two-tower" and table.startswith("one"):
        with pytest.raises(ValueError, match="needs features of the query and of the item"):
            build(training)
        return
    model, rows = build(training), rows_of(names, slots)
    config = TrainingConfig(epochs=6, batch_size=16, bf16=False, warmup_steps=0, learning_rate=0.02, patience=100)
    history = fit(model, rows, lambda o, b: supervised_loss(LABELS, o, b), config, seed=0, evaluate=lambda _: {"score": 0.0})
    assert history.epochs[-1]["loss"] < history.epochs[0]["loss"]

    exported = build(export_inputs(len(names), slots, LABELS, query, names))
    load_portable_state(exported, portable_state(model))
    layout = Layout(
        query_dense, query_slots,
        [place for place in range(len(names)) if place not in query_dense],
        [place for place in range(len(slots)) if place not in query_slots],
    )  # fmt: skip
    export_graph(exported, layout, LABELS, tmp_path)
    some = rows.take(torch.arange(9))
    dense, ids = some.dense, some.ids.long()
    dense[:, query_dense], ids[:, query_slots] = dense[:1, query_dense], ids[:1, query_slots]
    parts = {
        "query_dense": dense[:1, query_dense], "query_ids": ids[:1, query_slots],
        "item_dense": dense[:, layout.item_dense], "item_ids": ids[:, layout.item_slots],
    }  # fmt: skip
    answered = asked(
        onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"]),
        {key: part.numpy() for key, part in parts.items()},
    )
    with torch.no_grad():
        expected = ServingGraph(exported.eval(), layout, LABELS)(*parts.values())
        trained = model.eval()(rows_with(rows, dense, ids).batch(torch.arange(9))).logits
    for got, want, label in zip(answered, expected, LABELS, strict=False):
        assert got.shape == (9,)
        assert np.allclose(got, want.numpy(), atol=1e-5)
        assert np.allclose(got, torch.sigmoid(trained[label.name]).numpy(), atol=1e-5)
    if name in _EXPLAINED:
        explained(exported, layout, rows, names, slots, parts, tmp_path)


def rows_with(rows: TensorRows, dense: torch.Tensor, ids: torch.Tensor) -> TensorRows:
    return replace(rows.take(torch.arange(len(dense))), dense=dense, ids=ids.int())


def explained(
    model: Any, layout: Layout, rows: TensorRows, names: tuple, slots: tuple, parts: dict[str, torch.Tensor], folder: Path
) -> None:
    """Reasons add up to the difference from the mean row."""
    baseline = mean_row(model, rows.dense, rows.ids.long())
    features = export_attributions(model, layout, "click", baseline, names, slots, folder)
    session = onnxruntime.InferenceSession(folder / "attribution.onnx", providers=["CPUExecutionProvider"])
    (found,) = asked(session, {key: part.numpy() for key, part in parts.items()})
    assert found.shape == (9, len(features))
    with torch.no_grad():
        said = ServingGraph(model, layout, LABELS)(*parts.values())[0]
    moved = torch.logit(said) - baseline.logit(model, "click")
    assert np.allclose(found.sum(1), moved.numpy(), atol=0.05)
