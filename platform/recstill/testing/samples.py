"""A tiny task with every kind of label, and rows for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from recstill.api.batch import Batch, Signals
from recstill.api.models import ModelInputs, Slot
from recstill.api.task import LabelSpec
from recstill.data.transform import Encoded
from recstill.embeddings.batches import TensorRows
from recstill.embeddings.tables import TableOptimizer, export_inputs, training_inputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

LABELS = (
    LabelSpec(name="click", primary=True),
    LabelSpec(name="grade", kind="multiclass", num_classes=4),
    LabelSpec(name="amount", kind="count"),
)
SLOTS = (
    Slot("user", "user", 20),
    Slot("item", "item", 30),
    Slot("seen", "item", 30, 3, "sequence"),
    Slot("brand", "brand", 5),
    Slot("words", "words", 12, 4, "bag"),
)
NUM_DENSE = 6
NAMES = ("price", "price", "price", "age", "age", "age")
QUERY = ((1, 4), (0, 2))


def inputs_for_training() -> ModelInputs:
    """Return inputs with fused tables."""
    return training_inputs(NUM_DENSE, SLOTS, LABELS, TableOptimizer(), query=QUERY, dense_names=NAMES)


def inputs_for_export() -> ModelInputs:
    """Return inputs with the concatenated table."""
    return export_inputs(NUM_DENSE, SLOTS, LABELS, QUERY, NAMES)


def sample_rows(
    num_rows: int = 64, seed: int = 0, names: tuple[str, ...] = NAMES, slots: tuple[Slot, ...] = SLOTS
) -> TensorRows:
    """Return rows whose click depends on their first dense column, so that there is something to learn.

    names, slots: what the rows have; without names they have no dense columns, without slots no ids.
    """
    random = np.random.default_rng(seed)
    dense = random.normal(size=(num_rows, NUM_DENSE)).astype(np.float32)
    parts = [np.zeros((num_rows, 0), np.int64), *(_ids(slot, num_rows, random) for slot in slots)]
    ids = np.concatenate(parts, 1)
    labels = {
        "click": (dense[:, 0] > 0).astype(np.float32),
        "grade": random.integers(0, 4, num_rows).astype(np.float32),
        "amount": random.poisson(2.0, num_rows).astype(np.float32),
    }
    attributes = {
        "popularity": random.integers(1, 100, num_rows).astype(np.float32),
        "rule": random.normal(size=num_rows).astype(np.float32),
        "group": (np.arange(num_rows) % 2).astype(np.float32),
    }
    groups = np.where(np.arange(num_rows) < num_rows - 4, np.arange(num_rows) // 8, -1)
    return TensorRows.build(Encoded(dense[:, : len(names)], ids), slots, labels, np.arange(num_rows), groups, attributes)


def _ids(slot: Slot, num_rows: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return (N, width) ids; bags and sequences have from none to `width` of them."""
    if slot.kind == "id":
        return random.integers(0, slot.num_rows, (num_rows, 1))
    lengths = random.integers(0, slot.width + 1, num_rows)
    ids = random.integers(1, slot.num_rows, (num_rows, slot.width))
    return np.where(np.arange(slot.width)[None] < lengths[:, None], ids, 0)


def sample_batch(num_rows: int = 64) -> Batch:
    """Return the rows as one batch."""
    return sample_rows(num_rows).batch(torch.arange(num_rows))


def sample_signals(num_rows: int = 64, seed: int = 1) -> Signals:
    """Return a teacher's logits for the rows, every tenth row masked."""
    random = torch.Generator().manual_seed(seed)
    mask = torch.ones(num_rows)
    mask[::10] = 0
    logits = {
        "click": torch.randn(num_rows, generator=random),
        "grade": torch.randn(num_rows, 4, generator=random),
        "amount": torch.randn(num_rows, generator=random),
    }
    return Signals(logits, mask)
